"""Handlers of the methods that bring weights to this machine and take them away."""

from __future__ import annotations

from car_rpc.host.progress import heartbeats
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.wire.lifecycle import ProgressValue
from car_rpc.wire.models import ModelParams
from car_rpc.wire.pulls import ModelsPullParams, ModelsPullResult, ModelsRemoveResult


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


HANDLERS: dict[str, Handler] = {"models.pull": models_pull, "models.remove": models_remove}
