"""What is wrong with models whose weights are not here, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from car_rpc.cli.tables import is_listed
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema


def remedies(models: Iterable[ModelSchema]) -> Iterator[str]:
    """Two lines for each listed model whose weights are missing: why, and what to do."""
    for model in models:
        source = model.source
        if model.weights_ready or not is_listed(model):
            continue
        if isinstance(source, LocalSource | MlxSource):
            why, what = _remedy(model.id, source)
            yield f"{model.id}: {why}"
            yield f"  {what}"


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
