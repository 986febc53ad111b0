"""Handlers of the methods that say how models did, what they cost, and who waits for them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from car_rpc.errors import CarError
from car_rpc.eventlog.times import bound_to_text
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.spend.budget import scope_of
from car_rpc.wire.admission import AdmissionStatus
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
from car_rpc.wire.spend import SpendLimits, SpendStatusParams, SpendStatusResult


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


async def spend_status(
    services: Services, _: Scope, params: SpendStatusParams
) -> SpendStatusResult:
    """What was spent, and what may be."""
    model_id = _spender(services, params.model)
    return await services.budget.status(scope_of(model_id, params.provider))


async def spend_set_limits(
    services: Services, scope: Scope, params: SpendLimits
) -> SpendStatusResult:
    """Replace the limits of some models."""

    async def work() -> SpendStatusResult:
        model_id = _spender(services, params.model)
        return await services.budget.set_limits(msgspec.structs.replace(params, model=model_id))

    return await services.engine.recorded(scope.origin, work)


def _spender(services: Services, wanted: str | UnsetType) -> str | UnsetType:
    """Id of a model. One that is gone keeps its accounts, and its limits can be lifted."""
    if wanted is UNSET:
        return UNSET
    try:
        return services.registry.find(wanted).id
    except CarError as error:
        if error.kind == "model_not_found" and services.budget.knows(scope_of(wanted, None)):
            return wanted
        raise


def admission_status(services: Services, _: Scope, __: EmptyParams) -> AdmissionStatus:
    """How much local work runs and waits."""
    admission = services.engine.admission
    permits, in_use, running, queued = admission.scheduler.count()
    return AdmissionStatus(
        permits_total=permits,
        permits_available=permits - in_use,
        permits_in_use=in_use,
        running=running,
        queued=queued,
        env_override=admission.policy.max_concurrent or None,
        memory_budget_bytes=services.workers.budget_bytes or None,
        loaded=services.workers.loaded(),
    )


HANDLERS: dict[str, Handler] = {
    "outcomes.report": outcomes_report,
    "outcomes.resolve_pending": outcomes_resolve_pending,
    "outcomes.scoreboard": outcomes_scoreboard,
    "profiles.export": profiles_export,
    "profiles.import": profiles_import,
    "models.stats": models_stats,
    "spend.status": spend_status,
    "spend.set_limits": spend_set_limits,
    "admission.status": admission_status,
}
