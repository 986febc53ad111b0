"""What tokens cost, to the billionth of a dollar."""

from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.spend.prices import Tokens, cost_nano_usd, to_nano, to_usd
from car_rpc.wire.base import MAX_SAFE_INTEGER
from car_rpc.wire.models import Cost

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
