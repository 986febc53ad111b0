"""What an answer of a model would cost. Pure; an unknown price is ``None``, never 0."""

from __future__ import annotations

import re

from msgspec import UNSET, UnsetType

from car_rpc.wire.models import (
    Cost,
    FakeSource,
    LocalSource,
    MlxSource,
    ModelSchema,
    OllamaSource,
    OpenAICompatSource,
    SystemSource,
    VllmMlxSource,
)

_THIS_MACHINE = re.compile(r"https?://(localhost|127(\.\d+){3}|\[::1\])(?=[:/]|$)", re.IGNORECASE)
_LOCAL = (LocalSource, MlxSource, SystemSource, FakeSource)


def is_local(model: ModelSchema) -> bool:
    """Whether the model runs on this machine, a server on it included."""
    source = model.source
    if isinstance(source, OpenAICompatSource | VllmMlxSource):
        return _THIS_MACHINE.match(source.endpoint) is not None
    if isinstance(source, OllamaSource):
        return _THIS_MACHINE.match(source.host) is not None
    return isinstance(source, _LOCAL)


def estimated_usd(model: ModelSchema, input_tokens: int, output_tokens: int) -> float | None:
    """What a request would cost, in USD; a local model without a price costs nothing."""
    cost = model.cost
    if isinstance(cost, Cost):
        into, out = cost.input_per_mtok_usd, cost.output_per_mtok_usd
        reached = -1
        for tier in cost.pricing_tiers:
            if reached < tier.min_prompt_tokens <= input_tokens:
                reached = tier.min_prompt_tokens
                into = _named(tier.input_per_mtok_usd, cost.input_per_mtok_usd)
                out = _named(tier.output_per_mtok_usd, cost.output_per_mtok_usd)
        if isinstance(into, float) and isinstance(out, float):
            return (input_tokens * into + output_tokens * out) / 1_000_000
        if into is not UNSET or out is not UNSET:
            return None
    return 0.0 if is_local(model) else None


def _named(price: float | UnsetType, otherwise: float | UnsetType) -> float | UnsetType:
    return otherwise if price is UNSET else price
