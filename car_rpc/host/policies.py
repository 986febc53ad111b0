"""Handlers of the ``policy.*`` methods, and the rules at the door: before a method is called.

Methods that choose a model ask the rules about each one themselves; see
:mod:`car_rpc.engine.policing`. All others are asked about here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from car_rpc.engine.recording import Recorder
from car_rpc.errors import CarError
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.registry.catalog import normalised
from car_rpc.wire.lifecycle import EmptyParams
from car_rpc.wire.methods import RUNS_MODELS
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.policy import PolicyRemoveParams, PolicyRulesResult, PolicySetParams

#: What chooses a model, or tells of each what becomes of it, and asks about it then.
#: ``runner.event`` only answers a run.
ASKED_LATER = RUNS_MODELS | {"models.warm_up", "runner.event"}

#: What runs, loads or downloads the model that it names. Rules are asked about anything else only
#: by its name.
USES_NAMED_MODEL = frozenset({"detokenize", "models.load", "models.pull", "tokenize"})


def policy_list(services: Services, _: Scope, __: EmptyParams) -> PolicyRulesResult:
    """All rules."""
    return PolicyRulesResult(rules=services.policies.all())


async def policy_set(
    services: Services, scope: Scope, params: PolicySetParams
) -> PolicyRulesResult:
    """Set rules."""

    async def work() -> PolicyRulesResult:
        # In a thread: another process may hold the database for a moment.
        await asyncio.to_thread(services.policies.put, params.rules)
        return PolicyRulesResult(rules=services.policies.all())

    return await services.engine.recorded(scope.origin, work)


async def policy_remove(
    services: Services, scope: Scope, params: PolicyRemoveParams
) -> PolicyRulesResult:
    """Remove a rule that was set."""

    async def work() -> PolicyRulesResult:
        await asyncio.to_thread(services.policies.remove, params.id)
        return PolicyRulesResult(rules=services.policies.all())

    return await services.engine.recorded(scope.origin, work)


def gate(
    services: Services, scope: Scope, method: str, params: Any
) -> Coroutine[Any, Any, None] | None:
    """What has to be awaited before a method is called with these parameters, if anything.

    It raises ``policy_denied`` for what must not be, with that in the event log, whatever else of
    the method is.
    """
    if method in ASKED_LATER:
        return None
    policing = services.engine.policing
    if method.startswith("policy."):
        # What `policy.set` did can always be undone.
        policing = policing.with_rules(lambda: services.policies.configured)
    guard = partial(policing.guard, method, by_name=method not in USES_NAMED_MODEL)
    models = _models(services, params)
    if all(guard().passes(model) for model in models):
        return None

    async def admit(recorder: Recorder) -> None:
        await recorder.written()
        for model in models:
            await guard(recorder).admit(model)

    return services.engine.traced(scope.origin, admit)


def _models(services: Services, params: Any) -> list[ModelSchema | None]:
    """The models that parameters name or bring; ``None`` stands for one that is not known."""
    named = getattr(params, "models", None) or [getattr(params, "model", None)]
    return [_model(services, model) for model in named]


def _model(services: Services, model: Any) -> ModelSchema | None:
    if isinstance(model, ModelSchema):
        return normalised(model)
    if not isinstance(model, str):
        return None
    try:
        return services.registry.find(model)
    except CarError:
        return None  # the method says so


HANDLERS: dict[str, Handler] = {
    "policy.list": policy_list,
    "policy.set": policy_set,
    "policy.remove": policy_remove,
}
