"""What to do about models whose weights or projectors are not here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import UNSET

from car_rpc.cli.tables import is_listed
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema, ModelSource


def remedies(models: Iterable[ModelSchema]) -> Iterator[str]:
    """Two lines for each listed model whose files are missing: why, and what to do."""
    for model in models:
        source = model.source
        if not is_listed(model):
            continue
        if model.weights_ready:
            yield from _blind(model.id, source)
        elif isinstance(source, LocalSource | MlxSource):
            yield f"{model.id}: {model.reason or 'its weights are not ready'}"
            yield f"  {_remedy(model.id, is_named=source.path is not UNSET)}"


def _blind(model_id: str, source: ModelSource) -> Iterator[str]:
    """What a model lacks that answers, and does not see or hear as it could."""
    if isinstance(source, LocalSource) and isinstance(source.mmproj_path, str):
        projector = Path(source.mmproj_path)
        if not projector.is_file():
            yield f"{model_id}: its projector {projector} is not there, so it reads text only"
            yield "  put it there, or register the model again with its new `mmproj_path`"


def _remedy(model_id: str, *, is_named: bool) -> str:
    if not is_named:
        return f"car-rpc models pull {model_id}"
    forget = f'car-rpc call models.unregister \'{{"model": "{model_id}"}}\''
    return f"put it there, register the model again with its new path, or forget it: {forget}"
