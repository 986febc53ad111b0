"""The same weights in another format: GGUF for llama.cpp, MLX for Apple's chips."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema
from car_rpc.wire.sources import adapters_of

#: What names of files add to the name of a model: its format and how it was quantized.
_FORMAT = re.compile(
    r"[-_. ](gguf|mlx|dwq|qat|mxfp4|f16|bf16|f32|[0-9]bit|i?q[0-9](_[0-9a-z]+)*)$", re.IGNORECASE
)


def base_name(name: str) -> str:
    """A model's name without its format and quantization, in small letters."""
    while (shorter := _FORMAT.sub("", name)) != name:
        name = shorter
    return name.lower()


def equivalents(
    asked: Iterable[ModelSchema], kind: Literal["local", "mlx"], models: Iterable[ModelSchema]
) -> dict[str, list[ModelSchema]]:
    """By id, for each model that there is in another format as well: it in that format.

    Args:
        asked: Models of any source.
        kind: The format that is wanted, by the source that runs it. What has it already is left
            out.
        models: Where they are looked for. Of several, one whose weights are here goes before the
            others, then the first id.
    """
    wanted = LocalSource if kind == "local" else MlxSource
    by_name: dict[str, list[ModelSchema]] = {}
    for model in sorted(models, key=lambda model: (not _is_here(model), model.id)):
        if isinstance(model.source, wanted) and not adapters_of(model.source):
            by_name.setdefault(base_name(model.name), []).append(model)
    found: dict[str, list[ModelSchema]] = {}
    for model in asked:
        source = model.source
        if type(source) is wanted or not isinstance(source, LocalSource | MlxSource):
            continue
        if adapters_of(source):
            continue  # it says other things than the model whose name it may have
        able, named = {*model.capabilities}, by_name.get(base_name(model.name), ())
        if same := [other for other in named if able <= {*other.capabilities}]:
            found[model.id] = same
    return found


def equivalent(
    model: ModelSchema, kind: Literal["local", "mlx"], models: Iterable[ModelSchema]
) -> ModelSchema | None:
    """The model with the same weights in another format, or ``None``.

    Args:
        model: Of any source; one that has the format already is its own equivalent.
        kind: The format that is wanted, as for :func:`equivalents`, which also says which one is
            taken of several.
        models: Where it is looked for.
    """
    if isinstance(model.source, LocalSource if kind == "local" else MlxSource):
        return model
    same = equivalents([model], kind, models).get(model.id)
    return same[0] if same else None


def _is_here(model: ModelSchema) -> bool:
    source = model.source
    return isinstance(source, LocalSource | MlxSource) and isinstance(source.path, str)
