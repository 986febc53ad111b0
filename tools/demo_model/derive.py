"""Derive the other model files from the F16 GGUF: ``tiny-chat-Q8_0.gguf`` and ``mlx/``.

Everything comes from the GGUF itself: weights, vocabulary, merges, chat template, sizes. The
output is the same byte for byte on every machine and is checked against ``manifest.json``. Needs
gguf, numpy and safetensors only, because the build of the wheel runs it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray
from safetensors.numpy import save

DEMO = Path(__file__).resolve().parents[2] / "car_rpc" / "data" / "demo"
SOURCE = "tiny-chat-F16.gguf"
QUANTIZED = "tiny-chat-Q8_0.gguf"
MANIFEST = "manifest.json"

#: Qwen2's split expression, which llama.cpp calls the pre-tokenizer "qwen2".
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MLX_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


class Mismatch(Exception):
    """A file is missing or does not have the recorded hash."""


def quantize(reader: GGUFReader, out: Path) -> None:
    """The same model with 8-bit matrices (Q8_0: blocks of 32 values with one F16 scale)."""
    writer = GGUFWriter(out, "qwen3")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        if name == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_Q8_0)
        sub = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub)
    for tensor in reader.tensors:
        data = np.asarray(tensor.data)
        if tensor.tensor_type == GGMLQuantizationType.F16:
            kind = GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(data.astype(np.float32), kind)
            writer.add_tensor(tensor.name, packed, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _mlx_name(name: str) -> str | None:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    if name.startswith("blk."):
        _, index, part, _ = name.split(".")
        return f"model.layers.{index}.{MLX_NAMES[part]}.weight"
    return None  # the reranker's rows: MLX reads them from the embedding


def weights(reader: GGUFReader) -> bytes:
    """``model.safetensors``, all in F16 (the vectors hold F16 values already)."""
    tensors: dict[str, NDArray[Any]] = {}
    for tensor in reader.tensors:
        name = _mlx_name(tensor.name)
        if name:
            tensors[name] = np.ascontiguousarray(tensor.data).astype(np.float16)
    return save(tensors, {"format": "mlx"})


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    if field is None:
        raise Mismatch(f"{SOURCE} has no {name}")
    return field.contents()


def config(reader: GGUFReader) -> dict[str, Any]:
    """``config.json`` as transformers and mlx-lm read it."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": _field(reader, "qwen3.embedding_length"),
        "num_hidden_layers": _field(reader, "qwen3.block_count"),
        "intermediate_size": _field(reader, "qwen3.feed_forward_length"),
        "num_attention_heads": _field(reader, "qwen3.attention.head_count"),
        "num_key_value_heads": _field(reader, "qwen3.attention.head_count_kv"),
        "head_dim": _field(reader, "qwen3.attention.key_length"),
        "vocab_size": len(_field(reader, "tokenizer.ggml.tokens")),
        "max_position_embeddings": _field(reader, "qwen3.context_length"),
        "rope_theta": float(_field(reader, "qwen3.rope.freq_base")),
        # The GGUF holds it as a 32-bit float: round away the noise of the conversion.
        "rms_norm_eps": float(f"{_field(reader, 'qwen3.attention.layer_norm_rms_epsilon'):.6g}"),
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
        "torch_dtype": "float16",
    }


def generation_config(reader: GGUFReader) -> dict[str, Any]:
    """``generation_config.json``: the tokens that end a text, the same set as llama.cpp's."""
    eos = _field(reader, "tokenizer.ggml.eos_token_id")
    pad = _field(reader, "tokenizer.ggml.padding_token_id")
    return {"eos_token_id": [eos, pad], "pad_token_id": pad}


def tokenizer(reader: GGUFReader) -> dict[str, Any]:
    """``tokenizer.json`` from the GGUF's tokens, token types and merges."""
    tokens = _field(reader, "tokenizer.ggml.tokens")
    kinds = _field(reader, "tokenizer.ggml.token_type")
    added = [i for i, kind in enumerate(kinds) if kind != gguf.TokenType.NORMAL]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], **flags, "special": kinds[i] == gguf.TokenType.CONTROL}
            for i in added
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, {**level, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(tokens) if i not in added},
            "merges": [m.split(" ") for m in _field(reader, "tokenizer.ggml.merges")],
        },
    }


def tokenizer_config(reader: GGUFReader) -> dict[str, Any]:
    """``tokenizer_config.json`` with the chat template."""
    tokens = _field(reader, "tokenizer.ggml.tokens")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": tokens[_field(reader, "tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[_field(reader, "tokenizer.ggml.padding_token_id")],
        "clean_up_tokenization_spaces": False,
        "model_max_length": _field(reader, "qwen3.context_length"),
        "chat_template": _field(reader, "tokenizer.chat_template"),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def fingerprint(path: Path) -> dict[str, Any]:
    """SHA-256 and size in bytes of a file."""
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def outputs() -> list[str]:
    """The derived files, relative to the output folder."""
    mlx = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    return [QUANTIZED, *(f"mlx/{name}" for name in [*mlx, "tokenizer_config.json"])]


def problems(manifest: Path, source: Path, out: Path) -> list[str]:
    """What differs from the manifest: one line per file, empty when all is well."""
    recorded = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    lines = []
    for name, want in recorded.items():
        path = source if name == SOURCE else out / name
        if not path.is_file():
            lines.append(f"{name}: missing")
        elif fingerprint(path) != want:
            lines.append(f"{name}: sha256 differs from {manifest.name}")
    return lines


def write_all(source: Path, out: Path) -> None:
    """Write every derived file, whatever is there."""
    reader = GGUFReader(source)
    mlx = out / "mlx"
    mlx.mkdir(parents=True, exist_ok=True)
    side = out / (QUANTIZED + ".tmp")
    quantize(reader, side)
    side.replace(out / QUANTIZED)
    (mlx / "model.safetensors").write_bytes(weights(reader))
    made = {
        "config.json": config(reader),
        "generation_config.json": generation_config(reader),
        "tokenizer.json": tokenizer(reader),
        "tokenizer_config.json": tokenizer_config(reader),
    }
    for name, value in made.items():
        (mlx / name).write_bytes(_json(value))


def record(source: Path, out: Path, manifest: Path) -> None:
    """Write the hashes of the files as they are now."""
    files = {SOURCE: fingerprint(source)}
    files |= {name: fingerprint(out / name) for name in outputs()}
    manifest.write_bytes(_json({"files": files}))


def derive(source: Path = DEMO / SOURCE, out: Path = DEMO) -> list[Path]:
    """Make the derived files in ``out`` unless they are there already, and check all hashes.

    The manifest is the one beside ``source``. Raises Mismatch when a hash is not the recorded one.
    """
    manifest = source.parent / MANIFEST
    if problems(manifest, source, out):
        write_all(source, out)
        if wrong := problems(manifest, source, out):
            raise Mismatch("; ".join(wrong))
    return [out / name for name in outputs()]


def main() -> int:
    """Derive, only check, or record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=DEMO / SOURCE)
    parser.add_argument("--out", type=Path, default=DEMO)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--record", action="store_true", help="write anew, and the manifest too")
    args = parser.parse_args()
    manifest = args.source.parent / MANIFEST
    if args.record:
        write_all(args.source, args.out)
        record(args.source, args.out, manifest)
    elif args.check:
        wrong = problems(manifest, args.source, args.out)
        print("\n".join(wrong) or "all files have their recorded hashes")
        return 1 if wrong else 0
    else:
        derive(args.source, args.out)
    for name, entry in json.loads(manifest.read_text(encoding="utf-8"))["files"].items():
        print(f"{entry['sha256'][:16]} {entry['bytes']:>10,} {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
