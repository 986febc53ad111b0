"""What to do about models whose weights or projectors are not here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import UNSET

from car_rpc.cli.tables import is_listed
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema


def remedies(models: Iterable[ModelSchema]) -> Iterator[str]:
    """Two lines for each listed model whose files are missing: why, and what to do."""
    for model in models:
        source = model.source
        if not is_listed(model):
            continue
        if model.weights_ready:
            if model.reason is not UNSET:
                yield f"{model.id}: {model.reason}"
                yield "  put it there, or register the model again with its new `mmproj_path`"
        elif isinstance(source, LocalSource | MlxSource):
            yield f"{model.id}: {model.reason or 'its weights are not ready'}"
            yield f"  {_remedy(model.id, is_named=source.path is not UNSET)}"


def _remedy(model_id: str, *, is_named: bool) -> str:
    if not is_named:
        return f"car-rpc models pull {model_id}"
    forget = f'car-rpc call models.unregister \'{{"model": "{model_id}"}}\''
    return f"put it there, register the model again with its new path, or forget it: {forget}"
