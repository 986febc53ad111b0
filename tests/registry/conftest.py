"""Files of models, made by the libraries that others write them with, or byte by byte."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

MakeGguf = Callable[..., Path]
MakeSafetensors = Callable[..., Path]


@pytest.fixture
def make_gguf(tmp_path: Path) -> MakeGguf:
    """Writes a GGUF file with the official writer."""

    def make(name: str = "model.gguf", architecture: str = "qwen3", **values: Any) -> Path:
        import numpy as np

        path = tmp_path / name
        writer = gguf.GGUFWriter(path, architecture)
        for name_of_value, value in values.items():
            key = name_of_value.replace("__", ".")
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, list):
                writer.add_array(key, value)
            else:
                writer.add_string(key, value)
        writer.add_tensor("token_embd.weight", np.zeros((500, 4000), dtype=np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


@pytest.fixture
def make_safetensors() -> MakeSafetensors:
    """Writes a file of tensors, named with their type and shape, and no data."""

    def make(path: Path, **tensors: tuple[str, list[int]]) -> Path:
        header = {
            name.replace("__", "."): {"dtype": kind, "shape": shape, "data_offsets": [0, 0]}
            for name, (kind, shape) in tensors.items()
        }
        data = json.dumps({"__metadata__": {"format": "mlx"}, **header}).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(struct.pack("<Q", len(data)) + data)
        return path

    return make
