"""A model that keeps failing is left alone, then probed by one request."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.engine.breaker import Breaker, BreakerPolicy, Breakers, Permit
from car_rpc.errors import CarError

FAILURE = CarError("provider_error", "x")
POLICY = BreakerPolicy()


def fail(breaker: Breaker, times: int, failure: CarError = FAILURE, now_ms: float = 0.0) -> None:
    for _ in range(times):
        permit(breaker, now_ms).failed(failure, now_ms)


def permit(breaker: Breaker, now_ms: float = 0.0) -> Permit:
    given_permit = breaker.admit(now_ms)
    assert given_permit is not None
    return given_permit


def opened() -> Breaker:
    breaker = Breaker(POLICY)
    fail(breaker, 5)
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    breaker = Breaker(POLICY)
    fail(breaker, 4)
    assert breaker.state == "closed"

    fail(breaker, 1)

    assert breaker.state == "open"
    assert not breaker.admit(29_999)


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker(POLICY)
    fail(breaker, 4)
    permit(breaker).succeeded()
    fail(breaker, 4)

    assert breaker.state == "closed"


def test_after_the_cooldown_one_request_and_no_more_may_probe() -> None:
    breaker = opened()

    assert breaker.admit(30_000)
    assert breaker.state == "half_open"
    assert not breaker.admit(30_000)
    assert not breaker.available(90_000)


def test_a_probe_that_works_closes_it() -> None:
    breaker = opened()

    permit(breaker, 30_000).succeeded()

    assert breaker.state == "closed"
    assert breaker.admit(30_000)


def test_a_probe_that_fails_opens_it_at_once_for_another_cooldown() -> None:
    breaker = opened()

    permit(breaker, 30_000).failed(FAILURE, 30_000)

    assert not breaker.available(59_999)
    assert breaker.available(60_000)


def test_an_abandoned_probe_frees_its_place_without_a_verdict() -> None:
    breaker = opened()

    permit(breaker, 30_000).failed(CarError("cancelled"), 30_000)

    assert breaker.state == "half_open"
    assert breaker.admit(30_000)


@pytest.mark.parametrize("late", ["succeeded", "failed", "cancelled"])
def test_what_was_asked_before_it_opened_has_no_say_in_the_probe(late: str) -> None:
    breaker = Breaker(POLICY)
    old = permit(breaker)
    fail(breaker, 5)
    probe = permit(breaker, 30_000)

    if late == "succeeded":
        old.succeeded()
    else:
        old.failed(FAILURE if late == "failed" else CarError("cancelled"), 30_000)

    assert breaker.state == "half_open"
    assert not breaker.admit(30_000), "the probe still runs"
    probe.succeeded()
    assert breaker.state == "closed"


def test_requests_that_fail_together_open_it_once() -> None:
    breaker = Breaker(POLICY)
    together = [permit(breaker) for _ in range(8)]
    for number, one in enumerate(together):
        one.failed(FAILURE, number * 1000.0)

    assert breaker.available(34_000), "the fifth opened it; what came later did not prolong it"


def test_who_asks_all_the_same_changes_nothing() -> None:
    breaker = opened()

    breaker.bypass().succeeded()
    breaker.bypass().failed(FAILURE, 20_000)

    assert breaker.state == "open"
    assert breaker.available(30_000)


def test_looking_changes_nothing() -> None:
    breaker = opened()

    assert [breaker.available(30_000) for _ in range(3)] == [True] * 3
    assert breaker.state == "open"


@pytest.mark.parametrize(
    "failure",
    [
        CarError("content_filtered", "x"),
        CarError("cancelled"),
        CarError("context_overflow", "x"),
        CarError("unauthorized", "x", status=401),
        CarError("invalid_request", "x", status=400),
        CarError("runner_failed", "the event is malformed", retryable=False),
    ],
    ids=lambda failure: failure.kind,
)
def test_what_says_nothing_about_the_model_never_counts(failure: CarError) -> None:
    breaker = Breaker(POLICY)
    fail(breaker, 20, failure)

    assert breaker.state == "closed"


def test_such_a_failure_of_a_probe_frees_its_place() -> None:
    breaker = opened()

    permit(breaker, 30_000).failed(CarError("context_overflow", "x"), 30_000)

    assert breaker.admit(30_000)


def test_a_model_that_only_times_out_is_left_alone() -> None:
    breaker = Breaker(POLICY)
    fail(breaker, 5, CarError("timeout", "x", cause="deadline"))

    assert breaker.state == "open"


@pytest.mark.parametrize(("weight", "failures"), [(1, 5), (2, 3)])
def test_client_errors_count_as_much_as_asked_for(weight: Literal[1, 2], failures: int) -> None:
    breaker = Breaker(BreakerPolicy(weight_4xx=weight))
    refusal = CarError("invalid_request", "x", status=400)
    fail(breaker, failures - 1, refusal)
    assert breaker.state == "closed"

    fail(breaker, 1, refusal)

    assert breaker.state == "open"


def test_too_many_requests_are_no_client_error() -> None:
    breaker = Breaker(BreakerPolicy(weight_4xx=2))
    fail(breaker, 4, CarError("rate_limited", "x", status=429))

    assert breaker.state == "closed"


def test_each_model_has_its_own() -> None:
    breakers = Breakers(POLICY)
    fail(breakers.of("a/b:c"), 5)

    assert not breakers.of("a/b:c").available(0)
    assert breakers.of("a/b:d").available(0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 20_000))))
def test_whatever_happens_one_probes_at_a_time_and_somebody_gets_through_in_the_end(
    history: list[tuple[int, int, int]],
) -> None:
    breaker, now = Breaker(POLICY), 0.0
    running: list[Permit] = []
    probe: Permit | None = None
    for what, whom, passed in history:
        now += passed
        if what == 0 or not running:
            permit_now = breaker.admit(now)
            if permit_now is not None:
                running.append(permit_now)
                if breaker.state == "half_open":
                    assert probe not in running, "two probes"
                    probe = permit_now
            continue
        one = running.pop(whom % len(running))
        if what == 1:
            one.succeeded()
        else:
            one.failed(FAILURE if what == 2 else CarError("cancelled"), now)
    for one in running:
        one.failed(CarError("cancelled"), now)

    assert breaker.available(now + POLICY.cooldown_ms)


def test_of_all_models_only_those_are_shut_off_that_would_not_be_asked() -> None:
    breakers = Breakers(POLICY)
    breakers.of("a/well:1")
    fail(breakers.of("a/ill:1"), 5)
    assert breakers.shut_off(0) == {"a/ill:1"}
    assert breakers.shut_off(POLICY.cooldown_ms) == set()
    breakers.of("a/ill:1").admit(POLICY.cooldown_ms)
    assert breakers.shut_off(POLICY.cooldown_ms) == {"a/ill:1"}, "its probe is under way"
