"""What a model will take in memory with all the files that are loaded with it."""

from __future__ import annotations

from pathlib import Path

from car_rpc.registry import fit
from car_rpc.registry.facts import size_on_disk
from car_rpc.registry.projectors import projector_of
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema
from car_rpc.wire.parts import file_parts
from car_rpc.wire.sources import adapters_of, draft_of


def needed_bytes(model: ModelSchema) -> int:
    """Memory to have for a model that is loaded, from above; 0 without files."""
    return _with_files(model, fit.memory_bytes(model))


def lasting_bytes(model: ModelSchema) -> int:
    """Memory that a loaded model comes to with one conversation, from below; 0 without files."""
    return _with_files(model, fit.lasting_bytes(model))


def _with_files(model: ModelSchema, estimate: int | None) -> int:
    """An estimate, or what the model's files have, and the files that are loaded beside it."""
    source = model.source
    if not isinstance(source, LocalSource | MlxSource) or not isinstance(source.path, str):
        return 0
    needed = estimate or sum(
        size_on_disk(Path(path))
        for path in (*file_parts(source.path), *(each.path for each in adapters_of(source)))
    )
    others = [path for path in (projector_of(model), draft_of(source)) if path]
    return needed + sum(size_on_disk(Path(path)) for path in others)
