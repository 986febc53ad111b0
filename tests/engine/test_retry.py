"""How long is waited before the next attempt: the executor contract's numbers."""

import pytest

from car_rpc.engine.retry import RetryPolicy
from car_rpc.errors import CarError

POLICY = RetryPolicy()


@pytest.mark.parametrize(
    ("retries_before", "delay_ms"),
    [(0, 500), (1, 1000), (2, 2000), (3, 4000), (4, 8000), (5, 8000)],
)
def test_the_delay_doubles_up_to_the_cap(retries_before: int, delay_ms: int) -> None:
    assert POLICY.delay_ms(CarError("provider_error", "x"), retries_before) == delay_ms


@pytest.mark.parametrize(("retries_before", "delay_ms"), [(0, 2000), (1, 4000), (2, 8000)])
def test_an_overloaded_provider_gets_more_time(retries_before: int, delay_ms: int) -> None:
    assert POLICY.delay_ms(CarError("overloaded", "x"), retries_before) == delay_ms


def test_a_providers_own_wish_may_exceed_the_cap() -> None:
    failure = CarError("rate_limited", "x", retry_after_ms=60_000)

    assert POLICY.delay_ms(failure, 0) == 60_000


def test_a_providers_own_wish_never_shortens_the_delay() -> None:
    assert POLICY.delay_ms(CarError("rate_limited", "x", retry_after_ms=1), 0) == 500


def test_a_stream_that_fell_silent_is_tried_again_soon() -> None:
    failure = CarError("stream_interrupted", "idle stall", cause="idle_stall")

    assert POLICY.delay_ms(failure, 5) == 200


def test_no_base_means_no_delay() -> None:
    assert RetryPolicy(backoff_base_ms=0).delay_ms(CarError("provider_error", "x"), 9) == 0


def test_a_number_of_retries_beyond_all_reason_is_still_capped() -> None:
    assert POLICY.delay_ms(CarError("provider_error", "x"), 10**6) == 8000
