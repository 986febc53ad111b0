"""What tokens cost, in exact arithmetic. Pure.

Money is counted in whole billionths of a US dollar. Prices are taken for the decimal numbers that
they are written as, and the cost of an attempt is rounded up once, at its end.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import NamedTuple

from car_rpc.wire.base import MAX_SAFE_INTEGER
from car_rpc.wire.models import Cost, PricingTier

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


def cost_nano_usd(cost: Cost, tokens: Tokens) -> int | None:
    """What an attempt costs, at most $9,007,199.25; ``None`` when a price it needs is unknown.

    The tier of the highest threshold that the prompt reaches goes before the model's prices where
    it has its own. Tokens of a cache cost as much as others where they have no price.
    """
    tier = max(
        (each for each in cost.pricing_tiers if each.min_prompt_tokens <= tokens.prompt),
        key=lambda each: each.min_prompt_tokens,
        default=None,
    )
    cached = tokens.cache_read + tokens.cache_write
    input_price = _price("input_per_mtok_usd", tier, cost)
    parts = (
        (max(0, tokens.prompt - cached), input_price),
        (tokens.cache_read, _price("cache_read_per_mtok_usd", tier, cost) or input_price),
        (tokens.cache_write, _price("cache_write_per_mtok_usd", tier, cost) or input_price),
        (tokens.completion, _price("output_per_mtok_usd", tier, cost)),
    )
    total = Fraction(0)
    for count, price in parts:
        if count and price is None:
            return None
        total += count * Fraction(price or 0)
    return min(ceil(total * _PER_TOKEN), MAX_SAFE_INTEGER)


def to_nano(usd: float) -> int:
    """A limit in billionths of a dollar, rounded down."""
    return int(Fraction(repr(usd)) * NANO)


def to_usd(nano: float) -> float:
    """An amount in dollars."""
    return nano / NANO


def _price(name: str, tier: PricingTier | None, cost: Cost) -> str | None:
    # As the text of a decimal number: "0" is a price, too.
    for prices in (tier, cost):
        price = getattr(prices, name, None)
        if isinstance(price, float | int):
            return repr(price)
    return None
