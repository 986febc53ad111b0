"""Handlers of the methods that say how models did: outcomes, profiles and statistics."""

from __future__ import annotations

from msgspec import UNSET

from car_rpc.eventlog.times import bound_to_text
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.wire.lifecycle import EmptyParams
from car_rpc.wire.outcomes import (
    ModelProfile,
    ModelsStatsParams,
    ModelsStatsResult,
    ModelStats,
    OutcomesReportParams,
    OutcomesReportResult,
    OutcomesResolvePendingParams,
    OutcomesResolvePendingResult,
    OutcomesScoreboardParams,
    OutcomesScoreboardResult,
    ProfilesImportParams,
    ProfilesImportResult,
    ProfilesResult,
)


async def outcomes_report(
    services: Services, scope: Scope, params: OutcomesReportParams
) -> OutcomesReportResult:
    """Take a verdict on an answer."""
    return await services.engine.recorded(scope.origin, lambda: services.outcomes.report(params))


async def outcomes_resolve_pending(
    services: Services, scope: Scope, params: OutcomesResolvePendingParams
) -> OutcomesResolvePendingResult:
    """Take verdicts that were found out later."""

    async def work() -> OutcomesResolvePendingResult:
        resolved = await services.outcomes.resolve(params.outcomes)
        return OutcomesResolvePendingResult(recorded=len(params.outcomes), resolved=resolved)

    return await services.engine.recorded(scope.origin, work)


async def outcomes_scoreboard(
    services: Services, _: Scope, params: OutcomesScoreboardParams
) -> OutcomesScoreboardResult:
    """What the models achieved, and for how much."""
    since = None if params.since is UNSET else bound_to_text(params.since, "$.since")
    task = None if params.task is UNSET else params.task
    return OutcomesScoreboardResult(models=await services.outcomes.scoreboard(task, since))


async def profiles_export(services: Services, _: Scope, __: EmptyParams) -> ProfilesResult:
    """All profiles."""
    return ProfilesResult(profiles=await services.outcomes.export())


async def profiles_import(
    services: Services, scope: Scope, params: ProfilesImportParams
) -> ProfilesImportResult:
    """Take over profiles from elsewhere."""

    async def work() -> ProfilesImportResult:
        await services.outcomes.take_over(params.profiles)
        return ProfilesImportResult(imported=len(params.profiles))

    return await services.engine.recorded(scope.origin, work)


async def models_stats(
    services: Services, _: Scope, params: ModelsStatsParams
) -> ModelsStatsResult:
    """How models did so far."""
    profiles = await services.outcomes.up_to_date()
    if isinstance(params.model, str):
        model_id = services.registry.find(params.model).id
        wanted = [profiles.get(model_id, ModelProfile(model_id=model_id))]
    else:
        wanted = [profile for _, profile in sorted(profiles.items())]
    return ModelsStatsResult(models=[_stats(profile) for profile in wanted])


def _stats(profile: ModelProfile) -> ModelStats:
    return ModelStats(
        model_id=profile.model_id,
        total_calls=profile.total_calls,
        success_count=profile.success_count,
        fail_count=profile.fail_count,
        success_rate=_mean(profile.success_count, profile.total_calls),
        mean_latency_ms=_mean(profile.total_latency_ms, profile.success_count),
        mean_ttft_ms=_mean(profile.total_ttft_ms, profile.ttft_count),
        total_input_tokens=profile.total_input_tokens,
        total_output_tokens=profile.total_output_tokens,
        ema_quality=profile.ema_quality,
        task_stats=profile.task_stats,
    )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


HANDLERS: dict[str, Handler] = {
    "outcomes.report": outcomes_report,
    "outcomes.resolve_pending": outcomes_resolve_pending,
    "outcomes.scoreboard": outcomes_scoreboard,
    "profiles.export": profiles_export,
    "profiles.import": profiles_import,
    "models.stats": models_stats,
}
