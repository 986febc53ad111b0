"""Whether files are those of a model, as far as they and the model's entry tell.

What one of them leaves unsaid is not compared, and where both count, they may count differently:
cards round parameters and leave some out, and files are made anew with other metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from car_rpc.errors import CarError
from car_rpc.registry.facts import FILE_TYPES, Facts, folder_facts, gguf_facts
from car_rpc.registry.fit import parameter_count
from car_rpc.registry.weights import file_names, folder_ready
from car_rpc.wire.models import Cost, LocalSource, MlxSource, ModelSchema
from car_rpc.wire.parts import file_parts, is_later_part

#: How many times as many parameters one of the two may count.
_PARAMETERS_FACTOR = 1.5

#: How many times as large the files, or what a token takes in the cache, may be.
_BYTES_FACTOR = 1.1

#: Families that are architectures of their own (llama.cpp, ``LLM_ARCH_NAMES``; mlx-lm's names are
#: the same but for their dashes). Other families are names for people.
_ARCHITECTURES = frozenset(
    {
        "bert", "cohere2", "deepseek2", "falcon-h1", "gemma2", "gemma3", "glm4", "gpt-oss",
        "granite", "lfm2", "llama", "mistral3", "nomic-bert", "olmo2", "phi3", "qwen2", "qwen3",
        "smollm3",
    }
)  # fmt: skip

#: What is compared, in words.
_COMPARED = (
    "architecture",
    "quantization",
    "number of parameters",
    "size in bytes",
    "cache per token in bytes",
)

_PACKED = re.compile(r"\d+bit")


class _Difference(NamedTuple):
    """What two say differently."""

    what: str
    found: str
    expected: str


def check_import(model: ModelSchema, path: Path) -> None:
    """Refuse files that are clearly not those of a model; what is unsure passes.

    Reads from the disk: not for the event loop.

    Args:
        model: The model, whose source names a file or a folder.
        path: Its file, the first of several, or its folder. Whether that exists is told elsewhere.

    Raises:
        CarError: ``conflict``, which names both.
    """
    source = model.source
    if isinstance(source, LocalSource) and path.is_file():
        _check_parts(model, file_names(source), path)
        facts = _read(model, path, gguf_facts)
        if facts.family == "clip":
            raise _refusal(model, path, "it is an image projector and no language model")
    elif isinstance(source, MlxSource) and path.is_dir():
        if not folder_ready(path):
            raise _refusal(model, path, "it holds no complete weights in MLX's format")
        facts = _read(model, path, folder_facts)
    else:
        return
    differences = _differences(model, facts)
    if differences:
        said = "; ".join(
            f"its {each.what} is {each.found}, not {each.expected}" for each in differences
        )
        raise _refusal(
            model,
            path,
            said,
            found={each.what: each.found for each in differences},
            expected={each.what: each.expected for each in differences},
        )


def _check_parts(model: ModelSchema, names: list[str], path: Path) -> None:
    if is_later_part(path.name):
        raise _refusal(model, path, "it is a later part of a model; name the first part")
    parts = [path.with_name(name) for name in file_parts(path.name)]
    if len(parts) != len(names):
        have, want = (
            f"{len(each)} files" if len(each) > 1 else "one file" for each in (parts, names)
        )
        raise _refusal(model, path, f"it stands for {have}, and the model has {want}")
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise _refusal(model, path, f"{', '.join(missing)} is not beside it")


def _read(model: ModelSchema, path: Path, read: Callable[[Path], Facts]) -> Facts:
    try:
        return read(path)
    except ValueError as error:
        raise _refusal(model, path, str(error)) from None
    except OSError:  # the copy will say so
        return Facts()


def _differences(model: ModelSchema, facts: Facts) -> list[_Difference]:
    cost = model.cost if isinstance(model.cost, Cost) else Cost()
    here = (
        facts.family,
        facts.quantization,
        facts.param_count,
        facts.size_bytes,
        facts.kv_bytes_per_token,
    )
    there = (
        model.family,
        model.quantization or "",
        model.param_count or "",
        cost.size_bytes or 0,
        cost.kv_bytes_per_token or 0,
    )
    differs = (
        _other_architecture(here[0], there[0]),
        _other_quantization(here[1], there[1]),
        _other_parameters(here[2], there[2]),
        _apart(here[3], there[3], _BYTES_FACTOR),
        _apart(here[4], there[4], _BYTES_FACTOR),
    )
    told = zip(_COMPARED, here, there, differs, strict=True)
    return [
        _Difference(what, str(found), str(expected))
        for what, found, expected, is_other in told
        if found and expected and is_other
    ]


def _other_architecture(found: str, expected: str) -> bool:
    if expected.lower() not in _ARCHITECTURES:
        return False
    here, there = (re.sub(r"[^a-z0-9]", "", each.lower()) for each in (found, expected))
    return not here.startswith(there)  # qwen3moe is a kind of qwen3


def _other_quantization(found: str, expected: str) -> bool:
    here, there = found.upper(), expected.upper()
    known = {here, there} <= FILE_TYPES or (
        _PACKED.fullmatch(found) and _PACKED.fullmatch(expected)
    )
    return bool(known) and here != there


def _other_parameters(found: str, expected: str) -> bool:
    here, there = parameter_count(found), parameter_count(expected)
    return here is not None and there is not None and _apart(here, there, _PARAMETERS_FACTOR)


def _apart(one: float, other: float, factor: float) -> bool:
    return max(one, other) > factor * min(one, other)


def _refusal(model: ModelSchema, path: Path, why: str, **more: object) -> CarError:
    detail = (
        f"{path} is not {model.id}: {why}; import the model's own files, or register these as a"
        " model of their own"
    )
    return CarError("conflict", detail, model=model.id, path=str(path), **more)
