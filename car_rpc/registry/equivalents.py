"""The same weights in another format: GGUF for llama.cpp, MLX for Apple's chips."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema

#: What names of files add to the name of a model: its format and how it was quantized.
_FORMAT = re.compile(
    r"[-_. ](gguf|mlx|dwq|qat|mxfp4|f16|bf16|f32|[0-9]bit|i?q[0-9](_[0-9a-z]+)*)$", re.IGNORECASE
)


def base_name(name: str) -> str:
    """A model's name without its format and quantization, in small letters."""
    while (shorter := _FORMAT.sub("", name)) != name:
        name = shorter
    return name.lower()


def equivalent(
    model: ModelSchema, kind: Literal["local", "mlx"], models: Iterable[ModelSchema]
) -> ModelSchema | None:
    """The model with the same weights in another format, or ``None``.

    Args:
        model: Of any source; one that has the format already is its own equivalent.
        kind: The format that is wanted, by the source that runs it.
        models: Where it is looked for. Of several, one whose weights are here goes before the
            others, then the first id.
    """
    wanted = LocalSource if kind == "local" else MlxSource
    if isinstance(model.source, wanted):
        return model
    if not isinstance(model.source, LocalSource | MlxSource):
        return None
    name = base_name(model.name)
    same = [
        other
        for other in models
        if isinstance(other.source, wanted)
        and base_name(other.name) == name
        and set(model.capabilities) <= set(other.capabilities)
    ]
    return min(same, key=lambda other: (not _is_here(other), other.id), default=None)


def _is_here(model: ModelSchema) -> bool:
    source = model.source
    return isinstance(source, LocalSource | MlxSource) and isinstance(source.path, str)
