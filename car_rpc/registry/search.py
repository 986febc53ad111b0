"""Find models by what is wanted of them. Pure: what is true of them now is told with them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import UNSET

from car_rpc.registry.catalog import DEMO_PROVIDER
from car_rpc.registry.equivalents import base_name
from car_rpc.registry.fit import fits, memory_bytes, parameters, weights_bytes
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema, ModelSource
from car_rpc.wire.search import ModelsSearchParams, ModelTemplate, ModelUpgrade

#: Numbers of parameters that differ by less than this share are the same size.
SAME_SIZE = 0.2

_NUMBERS = re.compile(r"\d+")


def search(models: Iterable[ModelSchema], params: ModelsSearchParams) -> list[ModelSchema]:
    """The models that match, best first and always in the same order.

    Args:
        models: All models, with ``available``, ``weights_ready`` and ``fit`` as they are now.
        params: What is wanted.
    """
    words = _words(params.query)
    found = [model for model in models if _matches(model, params) and _mentions(model, words)]
    found.sort(key=lambda model: (_distance(model, params.query), *_preference(model)))
    return found[: params.limit]


def search_templates(
    templates: Iterable[ModelTemplate], params: ModelsSearchParams
) -> list[ModelTemplate]:
    """The starts of registrations that match; a family is nothing that they have."""
    words = _words(params.query)
    return [
        template
        for template in templates
        if params.family is UNSET
        and (params.capability is UNSET or params.capability in template.capabilities)
        and params.source in (UNSET, source_type(template.source))
        and _begin(words, _words(f"{template.name} {template.title}"))
    ]


def upgrades(models: Iterable[ModelSchema]) -> list[ModelUpgrade]:
    """For each model whose weights are here the newest that could take its place, if any.

    That is one of the same line, format and size that can do at least as much, is newer, fits
    this machine and is not here yet. How new a model is stands in the numbers of its family and
    version: ``qwen3`` is older than ``qwen3`` of version ``2507``, and that than ``qwen3.5``.
    """
    models = sorted(models, key=lambda model: model.id)
    found: list[ModelUpgrade] = []
    for old in models:
        if not old.weights_ready or old.provider == DEMO_PROVIDER:
            continue
        newest = max(
            (new for new in models if _replaces(new, old)),
            key=lambda new: (_age(new), new.weights_ready),
            default=None,
        )
        if newest is not None and not newest.weights_ready:
            found.append(ModelUpgrade(model_id=old.id, upgrade=newest))
    return found


def source_type(source: ModelSource) -> str:
    """The tag that a source carries on the wire."""
    return str(source.__struct_config__.tag)


def _matches(model: ModelSchema, params: ModelsSearchParams) -> bool:
    size = weights_bytes(model)
    return (
        (params.capability is UNSET or params.capability in model.capabilities)
        and (params.family is UNSET or params.family.lower() == model.family.lower())
        and params.source in (UNSET, source_type(model.source))
        and params.fits in (UNSET, fits(model))
        and (params.max_size_bytes is UNSET or (size is not None and size <= params.max_size_bytes))
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9.]+", text.lower())


def _begin(words: list[str], text: list[str]) -> bool:
    """Whether each word begins a word of the text: ``4b`` is no ``14b``."""
    return all(any(other.startswith(word) for other in text) for word in words)


def _mentions(model: ModelSchema, words: list[str]) -> bool:
    return _begin(words, _words(" ".join([model.id, model.name, model.family, *model.tags])))


def _distance(model: ModelSchema, query: str) -> tuple[bool, int]:
    """How far a model is from what was asked for: by its whole name, then by whole words."""
    asked = query.strip().lower()
    name = _words(model.name)
    return (
        bool(asked) and asked not in (model.name.lower(), model.id.lower()),
        sum(word not in name for word in _words(query)),
    )


def _preference(model: ModelSchema) -> tuple[bool, bool, bool, bool, int, str]:
    needed = memory_bytes(model) or 0
    good = fits(model)
    return (
        not model.available,
        not model.weights_ready,
        model.provider == DEMO_PROVIDER,
        not good,
        # The largest of what fits is likely the best, the smallest of the rest the nearest.
        -needed if good else needed,
        model.id,
    )


def _replaces(new: ModelSchema, old: ModelSchema) -> bool:
    return (
        isinstance(new.source, LocalSource | MlxSource)
        and type(new.source) is type(old.source)
        and _line(new) == _line(old)
        and base_name(new.name) != base_name(old.name)
        and any(_age(old))
        and _age(new) > _age(old)
        and _same_size(new, old)
        and set(new.capabilities) >= set(old.capabilities)
        and fits(new)
    )


def _line(model: ModelSchema) -> str:
    """The family without its generation: ``qwen3.5`` and ``qwen3`` are both ``qwen``."""
    return re.sub(r"[\d.]+", "", model.family.lower())


def _age(model: ModelSchema) -> tuple[list[int], list[int]]:
    """The generation of its family, then its version in it; more is newer."""
    generation, version = (
        [int(number) for number in _NUMBERS.findall(text)] for text in (model.family, model.version)
    )
    return generation, version


def _same_size(one: ModelSchema, other: ModelSchema) -> bool:
    mine, others = parameters(one), parameters(other)
    if mine is None or others is None:
        return False
    return all(abs(a - b) < SAME_SIZE * max(a, b) for a, b in zip(mine, others, strict=True))
