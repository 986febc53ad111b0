"""What the headers of GGUF files say before a process is started for them."""

from __future__ import annotations

import msgspec

from car_rpc.errors import CarError
from car_rpc.registry.gguf import read_file
from car_rpc.registry.lora import Base, base_of, misfit
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.parts import file_parts
from car_rpc.wire.worker import Load


def checked(model: ModelSchema, load: Load) -> Load:
    """How a model is loaded, once it is clear that its files go together.

    Reads from the disk, and headers are long: not for the event loop.

    Raises:
        CarError: ``model_load_failed`` when an adapter is not there or is of another model, or
            when the model is to rank by a head that its file lacks.
    """
    if "rerank" in model.capabilities:
        load = msgspec.structs.replace(load, has_rank_head=_has_rank_head(model, load))
    if load.adapters:
        _check_adapters(model, load)
    return load


def _check_adapters(model: ModelSchema, load: Load) -> None:
    base = _base(load.path)
    for index, adapter in enumerate(load.adapters):
        try:
            problem = base and misfit(read_file(adapter.path), base)
        except OSError as error:
            problem = f"cannot be read ({error.strerror}); put it there"
        except ValueError as error:
            problem = f"is no GGUF file that can be used ({error}); fetch or convert it again"
        if problem is not None:
            raise CarError(
                "model_load_failed",
                f"adapters[{index}] of {model.id}: {adapter.path} {problem}, or register the model"
                " without it",
                model=model.id,
                path=adapter.path,
            )


def _base(path: str) -> Base | None:
    try:
        return base_of(map(read_file, file_parts(path)))
    except (OSError, ValueError):
        return None  # whatever is wrong with it, the worker says


def _has_rank_head(model: ModelSchema, load: Load) -> bool:
    """Whether the model's file has a head for ranking. Some conversions of rerankers lost it.

    Raises:
        CarError: ``model_load_failed`` when there is none and it was asked for.
    """
    try:
        has_head = any(read_file(part).has_rank_head for part in file_parts(load.path))
    except (OSError, ValueError):
        return True  # whatever is wrong with it, the worker says
    if load.pooling == "rank" and not has_head:
        raise CarError(
            "model_load_failed",
            f"the `pooling` of {model.id} is `rank`, and its file has no head for ranking"
            " (no tensor `cls.weight` or `cls.output.weight`); register it without `pooling`,"
            " or another file of the model",
            model=model.id,
        )
    return has_head
