"""What the tracker keeps, over restarts, processes and verdicts."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.outcomes import store as store_module
from car_rpc.outcomes import tracker as tracker_module
from car_rpc.outcomes.priors import BenchmarkPrior, LoadedPrior
from car_rpc.outcomes.profiles import AttemptEnd
from car_rpc.outcomes.signals import Sign
from car_rpc.outcomes.store import OutcomeStore
from car_rpc.outcomes.tracker import Tracker
from car_rpc.wire.outcomes import (
    ImportedProfile,
    ModelProfile,
    OutcomesReportParams,
    PendingOutcome,
    ProfilesImportParams,
    ProfilesResult,
    TaskStats,
)

Open = Callable[..., Tracker]


class Time:
    """A clock in hours of one day."""

    hour = 8

    def __call__(self) -> str:
        return f"2026-01-31T{self.hour:02}:00:00.000Z"


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
async def opened(tmp_path: Path, now: Time) -> AsyncIterator[Open]:
    """Opens the state directory once more, as another process would."""
    trackers: list[Tracker] = []

    def open_tracker(**priors: float) -> Tracker:
        known = {
            name: LoadedPrior(BenchmarkPrior(model_id=name, overall_score=score), tmp_path)
            for name, score in priors.items()
        }
        trackers.append(Tracker(OutcomeStore(tmp_path / "car.db"), known, now))
        return trackers[-1]

    yield open_tracker
    for tracker in trackers:
        await tracker.close(5)


def ended(trace: str = "tr_1", model: str = "a", outcome: str = "success", **more: Any) -> Any:
    return AttemptEnd(trace, 1, model, "generate", outcome, 100.0)._replace(**more)


async def quality(tracker: Tracker, model: str = "a") -> float:
    return (await tracker.up_to_date())[model].ema_quality


async def refusal(work: Any) -> CarError:
    with pytest.raises(CarError) as caught:
        await work
    return caught.value


async def test_a_prior_never_overrides_what_was_observed(opened: Open) -> None:
    tracker = opened()
    seen = ImportedProfile(model_id="a", total_calls=12, success_count=12, ema_quality=0.21)
    await tracker.take_over([seen])
    informed = opened(a=0.95)
    assert informed.profile_of("a") == ModelProfile(
        model_id="a", total_calls=12, success_count=12, ema_quality=0.21
    )
    informed.attempt_ended(ended())
    assert await quality(informed) == pytest.approx(0.8 * 0.21 + 0.2)


async def test_a_prior_is_the_profile_of_a_model_that_was_never_used(opened: Open) -> None:
    tracker = opened(a=0.88)
    cold = tracker.profile_of("a")
    assert cold is not None
    assert (cold.ema_quality, cold.total_calls) == (0.88, 0)
    assert await tracker.export() == []
    assert tracker.profile_of("b") is None
    tracker.attempt_ended(ended())
    assert await quality(tracker) == pytest.approx(0.8 * 0.88 + 0.2)


async def test_another_process_and_a_restart_see_what_was_learned(opened: Open) -> None:
    first, second = opened(), opened()
    first.attempt_ended(ended())
    await first.up_to_date()
    second.attempt_ended(ended(outcome="timeout"))
    await second.up_to_date()
    for tracker in (first, second, opened()):
        profile = tracker.profile_of("a")
        assert profile is not None
        assert (profile.success_count, profile.fail_count) == (1, 1)
        assert profile.ema_quality == pytest.approx(0.8 * 0.6)


async def test_many_attempts_that_end_at_once_are_all_counted(opened: Open) -> None:
    first, second = opened(), opened()
    for number in range(200):
        for tracker in (first, second):
            tracker.attempt_ended(ended(f"tr_{number}", outcome="success"))
        if number % 50 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(first.up_to_date(), second.up_to_date())
    assert first.profiles()["a"].total_calls == 400


async def test_what_an_attempt_teaches_counts_at_once(opened: Open) -> None:
    tracker = opened()
    tracker.attempt_ended(ended())
    tracker.attempt_ended(ended(outcome="timeout"))
    at_once = tracker.profile_of("a")
    assert at_once is not None
    assert (at_once.success_count, at_once.fail_count) == (1, 1)
    assert (await tracker.up_to_date())["a"] == at_once


async def test_attempts_that_end_one_after_the_other_share_a_transaction_until_somebody_asks(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "GATHER_S", 3600.0)
    batches: list[int] = []
    record = OutcomeStore.record

    def recorded(store: OutcomeStore, ends: list[AttemptEnd], *more: Any) -> None:
        batches.append(len(ends))
        record(store, ends, *more)

    monkeypatch.setattr(OutcomeStore, "record", recorded)
    tracker = opened()
    for _ in range(2):
        for number in range(3):
            tracker.attempt_ended(ended(f"tr_{number}"))
            for _ in range(5):
                await asyncio.sleep(0)
        await tracker.up_to_date()
    assert batches == [3, 3]


async def test_refusals_and_cancels_leave_no_trace(opened: Open) -> None:
    tracker = opened()
    for outcome in ("content_filtered", "cancelled"):
        tracker.attempt_ended(ended(outcome=outcome))
    assert await tracker.up_to_date() == {}
    assert await tracker.scoreboard(None, None) == []


async def test_a_verdict_counts_for_the_model_that_answered_and_once(opened: Open) -> None:
    tracker = opened()
    tracker.attempt_ended(ended(model="b", outcome="provider_error"))
    tracker.attempt_ended(ended(model="a", attempt=2))
    report = OutcomesReportParams(trace_id="tr_1", outcome="rejected")
    first = await tracker.report(report)
    assert (first.model_id, first.task, first.quality, first.recorded) == ("a", "generate", 0, True)
    assert await quality(tracker) == pytest.approx(0.8 * 0.6)
    again = await opened().report(report)
    assert (again.quality, again.recorded) == (0, False)
    assert await quality(tracker) == pytest.approx(0.8 * 0.6)


async def test_a_verdict_may_be_graded(opened: Open) -> None:
    tracker = opened()
    tracker.attempt_ended(ended())
    params = OutcomesReportParams(trace_id="tr_1", outcome="accepted", quality=0.25)
    assert (await tracker.report(params)).quality == 0.25
    assert await quality(tracker) == pytest.approx(0.8 * 0.6 + 0.2 * 0.25)


async def test_verdicts_that_make_no_sense_are_refused_with_the_reason(opened: Open) -> None:
    tracker = opened()
    tracker.attempt_ended(ended("tr_failed", outcome="timeout"))
    tracker.attempt_ended(ended("tr_good"))
    empty = await refusal(tracker.report(OutcomesReportParams(trace_id="tr_good")))
    assert (empty.kind, empty.data["path"]) == ("invalid_params", "$.outcome")
    for trace in ("tr_nobody", "tr_failed"):
        params = OutcomesReportParams(trace_id=trace, outcome="accepted")
        error = await refusal(tracker.report(params))
        assert (error.kind, error.data["trace_id"]) == ("not_found", trace)
    await tracker.report(OutcomesReportParams(trace_id="tr_good", outcome="accepted"))
    other = await refusal(
        tracker.report(OutcomesReportParams(trace_id="tr_good", outcome="rejected"))
    )
    assert other.kind == "conflict"
    assert "quality of 1.0" in other.message


async def test_pending_outcomes_count_where_their_answers_are_known(opened: Open) -> None:
    tracker = opened()
    for trace in ("tr_1", "tr_2"):
        tracker.attempt_ended(ended(trace))
    pending = [
        PendingOutcome(trace_id="tr_1", success=True),
        PendingOutcome(trace_id="tr_1", success=False),
        PendingOutcome(trace_id="tr_2", success=False, confidence=0.5),
        PendingOutcome(trace_id="tr_nobody", success=True),
    ]
    assert await tracker.resolve(pending) == 2
    expected = 0.5
    for sample in (1, 1, 1, 0.25):  # both answers, then both verdicts
        expected = 0.8 * expected + 0.2 * sample
    assert await quality(tracker) == pytest.approx(expected)


async def test_the_scoreboard_makes_nothing_up(opened: Open) -> None:
    tracker = opened()
    tracker.attempt_ended(ended("tr_1", "priced", cost_nano_usd=3_000_000))
    tracker.attempt_ended(ended("tr_2", "priced", cost_nano_usd=5_000_000))
    tracker.attempt_ended(ended("tr_3", "priced", cost_nano_usd=7_000_000))
    tracker.attempt_ended(ended("tr_4", "priced", "timeout", cost_nano_usd=1_000_000))
    tracker.attempt_ended(ended("tr_5", "unpriced"))
    unjudged, unpriced = await tracker.scoreboard(None, None)
    assert (unjudged.cost_usd, unjudged.usd_per_success) == (0.016, None)
    assert (unjudged.inconclusive_count, unjudged.mean_quality) == (3, None)
    assert (unpriced.cost_usd, unpriced.usd_per_success) == (None, None)
    for trace, how_good in (("tr_1", 1.0), ("tr_2", 0.0), ("tr_5", 1.0)):
        await tracker.report(OutcomesReportParams(trace_id=trace, quality=how_good))
    priced, unpriced = await tracker.scoreboard(None, None)
    assert (priced.attempt_count, priced.accepted_count, priced.rejected_count) == (4, 1, 1)
    assert (priced.fail_count, priced.inconclusive_count, priced.mean_quality) == (1, 1, 0.5)
    assert priced.usd_per_success == 0.009  # what was judged or failed, by what was accepted
    assert (unpriced.accepted_count, unpriced.usd_per_success) == (1, None)


async def test_the_scoreboard_is_filtered_by_task_and_time(opened: Open, now: Time) -> None:
    tracker = opened()
    tracker.attempt_ended(ended("tr_1"))
    await tracker.up_to_date()
    now.hour = 9
    tracker.attempt_ended(ended("tr_2", task="code"))
    assert [row.attempt_count for row in await tracker.scoreboard(None, None)] == [2]
    assert [row.attempt_count for row in await tracker.scoreboard("code", None)] == [1]
    assert [row.attempt_count for row in await tracker.scoreboard(None, now())] == [1]
    assert await tracker.scoreboard("generate", now()) == []


async def test_only_the_newest_receipts_are_kept(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_RECEIPTS", 3)
    tracker = opened()
    for number in range(5):
        tracker.attempt_ended(ended(f"tr_{number}"))
        await tracker.up_to_date()
    (row,) = await tracker.scoreboard(None, None)
    assert row.attempt_count == 3
    assert (await tracker.up_to_date())["a"].total_calls == 5
    gone = await refusal(tracker.report(OutcomesReportParams(trace_id="tr_1", quality=1.0)))
    assert gone.kind == "not_found"


async def test_profiles_go_out_and_come_in_as_the_same_json(
    opened: Open, tmp_path: Path, now: Time
) -> None:
    import msgspec

    tracker = opened()
    tracker.attempt_ended(ended(output_tokens=100, input_tokens=5))
    tracker.attempt_ended(ended(model="b", outcome="timeout"))
    text = msgspec.json.encode(ProfilesResult(profiles=await tracker.export()))
    assert [each["model_id"] for each in json.loads(text)["profiles"]] == ["a", "b"]
    assert json.loads(text)["profiles"][0]["quality_per_1k_tokens"] == pytest.approx(6)
    other = Tracker(OutcomeStore(tmp_path / "other.db"), {}, now)
    await other.take_over(msgspec.json.decode(text, type=ProfilesImportParams).profiles)
    assert await other.export() == await tracker.export()
    await other.close(5)


async def test_a_profile_that_contradicts_itself_is_named(opened: Open) -> None:
    tracker = opened()
    good = ImportedProfile(model_id="a", total_calls=2, success_count=1)
    bad = ImportedProfile(model_id="b", total_calls=1, success_count=1, fail_count=1)
    error = await refusal(tracker.take_over([good, bad]))
    assert (error.kind, error.data["path"]) == ("invalid_params", "$.profiles[1].total_calls")
    # More successes than calls would make a model more reliable than certain.
    boasts = ImportedProfile(model_id="b", task_stats={"code": TaskStats(calls=1, success_count=9)})
    error = await refusal(tracker.take_over([good, boasts]))
    assert error.data["path"] == "$.profiles[1].task_stats['code'].calls"
    assert await tracker.export() == []


async def test_a_profile_that_cannot_be_read_is_as_if_it_were_not_there(
    opened: Open, tmp_path: Path
) -> None:
    tracker = opened()
    tracker.attempt_ended(ended())
    tracker.attempt_ended(ended(model="b"))
    await tracker.up_to_date()
    with contextlib.closing(sqlite3.connect(tmp_path / "car.db")) as newer, newer:
        newer.execute("""UPDATE profiles SET profile = '{"model_id": 1}' WHERE model_id = 'a'""")
    again = opened()
    assert again.profiles().keys() == {"b"}
    again.attempt_ended(ended())
    assert (await again.up_to_date())["a"].total_calls == 1


async def test_a_database_that_cannot_be_written_costs_no_answer(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = opened()
    with contextlib.closing(sqlite3.connect(tmp_path / "car.db")) as vandal:
        vandal.execute("DROP TABLE receipts")
    tracker.attempt_ended(ended())
    await tracker.up_to_date()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "outcomes of 1 attempts are lost" in warning.getMessage()
    assert opened().profiles() == {}  # and the table is there again
    tracker.attempt_ended(ended())
    assert (await tracker.up_to_date())["a"].total_calls == 1


async def test_a_sign_moves_the_profile_once_and_leaves_the_verdict_to_the_app(
    opened: Open,
) -> None:
    tracker = opened()
    tracker.attempt_ended(ended())
    before = await quality(tracker)
    trace_id = ended().trace_id
    for _ in range(2):
        tracker.implied(Sign(trace_id, 0.25))
    tracker.implied(Sign("tr_unknown", 0.25))
    moved = await quality(tracker)
    assert moved == pytest.approx(0.8 * before + 0.2 * 0.25)
    (row,) = await tracker.scoreboard(None, None)
    assert (row.rejected_count, row.inconclusive_count) == (0, 1)
    verdict = await tracker.report(OutcomesReportParams(trace_id=trace_id, outcome="accepted"))
    assert verdict.recorded
    judged = await quality(tracker)
    assert judged == pytest.approx(0.8 * moved + 0.2)
    tracker.implied(Sign(trace_id, 0.25))
    assert await quality(tracker) == judged, "what was judged needs no sign"
