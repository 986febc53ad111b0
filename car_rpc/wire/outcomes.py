"""What is known of a model from how its answers went."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import NonNegative, NonNegativeFloat, UnitInterval, WireStruct

#: How good an answer is: 0 is a failure, 1 a full success.


class TaskStats(WireStruct, frozen=True, kw_only=True):
    """How a model did at one task.

    Attributes:
        calls: Requests that ended, in success or failure.
        success_count: Those that succeeded.
        fail_count: Those that failed.
        total_latency_ms: Time that the successful ones took together, in milliseconds.
        ema_quality: Exponential moving average of their quality, from 0 to 1.
    """

    calls: NonNegative = 0
    success_count: NonNegative = 0
    fail_count: NonNegative = 0
    total_latency_ms: NonNegativeFloat = 0.0
    ema_quality: UnitInterval = 0.5


class ModelProfile(WireStruct, frozen=True, kw_only=True):
    """What was observed of a model, or is assumed of it before it was used.

    Attributes:
        model_id: Id of the model.
        total_calls: Requests that ended, in success or failure; 0 for a mere prior.
        success_count: Those that succeeded.
        fail_count: Those that failed.
        total_latency_ms: Time that the successful ones took together, in milliseconds.
        total_ttft_ms: Time until their first token, in milliseconds, of those that streamed one.
        ttft_count: Successful ones that streamed a token.
        total_input_tokens: Tokens of their prompts.
        total_output_tokens: Tokens of their answers.
        task_stats: The same by task: ``generate``, ``code``, ``reasoning``, ``embed``,
            ``classify``, ``rerank``, ``transcribe``.
        ema_quality: Exponential moving average of their quality, from 0 to 1.
        quality_per_1k_tokens: ``ema_quality`` by a thousand tokens of an average answer; absent
            before any token was counted.
        updated_at: When it last changed, in RFC 3339; absent for a mere prior.
    """

    model_id: str
    total_calls: NonNegative = 0
    success_count: NonNegative = 0
    fail_count: NonNegative = 0
    total_latency_ms: NonNegativeFloat = 0.0
    total_ttft_ms: NonNegativeFloat = 0.0
    ttft_count: NonNegative = 0
    total_input_tokens: NonNegative = 0
    total_output_tokens: NonNegative = 0
    task_stats: dict[str, TaskStats] = msgspec.field(default_factory=dict[str, TaskStats])
    ema_quality: UnitInterval = 0.5
    quality_per_1k_tokens: NonNegativeFloat | UnsetType = UNSET
    updated_at: str | UnsetType = UNSET


class ImportedProfile(ModelProfile, frozen=True, kw_only=True):
    """A profile from elsewhere, which may say some things otherwise.

    Attributes:
        quality_per_1k_tokens: Worked out anew, whatever it is.
        updated_at: In RFC 3339, or in seconds since 1970.
    """

    # It is only read, so a wider type does no harm.
    quality_per_1k_tokens: NonNegativeFloat | UnsetType | None = UNSET  # type: ignore[assignment] # pyright: ignore[reportIncompatibleVariableOverride] - as above
    updated_at: str | NonNegative | UnsetType | None = UNSET  # type: ignore[assignment] # pyright: ignore[reportIncompatibleVariableOverride] - as above


class OutcomesReportParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``outcomes.report``. One of ``outcome`` and ``quality`` is required.

    Attributes:
        trace_id: The request whose answer is judged.
        outcome: Whether the answer was of use: ``accepted`` is a quality of 1, ``rejected`` of 0.
        quality: The same in degrees, from 0 to 1; it goes before ``outcome``.
    """

    trace_id: str
    outcome: Literal["accepted", "rejected"] | UnsetType = UNSET
    quality: UnitInterval | UnsetType = UNSET


class OutcomesReportResult(WireStruct, frozen=True, kw_only=True):
    """What the verdict was counted for.

    Attributes:
        model_id: Id of the model whose answer it was.
        task: Its task.
        quality: The quality that the answer now has.
        recorded: False if the same had been reported before, so that nothing changed.
    """

    model_id: str
    task: str
    quality: UnitInterval
    recorded: bool


class PendingOutcome(WireStruct, frozen=True, kw_only=True):
    """A verdict on an answer that was found out later, for example by running its code.

    Attributes:
        trace_id: The request.
        success: Whether the answer turned out to be right.
        confidence: How sure that is; the answer's quality is 0.5 plus or minus half of it.
    """

    trace_id: str
    success: bool
    confidence: UnitInterval = 1.0


class OutcomesResolvePendingParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``outcomes.resolve_pending``.

    Attributes:
        outcomes: The verdicts.
    """

    outcomes: Annotated[list[PendingOutcome], Meta(max_length=1000)]


class OutcomesResolvePendingResult(WireStruct, frozen=True, kw_only=True):
    """How many verdicts came, and how many of them counted.

    Attributes:
        recorded: Verdicts that were passed in.
        resolved: Those that counted: their request is known, was answered, and had no verdict.
    """

    recorded: NonNegative
    resolved: NonNegative


class OutcomesScoreboardParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``outcomes.scoreboard``.

    Attributes:
        task: Only attempts at this task.
        since: Only attempts that ended at or after this time, ISO 8601 with ``Z`` or an offset.
    """

    task: str | UnsetType = UNSET
    since: str | UnsetType = UNSET


class ScoreboardRow(WireStruct, frozen=True, kw_only=True):
    """What a model achieved, and for how much. Nothing is made up: what is not known is null.

    Attributes:
        model_id: Id of the model.
        attempt_count: Attempts that were answered or failed.
        accepted_count: Answers that were judged with a quality of at least 0.5.
        rejected_count: Answers that were judged with less.
        fail_count: Attempts that failed.
        inconclusive_count: Answers that nobody has judged.
        mean_quality: Mean quality of the judged answers.
        cost_usd: What all the attempts cost together; null unless the cost of each is known.
        usd_per_success: What attempts cost per accepted answer, with all that were judged or
            failed, and without the inconclusive ones; null without an accepted answer, and
            unless the cost of each is known.
    """

    model_id: str
    attempt_count: NonNegative
    accepted_count: NonNegative
    rejected_count: NonNegative
    fail_count: NonNegative
    inconclusive_count: NonNegative
    mean_quality: float | None
    cost_usd: float | None
    usd_per_success: float | None


class OutcomesScoreboardResult(WireStruct, frozen=True, kw_only=True):
    """The models that were used, by id, over the latest attempts that are kept.

    Attributes:
        models: A row for each model.
    """

    models: list[ScoreboardRow]


class ProfilesResult(WireStruct, frozen=True, kw_only=True):
    """Result of ``profiles.export``, and what ``profiles.import`` takes.

    Attributes:
        profiles: What was observed of each model, by id.
    """

    profiles: list[ModelProfile]


class ProfilesImportParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``profiles.import``.

    Attributes:
        profiles: Each takes the place of what was observed here of its model.
    """

    profiles: Annotated[list[ImportedProfile], Meta(max_length=10_000)]


class ProfilesImportResult(WireStruct, frozen=True, kw_only=True):
    """How many profiles were taken over.

    Attributes:
        imported: How many.
    """

    imported: NonNegative


class ModelsStatsParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``models.stats``.

    Attributes:
        model: Id or name of a model; all that anything is known of when absent.
    """

    model: str | UnsetType = UNSET


class ModelStats(WireStruct, frozen=True, kw_only=True):
    """How a model did so far. What was never observed is null.

    Attributes:
        model_id: Id of the model.
        total_calls: Attempts that ended in success or failure.
        success_count: Those that succeeded.
        fail_count: Those that failed.
        success_rate: Part that succeeded; null before the first one ended.
        mean_latency_ms: Mean time of a successful attempt, in milliseconds.
        mean_ttft_ms: Mean time until its first token, in milliseconds.
        total_input_tokens: Tokens of the prompts of the successful ones.
        total_output_tokens: Tokens of their answers.
        ema_quality: Exponential moving average of the quality; a benchmark's score or 0.5 before
            the first attempt ended.
        task_stats: The same by task.
    """

    model_id: str
    total_calls: NonNegative
    success_count: NonNegative
    fail_count: NonNegative
    success_rate: float | None
    mean_latency_ms: float | None
    mean_ttft_ms: float | None
    total_input_tokens: NonNegative
    total_output_tokens: NonNegative
    ema_quality: UnitInterval
    task_stats: dict[str, TaskStats]


class ModelsStatsResult(WireStruct, frozen=True, kw_only=True):
    """Statistics of the models, by id.

    Attributes:
        models: A row for each model.
    """

    models: list[ModelStats]
