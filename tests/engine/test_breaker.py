"""A model that keeps failing is left alone, then probed by one request."""

from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.engine.breaker import Breaker, BreakerPolicy, Breakers
from car_rpc.errors import CarError

FAILURE = CarError("provider_error", "x")
POLICY = BreakerPolicy()


def opened(now_ms: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(5):
        breaker.failed(FAILURE, now_ms)
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    breaker = Breaker(POLICY)
    for _ in range(4):
        breaker.failed(FAILURE, 0)
    assert breaker.admit(0)

    breaker.failed(FAILURE, 0)

    assert breaker.state == "open"
    assert not breaker.admit(29_999)


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker(POLICY)
    for _ in range(4):
        breaker.failed(FAILURE, 0)
    breaker.succeeded()
    for _ in range(4):
        breaker.failed(FAILURE, 0)

    assert breaker.state == "closed"


def test_after_the_cooldown_one_request_and_no_more_may_probe() -> None:
    breaker = opened()

    assert breaker.admit(30_000)
    assert breaker.state == "half_open"
    assert not breaker.admit(30_000)


def test_a_probe_that_works_closes_it() -> None:
    breaker = opened()
    breaker.admit(30_000)

    breaker.succeeded()

    assert breaker.state == "closed"
    assert breaker.admit(30_000)


def test_a_probe_that_fails_opens_it_at_once_for_another_cooldown() -> None:
    breaker = opened()
    breaker.admit(30_000)

    breaker.failed(FAILURE, 30_000)

    assert not breaker.available(59_999)
    assert breaker.available(60_000)


def test_an_abandoned_probe_frees_its_place_without_a_verdict() -> None:
    breaker = opened()
    breaker.admit(30_000)

    breaker.abandoned()

    assert breaker.state == "half_open"
    assert breaker.admit(30_000)


def test_looking_changes_nothing() -> None:
    breaker = opened()

    assert [breaker.available(30_000) for _ in range(3)] == [True] * 3
    assert breaker.state == "open"


@pytest.mark.parametrize(
    "kind",
    ["content_filtered", "cancelled", "context_overflow", "unauthorized", "invalid_request"],
)
def test_what_says_nothing_about_the_model_never_counts(kind: str) -> None:
    breaker = Breaker(POLICY)
    for _ in range(20):
        breaker.failed(CarError(kind, "x"), 0)

    assert breaker.state == "closed"


def test_such_a_failure_of_a_probe_ends_the_probe() -> None:
    breaker = opened()
    breaker.admit(30_000)

    breaker.failed(CarError("cancelled"), 30_000)

    assert breaker.admit(30_000)


@pytest.mark.parametrize(("weight", "failures"), [(1, 5), (2, 3)])
def test_client_errors_count_as_much_as_asked_for(weight: Literal[1, 2], failures: int) -> None:
    breaker = Breaker(BreakerPolicy(weight_4xx=weight))
    for _ in range(failures - 1):
        breaker.failed(CarError("invalid_request", "x", status=400), 0)
    assert breaker.state == "closed"

    breaker.failed(CarError("invalid_request", "x", status=400), 0)

    assert breaker.state == "open"


def test_each_model_has_its_own() -> None:
    breakers = Breakers(POLICY)
    for _ in range(5):
        breakers.of("a/b:c").failed(FAILURE, 0)

    assert not breakers.of("a/b:c").available(0)
    assert breakers.of("a/b:d").available(0)


Step = Callable[[Breaker, float], object]
STEPS: list[Step] = [
    lambda breaker, now: breaker.admit(now),
    lambda breaker, now: breaker.succeeded(),
    lambda breaker, now: breaker.failed(FAILURE, now),
    lambda breaker, now: breaker.abandoned(),
]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 20_000))))
def test_whatever_happens_a_breaker_lets_somebody_through_in_the_end(
    history: list[tuple[Step, int]],
) -> None:
    breaker = Breaker(POLICY)
    now = 0.0
    for step, passed in history:
        now += passed
        step(breaker, now)
    breaker.abandoned()  # whoever was admitted has ended

    assert breaker.available(now + POLICY.cooldown_ms)
