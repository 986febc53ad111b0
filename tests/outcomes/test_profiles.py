"""The arithmetic of profiles, in numbers that were worked out by hand."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.errors import KINDS
from car_rpc.outcomes.profiles import AttemptEnd, counts, judged, observed, quality_of
from car_rpc.wire.outcomes import ModelProfile, TaskStats

NOW = "2026-01-31T08:30:00.000Z"
FRESH = ModelProfile(model_id="me/one:1")


def ended(outcome: str = "success", latency_ms: float = 100.0, **fields: Any) -> AttemptEnd:
    return AttemptEnd("tr_1", 1, "me/one:1", "generate", outcome, latency_ms)._replace(**fields)


def after(*ends: AttemptEnd, profile: ModelProfile = FRESH) -> ModelProfile:
    for end in ends:
        profile = observed(profile, end, NOW)
    return profile


def test_ten_calls_give_exactly_these_numbers() -> None:
    # + is a success of 100 ms with 10 and 20 tokens, - a failure: + + - + - - + + + -
    good = ended(ttft_ms=40.0, input_tokens=10, output_tokens=20)
    bad = ended("provider_error", latency_ms=5000.0, input_tokens=99, output_tokens=99)
    script = [good, good, bad, good, bad, bad, good, good, good, bad]
    averages = [0.6, 0.68, 0.544, 0.6352, 0.50816, 0.406528, 0.5252224, 0.62017792]
    averages += [0.696142336, 0.5569138688]
    profile = FRESH
    for end, average in zip(script, averages, strict=True):
        profile = observed(profile, end, NOW)
        assert math.isclose(profile.ema_quality, average, abs_tol=1e-12)
    assert (profile.total_calls, profile.success_count, profile.fail_count) == (10, 6, 4)
    assert (profile.total_latency_ms, profile.total_ttft_ms, profile.ttft_count) == (600, 240, 6)
    assert (profile.total_input_tokens, profile.total_output_tokens) == (60, 120)
    assert profile.task_stats == {
        "generate": TaskStats(
            calls=10,
            success_count=6,
            fail_count=4,
            total_latency_ms=600,
            ema_quality=profile.ema_quality,
        )
    }
    # An average answer has 20 tokens, a fiftieth of a thousand.
    assert profile.quality_per_1k_tokens == pytest.approx(profile.ema_quality * 50)
    assert profile.updated_at == NOW


def test_a_model_that_nothing_is_known_of_is_thought_of_as_half_good() -> None:
    assert FRESH.ema_quality == 0.5
    assert after(ended()).ema_quality == pytest.approx(0.6)
    assert after(ended("timeout")).ema_quality == pytest.approx(0.4)


def test_a_prior_is_where_the_average_begins() -> None:
    prior = ModelProfile(model_id="me/one:1", ema_quality=0.88)
    assert after(ended(), profile=prior).ema_quality == pytest.approx(0.8 * 0.88 + 0.2)


def test_half_of_the_weight_is_with_the_last_three_observations() -> None:
    good = after(*[ended()] * 200)
    assert good.ema_quality == pytest.approx(1.0)
    forgotten = after(*[ended("timeout")] * 3, profile=good)
    assert forgotten.ema_quality == pytest.approx(0.8**3)
    assert 0.5 < forgotten.ema_quality < 0.52


def test_tasks_are_kept_apart_and_a_new_one_begins_with_the_whole() -> None:
    profile = after(*[ended()] * 5)
    whole = profile.ema_quality
    profile = after(ended("timeout", task="code"), profile=profile)
    assert profile.task_stats["generate"].ema_quality == whole
    assert profile.task_stats["code"].ema_quality == pytest.approx(0.8 * whole)
    assert (profile.task_stats["code"].calls, profile.task_stats["generate"].calls) == (1, 5)


def test_a_verdict_moves_the_quality_and_no_count() -> None:
    profile = judged(after(ended(output_tokens=500)), "generate", 0.25, NOW)
    assert profile.ema_quality == pytest.approx(0.8 * 0.6 + 0.2 * 0.25)
    assert profile.task_stats["generate"].ema_quality == profile.ema_quality
    assert (profile.total_calls, profile.success_count) == (1, 1)
    assert profile.quality_per_1k_tokens == pytest.approx(profile.ema_quality * 2)


@pytest.mark.parametrize(
    ("success", "confidence", "quality"),
    [(True, 1, 1), (True, 0.5, 0.75), (True, 0, 0.5), (False, 0, 0.5), (False, 1, 0)],
)
def test_a_verdict_weighs_as_much_as_it_is_sure(
    success: bool, confidence: float, quality: float
) -> None:
    assert quality_of(success=success, confidence=confidence) == quality


@pytest.mark.parametrize("outcome", sorted({"success", *KINDS}))
def test_refusals_cancels_and_faulty_requests_count_neither_way(outcome: str) -> None:
    neither = {"content_filtered", "cancelled", "context_overflow", "policy_denied", "internal"}
    if outcome in neither:
        assert not counts(ended(outcome))
    elif outcome == "success" or KINDS[outcome].counts_toward_breaker:
        assert counts(ended(outcome))


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["generate", "code"]), st.floats(0, 1))),
    st.floats(0, 1),
)
def test_quality_stays_between_0_and_1_and_counts_add_up(
    script: list[tuple[bool, str, float]], prior: float
) -> None:
    profile = ModelProfile(model_id="m", ema_quality=prior)
    for success, task, verdict in script:
        profile = observed(profile, ended("success" if success else "timeout", task=task), NOW)
        profile = judged(profile, task, verdict, NOW)
        assert 0 <= profile.ema_quality <= 1
    assert profile.total_calls == profile.success_count + profile.fail_count == len(script)
    assert sum(stats.calls for stats in profile.task_stats.values()) == len(script)
