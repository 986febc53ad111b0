"""Models that could not be loaded, until one of their files is another."""

from __future__ import annotations

import os
from typing import NamedTuple

from car_rpc.errors import CarError
from car_rpc.wire.models import ModelSchema, ModelSource
from car_rpc.wire.speculation import DraftSpeculation
from car_rpc.wire.worker import Load


class _Failure(NamedTuple):
    source: ModelSource
    load: Load
    files: list[tuple[int, int] | None]
    detail: str


class FailedLoads:
    """Remembers what llama.cpp or MLX refused, so that it is not chosen again and again.

    What a file holds is known for certain only to the library that loads it. A request that names
    such a model tries it all the same.
    """

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def note(self, model: ModelSchema, load: Load, error: CarError) -> None:
        """A load has failed with ``model_load_failed``."""
        files = _files(load)
        self._failures[model.id] = _Failure(model.source, load, files, error.detail)

    def forget(self, model: ModelSchema) -> None:
        """A model is loaded."""
        self._failures.pop(model.id, None)

    def reason(self, model: ModelSchema) -> str:
        """Why a model cannot be loaded; empty where nothing is known, or its files have changed."""
        failure = self._failures.get(model.id)
        if failure is None:
            return ""
        if failure.source != model.source or failure.files != _files(failure.load):
            self.forget(model)
            return ""
        return failure.detail


def _files(load: Load) -> list[tuple[int, int] | None]:
    """When each file or folder of a model was changed, in nanoseconds, and its size."""
    paths = [load.path, load.projector, *(adapter.path for adapter in load.adapters)]
    if isinstance(load.speculation, DraftSpeculation):
        paths.append(load.speculation.path)
    return [_state(path) for path in paths if path]


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - the name may be one that no path can have
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size
