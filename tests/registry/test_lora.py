"""Adapters that fit, and those that llama.cpp would not survive or not use as they were meant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from car_rpc.registry.gguf import STRING, Header, Tensor, read_header
from car_rpc.registry.lora import Base, base_of, misfit

F32, NVFP4 = 0, 40

#: A model of 8 columns: its tensors have the fastest dimension first.
BASE = Base(
    "qwen3",
    {
        "token_embd.weight": Tensor((8, 100), F32),
        "output.weight": Tensor((8, 100), F32),
        "blk.0.attn_q.weight": Tensor((8, 16), F32),
        "blk.0.ffn_up.weight": Tensor((8, 32), NVFP4),
        "blk.0.ffn_up_exps.weight": Tensor((8, 32, 4), F32),
    },
)
TIED = Base("qwen3", {"token_embd.weight": Tensor((8, 100), F32)})

QUERY = "blk.0.attn_q.weight"


def halves(
    name: str = QUERY,
    down: tuple[int, ...] = (2, 8),
    up: tuple[int, ...] = (16, 2),
    kind: Any = "f4",
) -> dict[str, Any]:
    return {f"{name}.lora_a": np.ones(down, kind), f"{name}.lora_b": np.ones(up, kind)}


@pytest.fixture
def why(tmp_path: Path) -> Callable[..., str | None]:
    """Writes an adapter with the official writer, and says why it does not fit."""

    def judge(
        tensors: dict[str, Any] | None = None,
        base: Base = BASE,
        **values: tuple[Any, gguf.GGUFValueType] | None,
    ) -> str | None:
        string, number = gguf.GGUFValueType.STRING, gguf.GGUFValueType.FLOAT32
        path = tmp_path / "adapter.gguf"
        writer = gguf.GGUFWriter(path, "qwen3")
        for name, value in {
            "general.type": ("adapter", string),
            "adapter.type": ("lora", string),
            "adapter.lora.alpha": (16.0, number),
            **{name.replace("__", "."): value for name, value in values.items()},
        }.items():
            writer.kv_data[0].pop(name, None)
            if value is not None:
                writer.add_key_value(name, *value)
        for name, tensor in (halves() if tensors is None else tensors).items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with path.open("rb") as file:
            return misfit(read_header(file), base)

    return judge


GOOD = {
    "one matrix": halves(),
    "in half precision": halves(kind="f2"),
    "rows that are looked up": halves("token_embd.weight", (100, 2), (8, 2)),
    "what is said with": halves("output.weight", up=(100, 2)),
    "experts": halves("blk.0.ffn_up_exps.weight", (4, 2, 8), (4, 32, 2)),
    "norms beside it": {**halves(), "blk.0.attn_norm.weight": np.ones(8, "f4")},
}


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_is_taken(why: Callable[..., str | None], name: str) -> None:
    assert why(GOOD[name]) is None


def test_without_a_strength_of_its_own_it_counts_as_it_is(why: Callable[..., str | None]) -> None:
    assert why(adapter__lora__alpha=None) is None


TYPE = gguf.GGUFValueType

BAD_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "a model": ({"general__type": ("model", TYPE.STRING)}, "general.type is 'model'"),
    "no type": ({"general__type": None}, "general.type is 'not set'"),
    "a type that is a number": ({"general__type": (1, TYPE.UINT32)}, "is no adapter"),
    "another adapter": ({"adapter__type": ("control_vector", TYPE.STRING)}, "'control_vector'"),
    "its kind a number": ({"adapter__type": (1, TYPE.UINT32)}, "is no LoRA adapter"),
    "a longer number": ({"adapter__lora__alpha": (16.0, TYPE.FLOAT64)}, "no 32-bit number"),
    "a strength in words": ({"adapter__lora__alpha": ("16", TYPE.STRING)}, "no 32-bit number"),
    "for certain tokens": (
        {"adapter__alora__invocation_tokens": ([1, 2], TYPE.ARRAY, TYPE.UINT32)},
        "activated LoRA",
    ),
    "another architecture": ({"general__architecture": ("llama", TYPE.STRING)}, "llama"),
    "its architecture a number": ({"general__architecture": (1, TYPE.UINT32)}, "unknown"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_what_it_says_of_itself_must_be_right(why: Callable[..., str | None], name: str) -> None:
    values, reason = BAD_VALUES[name]
    assert reason in (why(**values) or "")


UP = "blk.0.ffn_up"

BAD_TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "holds no weights"),
    "one half": ({f"{QUERY}.lora_a": np.ones((2, 8), "f4")}, "lacks its other half"),
    "something else": ({**halves(), "blk.0.attn_q.bias": np.ones(8, "f4")}, "attn_q.bias"),
    "whole numbers": (halves(kind="i4"), "that no LoRA adapter has"),
    "long numbers": (halves(kind="f8"), "that no LoRA adapter has"),
    "no such matrix": (
        halves("blk.9.attn_q.weight"),
        "blk.9.attn_q.weight, which the model does not",
    ),
    "other columns": (halves(down=(2, 9)), "another shape"),
    "other rows": (halves(up=(17, 2)), "another shape"),
    "halves of two ranks": (halves(up=(16, 3)), "another shape"),
    "a stack for a matrix": (halves(down=(2, 2, 8), up=(2, 16, 2)), "another shape"),
    "other experts": (halves(f"{UP}_exps.weight", (3, 2, 8), (3, 32, 2)), "another shape"),
    "experts of two numbers": (halves(f"{UP}_exps.weight", (4, 2, 8), (1, 32, 2)), "another shape"),
    "looked up, two ranks": (halves("token_embd.weight", (100, 2), (8, 3)), "another shape"),
    "looked up, not turned": (halves("token_embd.weight", (2, 8), (100, 2)), "another shape"),
    "NVFP4": (halves(f"{UP}.weight", up=(32, 2)), "NVFP4"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_each_change_must_fit_its_matrix(why: Callable[..., str | None], name: str) -> None:
    tensors, reason = BAD_TENSORS[name]
    assert reason in (why(tensors) or "")


def test_what_a_model_speaks_with_is_not_changed_for_one_use_only(
    why: Callable[..., str | None],
) -> None:
    assert "merge the adapter" in (why(GOOD["rows that are looked up"], TIED) or "")


def test_a_model_in_several_files_is_one() -> None:
    one, other = {"a": Tensor((1,), F32)}, {"b": Tensor((2,), F32)}
    name = "general.architecture"
    first = Header({name: "x"}, {name: STRING}, one)
    assert base_of([first, Header({}, {}, other)]) == Base("x", {**one, **other})
