"""Handlers of the methods that bring weights to this machine and to memory, and away again."""

from __future__ import annotations

from msgspec import UnsetType

from car_rpc.engine.policing import Guard, refused
from car_rpc.engine.recording import Recorder
from car_rpc.errors import CarError
from car_rpc.host.progress import heartbeats
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.wire.lifecycle import ProgressValue
from car_rpc.wire.models import ModelParams, ModelSchema
from car_rpc.wire.pulls import ModelsPullParams, ModelsPullResult, ModelsRemoveResult
from car_rpc.wire.residency import (
    ModelsLoadParams,
    ModelsLoadResult,
    ModelsUnloadResult,
    ModelsWarmUpParams,
    ModelsWarmUpResult,
    WarmUpResult,
)


async def models_pull(
    services: Services, scope: Scope, params: ModelsPullParams
) -> ModelsPullResult:
    """Bring the weights of a model; says how far that is."""

    async def work() -> ModelsPullResult:
        model = services.registry.find(params.model)
        from_path = params.from_path if isinstance(params.from_path, str) else None
        async with heartbeats(params.progress_token, scope.notify) as report:
            pulled = await services.weights.pull(
                model.id, from_path, lambda done, total: report(_progress(done, total))
            )
        return ModelsPullResult(
            model=services.engine.described(services.registry.find(model.id)),
            size_bytes=pulled.size_bytes,
            downloaded_bytes=pulled.downloaded_bytes,
        )

    return await services.engine.recorded(scope.origin, work)


async def models_remove(
    services: Services, scope: Scope, params: ModelParams
) -> ModelsRemoveResult:
    """Delete the weights of a model."""

    async def work() -> ModelsRemoveResult:
        model = services.registry.find(params.model)
        removed = await services.weights.remove(model.id)
        return ModelsRemoveResult(
            model_id=model.id,
            removed=removed.paths,
            freed_bytes=removed.freed_bytes,
            also_used_by=removed.also_used_by,
        )

    return await services.engine.recorded(scope.origin, work)


async def models_load(
    services: Services, scope: Scope, params: ModelsLoadParams
) -> ModelsLoadResult:
    """Load a model."""

    async def work() -> ModelsLoadResult:
        model = services.registry.find(params.model)
        async with heartbeats(params.progress_token, scope.notify):
            load_ms = await _load(services, model, params.keep_alive_ms)
        return ModelsLoadResult(model_id=model.id, load_ms=load_ms)

    return await services.engine.recorded(scope.origin, work)


async def models_unload(
    services: Services, scope: Scope, params: ModelParams
) -> ModelsUnloadResult:
    """Take a model out of memory."""

    async def work() -> ModelsUnloadResult:
        model = services.registry.find(params.model)
        unloaded = await services.weights.unload(model)
        return ModelsUnloadResult(
            model_id=model.id, was_loaded=unloaded.was_loaded, freed_bytes=unloaded.freed_bytes
        )

    return await services.engine.recorded(scope.origin, work)


async def models_warm_up(
    services: Services, scope: Scope, params: ModelsWarmUpParams
) -> ModelsWarmUpResult:
    """Load models; what cannot or must not be loaded does not keep the others from it."""

    async def warmed(wanted: str, guard: Guard, recorder: Recorder) -> WarmUpResult:
        try:
            model = services.registry.find(wanted)
            await guard.admit(model)
            load_ms = await _load(services, model, params.keep_alive_ms)
        except CarError as error:
            if (refusal := refused(error)) is not None:
                recorder.note("policy", **refusal)
            unknown = error.kind == "model_not_found"
            return WarmUpResult(
                model=wanted,
                loaded=False,
                kind=error.kind,
                message=f"warm_up: unknown schema id {wanted}" if unknown else error.message,
            )
        return WarmUpResult(model=wanted, loaded=True, load_ms=load_ms)

    async def work(recorder: Recorder) -> ModelsWarmUpResult:
        guard = services.engine.policing.guard(scope.origin.method, recorder)
        async with heartbeats(params.progress_token, scope.notify):
            results = [await warmed(wanted, guard, recorder) for wanted in params.models]
        return ModelsWarmUpResult(results=results)

    return await services.engine.traced(scope.origin, work)


async def _load(services: Services, model: ModelSchema, keep_alive_ms: int | UnsetType) -> float:
    clock = services.engine.clock
    started_ms = clock.now_ms()
    asked = keep_alive_ms if isinstance(keep_alive_ms, int) else None
    await services.weights.load(model, asked)
    return round(clock.now_ms() - started_ms, 3)


def _progress(done_bytes: int, total_bytes: int) -> ProgressValue:
    value = ProgressValue(kind="report", done_bytes=done_bytes)
    if not total_bytes:
        return value
    return ProgressValue(
        kind="report",
        done_bytes=done_bytes,
        total_bytes=total_bytes,
        percent=round(100 * done_bytes / total_bytes, 1),
    )


HANDLERS: dict[str, Handler] = {
    "models.pull": models_pull,
    "models.remove": models_remove,
    "models.load": models_load,
    "models.unload": models_unload,
    "models.warm_up": models_warm_up,
}
