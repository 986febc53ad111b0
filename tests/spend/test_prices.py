"""What tokens cost, to the billionth of a dollar."""

from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.spend.prices import (
    Tokens,
    cost_nano_usd,
    estimated_usd,
    is_free,
    to_nano,
    to_usd,
)
from car_rpc.wire.base import MAX_SAFE_INTEGER
from car_rpc.wire.models import Cost, ModelSchema

PLAIN = {"input_per_mtok_usd": 3, "output_per_mtok_usd": 15}
CACHED = {**PLAIN, "cache_read_per_mtok_usd": 0.3, "cache_write_per_mtok_usd": 3.75}
TIERED = {
    **CACHED,
    "pricing_tiers": [
        {"min_prompt_tokens": 500_000, "input_per_mtok_usd": 9},
        {"min_prompt_tokens": 200_000, "input_per_mtok_usd": 6, "output_per_mtok_usd": 22.5},
    ],
}


def cost(**fields: Any) -> Cost:
    return msgspec.convert(fields, Cost)


@pytest.mark.parametrize(
    ("prices", "tokens", "usd"),
    [
        (PLAIN, Tokens(1_000_000, 0), "3"),
        (PLAIN, Tokens(1000, 200), "0.006"),
        (PLAIN, Tokens(1000, 200, cache_read=400), "0.006"),  # no price of its own
        (CACHED, Tokens(1000, 200, cache_read=400), "0.00492"),
        (CACHED, Tokens(1000, 0, cache_read=400, cache_write=500), "0.002295"),
        (CACHED, Tokens(100, 0, cache_read=400), "0.00012"),  # counts that contradict each other
        (TIERED, Tokens(199_999, 0), "0.599997"),
        (TIERED, Tokens(200_000, 1000), "1.2225"),
        (TIERED, Tokens(500_000, 1000), "4.515"),  # the output's price is not the lower tier's
        (TIERED, Tokens(200_000, 0, cache_read=200_000), "0.06"),  # what a tier does not name stays
        ({"input_per_mtok_usd": 0, "output_per_mtok_usd": 0}, Tokens(9, 9), "0"),
        ({"input_per_mtok_usd": 0.02}, Tokens(50, 0), "0.000001"),
    ],
)
def test_the_cost_is_exact(prices: dict[str, Any], tokens: Tokens, usd: str) -> None:
    assert cost_nano_usd(cost(**prices), tokens) == Fraction(usd) * 10**9


@pytest.mark.parametrize("prices", [{}, {"input_per_mtok_usd": 3}, {"output_per_mtok_usd": 3}])
def test_without_a_price_that_is_needed_the_cost_is_unknown_and_not_0(
    prices: dict[str, Any],
) -> None:
    assert cost_nano_usd(cost(**prices), Tokens(1, 1)) is None


def test_a_free_cache_is_free() -> None:
    prices = cost(**{**PLAIN, "cache_read_per_mtok_usd": 0})
    assert cost_nano_usd(prices, Tokens(100, 0, cache_read=100)) == 0


def test_a_cost_is_rounded_up_once() -> None:
    prices = cost(input_per_mtok_usd=0.0001, output_per_mtok_usd=0.0001)
    assert cost_nano_usd(prices, Tokens(1, 1)) == 1  # 0.2 billionths
    assert cost_nano_usd(prices, Tokens(10, 1)) == 2  # 1.1


def test_an_absurd_price_does_not_overflow() -> None:
    prices = cost(input_per_mtok_usd=1e300, output_per_mtok_usd=1e300)
    assert cost_nano_usd(prices, Tokens(MAX_SAFE_INTEGER, 1)) == MAX_SAFE_INTEGER


def test_limits_are_the_decimal_numbers_that_they_are_written_as() -> None:
    assert to_nano(0.1) == 100_000_000
    assert to_nano(1e-9) == 1
    assert to_nano(1.9999999999) == 1_999_999_999
    assert to_usd(to_nano(12.34)) == 12.34


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.floats(0, 1000), st.floats(0, 1000))
def test_a_cost_is_never_less_than_it_is_nor_a_billionth_more(
    prompt: int, completion: int, into: float, out: float
) -> None:
    exact = (prompt * Fraction(repr(into)) + completion * Fraction(repr(out))) * 1000
    found = cost_nano_usd(
        cost(input_per_mtok_usd=into, output_per_mtok_usd=out), Tokens(prompt, completion)
    )
    assert found is not None
    assert 0 <= found - exact < 1


OLLAMA = {"type": "ollama", "model_tag": "m"}
LOCAL = {"type": "local", "path": "/m.gguf"}
DELEGATED = {"type": "delegated"}


def model(source: dict[str, Any], **prices: Any) -> ModelSchema:
    fields = {"id": "me/m:1", "source": source, "capabilities": ["generate"], "cost": prices}
    return msgspec.convert(fields, ModelSchema)


@pytest.mark.parametrize(
    ("source", "prices", "usd"),
    [
        (DELEGATED, PLAIN, 0.018),
        (DELEGATED, TIERED, 0.018),
        (DELEGATED, {}, None),
        (DELEGATED, {"input_per_mtok_usd": 3}, None),
        (OLLAMA, {}, 0.0),
        ({**OLLAMA, "host": "http://10.0.0.5:11434"}, {}, None),
        (LOCAL, {}, 0.0),
        (LOCAL, PLAIN, 0.018),
        (LOCAL, {"input_per_mtok_usd": 3}, None),
    ],
)
def test_an_estimate_is_the_cost_or_unknown_and_nothing_on_this_machine(
    source: dict[str, Any], prices: dict[str, Any], usd: float | None
) -> None:
    assert estimated_usd(model(source, **prices), 1000, 1000) == usd


@pytest.mark.parametrize(
    ("source", "prices", "free"),
    [
        (LOCAL, PLAIN, True),
        (OLLAMA, {}, True),
        (OLLAMA, PLAIN, False),
        ({**OLLAMA, "host": "http://10.0.0.5:11434"}, {}, False),
        ({"type": "vllm_mlx", "endpoint": "http://127.0.0.2:8000", "model_name": "m"}, {}, True),
        (DELEGATED, {}, False),
    ],
)
def test_what_runs_on_this_machine_is_free_unless_it_was_given_a_price(
    source: dict[str, Any], prices: dict[str, Any], free: bool
) -> None:
    assert is_free(model(source, **prices)) is free
