"""What is wrong with models whose weights or projectors are not here, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

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
            why, what = _remedy(model.id, source)
            yield f"{model.id}: {why}"
            yield f"  {what}"


def _blind(model_id: str, source: ModelSource) -> Iterator[str]:
    """What a model lacks that answers, and does not see or hear as it could."""
    if isinstance(source, LocalSource) and isinstance(source.mmproj_path, str):
        projector = Path(source.mmproj_path)
        if not projector.is_file():
            yield f"{model_id}: its projector {projector} is not there, so it reads text only"
            yield "  put it there, or register the model again with its new `mmproj_path`"


def _remedy(model_id: str, source: LocalSource | MlxSource) -> tuple[str, str]:
    if not isinstance(source.path, str):
        return "its weights are not on this machine", f"car-rpc models pull {model_id}"
    path = Path(source.path)
    forget = f'car-rpc call models.unregister \'{{"model": "{model_id}"}}\''
    what = f"put it there, register the model again with its new path, or forget it: {forget}"
    try:
        return _why(path, source), what
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}", what


def _why(path: Path, source: LocalSource | MlxSource) -> str:
    if not path.parent.exists():
        return f"its folder {path.parent} is not there; is its disk connected?"
    if not path.exists():
        return f"{path} is not there"
    if isinstance(source, LocalSource) and not path.is_file():
        return f"{path} is no file; a GGUF model is one file"
    if isinstance(source, MlxSource) and not path.is_dir():
        return f"{path} is no folder; an MLX model is a folder"
    if isinstance(source, MlxSource) and not (path / "config.json").is_file():
        return f"{path} holds no config.json; is its download complete?"
    return f"{path} may not be read by you; see its permissions"
