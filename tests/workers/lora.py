"""LoRA adapters of the demo model in both formats, and the demo model with them merged in."""

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.workers.conftest import DEMO_FOLDER, DEMO_MODEL
from tests.workers.folders import write_json

Matrix: TypeAlias = NDArray[np.float32]

#: What a matrix is called in each format.
NAMES = {
    "token_embd": "model.embed_tokens",
    **{
        f"blk.{layer}.{short}": f"model.layers.{layer}.{long}"
        for layer in range(6)
        for short, long in (("attn_q", "self_attn.q_proj"), ("ffn_down", "mlp.down_proj"))
    },
}

RANK = 4
ALPHA = 8.0


class Change(NamedTuple):
    """The two halves of the change of a matrix: ``up @ down`` is what is added."""

    down: Matrix
    up: Matrix


@functools.cache
def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Rows and columns of a model's matrices."""
    return {
        tensor.name.removesuffix(".weight"): tuple(map(int, tensor.shape[::-1]))
        for tensor in gguf.GGUFReader(path).tensors
    }


def changes(
    *names: str, seed: int = 1, rank: int = RANK, of: Path = DEMO_MODEL
) -> dict[str, Change]:
    """Changes that are large enough to be seen."""
    rng = np.random.default_rng(seed)
    made: dict[str, Change] = {}
    for name in names:
        rows, columns = shapes(of)[name]
        down, up = rng.normal(0, 0.3, (rank, columns)), rng.normal(0, 0.3, (rows, rank))
        made[name] = Change(down.astype(np.float32), up.astype(np.float32))
    return made


def merged(*parts: tuple[Mapping[str, Change], float]) -> dict[str, Matrix]:
    """What adapters add to each matrix, given how strongly: ``scale * alpha / rank * B @ A``."""
    total: dict[str, Matrix] = {}
    for made, scale in parts:
        for name, change in made.items():
            added = np.float32(scale * ALPHA / len(change.down)) * (change.up @ change.down)
            total[name] = total.get(name, np.float32(0)) + added
    return total


def write_adapter(engine: str, path: Path, made: Mapping[str, Change], **options: Any) -> Path:
    """Write an adapter for an engine."""
    write = write_gguf_adapter if engine == "llama_cpp" else write_mlx_adapter
    return write(path, made, **options)


def write_gguf_adapter(
    path: Path,
    made: Mapping[str, Change],
    *,
    architecture: str = "qwen3",
    general: str = "adapter",
    kind: str = "lora",
    **values: Any,
) -> Path:
    """Write what llama.cpp's converter writes; the values are more metadata."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(general)
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for key, value in values.items():
        name = key.replace("__", ".")
        writer.kv_data[0].pop(name, None)
        writer.add_key_value(name, *value)
    for name, change in made.items():
        # Of a table of rows, such as the embeddings, the converter keeps the halves turned round.
        halves = (change.up, change.down.T) if name == "token_embd" else change
        for half, values_of_half in zip("ab", halves, strict=True):
            writer.add_tensor(f"{name}.weight.lora_{half}", np.ascontiguousarray(values_of_half))
    return _written(writer, path)


def write_mlx_adapter(path: Path, made: Mapping[str, Change], **config: Any) -> Path:
    """Write what mlx_lm.lora writes; the rest goes into the configuration."""
    from safetensors.numpy import save_file

    ranks = {len(change.down) for change in made.values()} or {RANK}
    long = [NAMES[name] for name in made]
    keys = sorted({name.split(".", 3)[-1] if ".layers." in name else name for name in long})
    parameters = {"rank": min(ranks), "scale": ALPHA / min(ranks), "dropout": 0.5, "keys": keys}
    path.mkdir()
    settings = {"fine_tune_type": "lora", "num_layers": 6, "lora_parameters": parameters, **config}
    write_json(path / "adapter_config.json", settings)
    tensors: dict[str, Any] = {}
    for name, (down, up) in made.items():
        # A table of rows is looked up by row, so its halves are kept the other way round.
        halves = (up, down) if name == "token_embd" else (down.T, up.T)
        for half, values in zip("ab", halves, strict=True):
            tensors[f"{NAMES[name]}.lora_{half}"] = np.ascontiguousarray(values)
    save_file(tensors, path / "adapters.safetensors")
    return path


def write_demo(engine: str, path: Path, added: Mapping[str, Matrix]) -> Path:
    """Write the demo model with its matrices in single precision, and something added to them."""
    return (_write_gguf_demo if engine == "llama_cpp" else _write_mlx_demo)(path, added)


def _write_gguf_demo(path: Path, added: Mapping[str, Matrix]) -> Path:
    reader = gguf.GGUFReader(DEMO_MODEL)
    writer = gguf.GGUFWriter(path, "qwen3")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind, *of = field.types
            writer.add_key_value(name, field.contents(), kind, of[-1] if of else None)
    for tensor in reader.tensors:
        name = tensor.name.removesuffix(".weight")
        data = np.array(tensor.data)
        if name in NAMES:
            data = data.astype(np.float32) + added.get(name, np.float32(0))
        writer.add_tensor(tensor.name, data)
    return _written(writer, path)


def _write_mlx_demo(path: Path, added: Mapping[str, Matrix]) -> Path:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(DEMO_FOLDER, path)
    tensors = load_file(path / "model.safetensors")
    for short, long in NAMES.items():
        weights = tensors[f"{long}.weight"].astype(np.float32)
        tensors[f"{long}.weight"] = weights + added.get(short, np.float32(0))
    save_file(tensors, path / "model.safetensors", metadata={"format": "mlx"})
    return path


def configured(path: Path, **members: Any) -> None:
    """Change the configuration of an adapter for MLX."""
    file = path / "adapter_config.json"
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **members})


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
