"""What tokens cost. Pure; an unknown price is ``None``, never 0.

Bills are exact: money is counted in whole billionths of a US dollar, prices are taken for the
decimal numbers that they are written as, and the cost of an attempt is rounded up once, at its
end. Estimates, which models are compared by, are plain floating point.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import NamedTuple

from msgspec import UNSET

from car_rpc.wire.base import MAX_SAFE_INTEGER
from car_rpc.wire.models import (
    Cost,
    LocalSource,
    MlxSource,
    ModelSchema,
    PricingTier,
    SystemSource,
)
from car_rpc.wire.sources import is_local

NANO = 1_000_000_000

#: A price per million tokens in dollars, times this, is one per token in billionths of a dollar.
_PER_TOKEN = Fraction(NANO, 1_000_000)


class Tokens(NamedTuple):
    """Tokens of an attempt.

    Attributes:
        prompt: Of the prompt, with those of a cache.
        completion: Of the answer, with its reasoning.
        cache_read: Of the prompt, those that came from a cache.
        cache_write: Of the prompt, those that were put into a cache.
    """

    prompt: int
    completion: int
    cache_read: int = 0
    cache_write: int = 0


class Prices(NamedTuple):
    """Prices of a million tokens for a prompt of one length, in dollars."""

    prompt: float | None
    completion: float | None
    cache_read: float | None
    cache_write: float | None


def prices_of(cost: Cost, prompt_tokens: int) -> Prices:
    """The prices for a prompt of this length.

    The tier of the highest threshold that it reaches goes before the model's own prices in what
    it names. Tokens of a cache cost as much as others where they have no price.
    """
    tier = _tier(cost, prompt_tokens)
    prompt = _price(tier, cost, "input_per_mtok_usd")
    read = _price(tier, cost, "cache_read_per_mtok_usd")
    write = _price(tier, cost, "cache_write_per_mtok_usd")
    return Prices(
        prompt,
        _price(tier, cost, "output_per_mtok_usd"),
        prompt if read is None else read,
        prompt if write is None else write,
    )


def _tier(cost: Cost, prompt_tokens: int) -> PricingTier | None:
    if not cost.pricing_tiers:  # as nearly always
        return None
    reached = [tier for tier in cost.pricing_tiers if tier.min_prompt_tokens <= prompt_tokens]
    return max(reached, key=lambda tier: tier.min_prompt_tokens) if reached else None


def _price(tier: PricingTier | None, cost: Cost, name: str) -> float | None:
    price = UNSET if tier is None else getattr(tier, name)
    if price is UNSET:
        price = getattr(cost, name)
    return None if price is UNSET else price  # 0 is a price, too


def cost_nano_usd(cost: Cost, tokens: Tokens) -> int | None:
    """What an attempt costs, at most $9,007,199.25; ``None`` when a price it needs is unknown."""
    prices = prices_of(cost, tokens.prompt)
    cached = tokens.cache_read + tokens.cache_write
    parts = (
        (max(0, tokens.prompt - cached), prices.prompt),
        (tokens.cache_read, prices.cache_read),
        (tokens.cache_write, prices.cache_write),
        (tokens.completion, prices.completion),
    )
    total = Fraction(0)
    for count, price in parts:
        if count and price is None:
            return None
        total += count * Fraction(repr(price or 0))
    return min(ceil(total * _PER_TOKEN), MAX_SAFE_INTEGER)


def estimated_usd(model: ModelSchema, prompt_tokens: int, completion_tokens: int) -> float | None:
    """About what a request would cost, in dollars; a local model without a price costs nothing."""
    cost = model.cost
    if isinstance(cost, Cost):
        into, out = cost.input_per_mtok_usd, cost.output_per_mtok_usd
        if cost.pricing_tiers and (tier := _tier(cost, prompt_tokens)) is not None:
            into = into if tier.input_per_mtok_usd is UNSET else tier.input_per_mtok_usd
            out = out if tier.output_per_mtok_usd is UNSET else tier.output_per_mtok_usd
        if into is not UNSET and out is not UNSET:
            return (prompt_tokens * into + completion_tokens * out) / 1_000_000
        if into is not UNSET or out is not UNSET:
            return None
    return 0.0 if is_local(model.source) else None


def is_priced(model: ModelSchema) -> bool:
    """Whether tokens of a model have a price, be it 0."""
    cost = model.cost
    return isinstance(cost, Cost) and not (
        cost.input_per_mtok_usd is UNSET
        and cost.output_per_mtok_usd is UNSET
        and not cost.pricing_tiers
    )


def is_free(model: ModelSchema) -> bool:
    """Whether using a model costs no money, whatever it takes.

    Workers on this machine never do; what else is on it does where somebody gave it a price.
    """
    if isinstance(model.source, LocalSource | MlxSource | SystemSource):
        return True
    return is_local(model.source) and not is_priced(model)


def to_nano(usd: float) -> int:
    """A limit in billionths of a dollar, rounded down."""
    return int(Fraction(repr(usd)) * NANO)


def to_usd(nano: float) -> float:
    """An amount in dollars."""
    return nano / NANO
