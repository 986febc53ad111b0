"""The arithmetic of profiles: what the end of an attempt and a verdict change. Pure.

Quality is an exponential moving average: each new observation moves it a fifth of the way. So
what happened ``n`` observations ago weighs ``0.8 ** n``, half of it after three; this is all the
decay there is. Counts and totals never decay.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from car_rpc.errors import invalid_params
from car_rpc.wire.outcomes import ImportedProfile, ModelProfile, TaskStats

#: How much of the old average stays with each observation.
KEPT = 0.8

#: How a model that nothing is known of is thought of.
UNKNOWN_QUALITY = 0.5

#: An answer of at least this quality is accepted.
ACCEPTED_QUALITY = 0.5

SUCCESS = "success"

#: Ends that say nothing of the model: the client's own wish, a refusal on grounds of content,
#: requests that no model could have served so, and our own defects.
_NO_VERDICT = frozenset(
    {
        "cancelled",
        "content_filtered",
        "context_overflow",
        "internal",
        "invalid_params",
        "invalid_request",
        "message_too_large",
        "no_runner",
        "policy_denied",
        "shutting_down",
        "spend_limit_exceeded",
        "unsupported_mode",
    }
)


class AttemptEnd(NamedTuple):
    """How one attempt on one model ended.

    Attributes:
        trace_id: The request.
        attempt: Its number within the request, from 1.
        model_id: The model.
        task: What it was asked for; see :attr:`ModelProfile.task_stats`.
        outcome: ``success``, or the kind of the failure.
        latency_ms: How long it took, in milliseconds.
        ttft_ms: Time until its first token, if there was one.
        input_tokens: Tokens of its prompt, if the backend said.
        output_tokens: Tokens of its answer, if the backend said.
        cost_nano_usd: What it cost, in billionths of a dollar; ``None`` when nobody knows.
    """

    trace_id: str
    attempt: int
    model_id: str
    task: str
    outcome: str
    latency_ms: float
    ttft_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_nano_usd: int | None = None


def counts(end: AttemptEnd) -> bool:
    """Whether the end of an attempt says anything of the model."""
    return end.outcome not in _NO_VERDICT


def observed(profile: ModelProfile, end: AttemptEnd, now: str) -> ModelProfile:
    """The profile with one more attempt that counts.

    Args:
        profile: What was known; its quality may be a mere prior.
        end: How the attempt ended.
        now: When, in RFC 3339.
    """
    stats = profile.task_stats.get(end.task) or TaskStats(ema_quality=profile.ema_quality)
    succeeded = end.outcome == SUCCESS
    quality = float(succeeded)
    took_ms = end.latency_ms if succeeded else 0.0
    stats = msgspec.structs.replace(
        stats,
        calls=stats.calls + 1,
        success_count=stats.success_count + succeeded,
        fail_count=stats.fail_count + (not succeeded),
        total_latency_ms=stats.total_latency_ms + took_ms,
        ema_quality=_moved(stats.ema_quality, quality),
    )
    streamed = succeeded and end.ttft_ms is not None
    return _with_efficiency(
        msgspec.structs.replace(
            profile,
            total_calls=profile.total_calls + 1,
            success_count=profile.success_count + succeeded,
            fail_count=profile.fail_count + (not succeeded),
            total_latency_ms=profile.total_latency_ms + took_ms,
            total_ttft_ms=profile.total_ttft_ms + ((end.ttft_ms or 0.0) if streamed else 0.0),
            ttft_count=profile.ttft_count + streamed,
            total_input_tokens=profile.total_input_tokens + succeeded * (end.input_tokens or 0),
            total_output_tokens=profile.total_output_tokens + succeeded * (end.output_tokens or 0),
            task_stats={**profile.task_stats, end.task: stats},
            ema_quality=_moved(profile.ema_quality, quality),
            updated_at=now,
        )
    )


def judged(profile: ModelProfile, task: str, quality: float, now: str) -> ModelProfile:
    """The profile after a verdict on one of the model's answers, which was counted before.

    Args:
        profile: What was known.
        task: What the answer was for.
        quality: How good it was, from 0 to 1.
        now: When this was said, in RFC 3339.
    """
    stats = profile.task_stats.get(task) or TaskStats(ema_quality=profile.ema_quality)
    stats = msgspec.structs.replace(stats, ema_quality=_moved(stats.ema_quality, quality))
    return _with_efficiency(
        msgspec.structs.replace(
            profile,
            task_stats={**profile.task_stats, task: stats},
            ema_quality=_moved(profile.ema_quality, quality),
            updated_at=now,
        )
    )


def taken_over(profile: ImportedProfile, path: str) -> ModelProfile:
    """A profile from elsewhere as it is kept here.

    Args:
        profile: The profile.
        path: Where it stands, for the error.

    Raises:
        CarError: ``invalid_params`` for counts that cannot be.
    """
    rows: list[tuple[ModelProfile | TaskStats, int, str]] = [
        (profile, profile.total_calls, f"{path}.total_calls")
    ]
    rows += [
        (stats, stats.calls, f"{path}.task_stats[{task!r}].calls")
        for task, stats in profile.task_stats.items()
    ]
    for seen, calls, where in rows:
        if seen.success_count + seen.fail_count > calls:
            raise invalid_params("more successes and failures than calls", where)
    given = msgspec.structs.asdict(profile)
    updated_at, given["updated_at"] = profile.updated_at, UNSET
    if isinstance(updated_at, str):
        given["updated_at"] = updated_at
    elif isinstance(updated_at, int):
        try:
            moment = datetime.fromtimestamp(updated_at, UTC)
        except (OverflowError, OSError, ValueError):
            raise invalid_params("no such time", f"{path}.updated_at") from None
        given["updated_at"] = moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    return _with_efficiency(ModelProfile(**given))


def quality_of(*, success: bool, confidence: float) -> float:
    """The quality that a verdict of a certain confidence stands for; none at all is 0.5."""
    return 0.5 + confidence / 2 if success else 0.5 - confidence / 2


def _moved(average: float, quality: float) -> float:
    return KEPT * average + (1 - KEPT) * quality


def _with_efficiency(profile: ModelProfile) -> ModelProfile:
    if not profile.total_output_tokens:
        return msgspec.structs.replace(profile, quality_per_1k_tokens=UNSET)
    thousands = profile.total_output_tokens / max(profile.success_count, 1) / 1000
    return msgspec.structs.replace(profile, quality_per_1k_tokens=profile.ema_quality / thousands)
