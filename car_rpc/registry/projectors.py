"""Projectors: the files that let a GGUF model see and hear.

A model whose projector is not on this machine answers to text as any other, and does not see: its
capabilities are those that it has here and now, so that whoever chooses a model chooses right.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from car_rpc.wire.media import SENSES
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema, ModelSource


def with_senses(model: ModelSchema) -> ModelSchema:
    """The model without what it could do only with a projector, where it has none here.

    One whose weights are still to be downloaded is left as it is: its projector comes with them.
    MLX's engine reads text only.
    """
    source = model.source
    if not isinstance(source, LocalSource | MlxSource) or SENSES.isdisjoint(model.capabilities):
        return model
    if isinstance(source, LocalSource):
        if not isinstance(source.path, str):
            return model
        if isinstance(source.mmproj_path, str) and Path(source.mmproj_path).is_file():
            return model
    left = [each for each in model.capabilities if each not in SENSES]
    return msgspec.structs.replace(model, capabilities=left)


def blindness(source: ModelSource) -> str | None:
    """Why a model reads text only that could see or hear; ``None`` where it lacks no projector."""
    if not isinstance(source, LocalSource) or not isinstance(source.mmproj_path, str):
        return None
    if Path(source.mmproj_path).is_file():
        return None
    return f"its projector {source.mmproj_path} is not there, so it reads text only"


def projector_of(model: ModelSchema) -> str:
    """The file that is loaded with a model so that it sees or hears; empty for none."""
    source = model.source
    if not isinstance(source, LocalSource) or SENSES.isdisjoint(model.capabilities):
        return ""
    return source.mmproj_path if isinstance(source.mmproj_path, str) else ""
