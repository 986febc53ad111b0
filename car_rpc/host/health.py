"""The handler of ``models.health``: one report, made of what the process knows anyway."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import get_args

import msgspec
from msgspec import UNSET

from car_rpc.backends.openai_compat.keys import Keys
from car_rpc.engine import judging
from car_rpc.engine.engine import Engine
from car_rpc.engine.routing import MAX_LOGGED_CANDIDATES
from car_rpc.errors import CarError
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.outcomes.priors import LoadedPrior
from car_rpc.wire.health import (
    BenchmarkPriorHealth,
    BreakerState,
    CapabilityHealth,
    CredentialHealth,
    DefaultModel,
    ModelCounts,
    ModelHealth,
    ModelsHealthResult,
    ProviderHealth,
    RoutingScenario,
    ScenarioName,
)
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.lifecycle import EmptyParams
from car_rpc.wire.models import (
    Capability,
    ModelSchema,
    OllamaSource,
    OpenAICompatSource,
    VllmMlxSource,
)
from car_rpc.wire.routing import IntentHint
from car_rpc.wire.sources import is_local, source_label

CAPABILITIES: tuple[Capability, ...] = get_args(Capability)

#: Methods that are called otherwise than what a model must be able to do for them.
_METHODS: dict[str, str] = {"grounding": "ground", "speech_to_text": "transcribe"}

#: What has methods of its own; a ``generate`` may need any of the others.
_OF_OTHER_METHODS: frozenset[Capability] = frozenset(
    {
        "embed",
        "rerank",
        "classify",
        "grounding",
        "speech_to_text",
        "text_to_speech",
        "image_generation",
        "video_generation",
    }
)

_TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks it up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}
_IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
}

#: Typical requests; spec/ROUTING.md, section 10.
SCENARIOS: dict[ScenarioName, GenerateRequest] = msgspec.convert(
    {
        "interactive_text": {"prompt": "Tell me of it."},
        "background_code": {
            "prompt": "Write a function that parses it.",
            "params": {"workload": "background"},
            "intent": {"task": "code"},
        },
        "interactive_tool_use": {"prompt": "Look it up.", "tools": [_TOOL]},
        "interactive_vision": {"prompt": "What is it?", "images": [_IMAGE]},
    },
    dict[ScenarioName, GenerateRequest],
)


async def models_health(services: Services, _: Scope, __: EmptyParams) -> ModelsHealthResult:
    """The state of all models. Asks no server and loads nothing."""
    engine, config = services.engine, services.routing.current()
    known = services.registry.all()
    models = [engine.described(model) for model in known]
    return ModelsHealthResult(
        counts=_counts(models),
        defaults=[_default(engine, capability) for capability in CAPABILITIES],
        providers=_providers(services.keys, known, models),
        capabilities=[
            CapabilityHealth(
                capability=each, models=_counts(m for m in models if each in m.capabilities)
            )
            for each in CAPABILITIES
        ],
        models=[_model(engine, model) for model in models],
        routing=config,
        routing_scenarios=[
            _scenario(engine, name, cold_start=config.quality_first_cold_start)
            for name in SCENARIOS
        ],
        benchmark_priors=_priors(services.outcomes.priors, {model.id for model in known}),
    )


def _counts(models: Iterable[ModelSchema]) -> ModelCounts:
    states = [(is_local(model.source), model.available) for model in models]
    local = sum(here for here, _ in states)
    available = sum(there for _, there in states)
    local_available = states.count((True, True))
    return ModelCounts(
        total=len(states),
        available=available,
        local=local,
        remote=len(states) - local,
        local_available=local_available,
        remote_available=available - local_available,
    )


def _default(engine: Engine, capability: Capability) -> DefaultModel:
    try:
        model_id, reason = _chosen(engine, capability)
    except CarError as error:
        return DefaultModel(capability=capability, model_id=None, reason=error.message)
    return DefaultModel(capability=capability, model_id=model_id, reason=reason)


def _chosen(engine: Engine, capability: Capability) -> tuple[str, str]:
    """Id of the model that a request without one gets, and why."""
    if capability in _OF_OTHER_METHODS:
        veto = engine.policing.guard(_METHODS.get(capability, capability)).veto
        if capability == "classify":
            choice = judging.classifier(engine, UNSET, veto)
        else:
            choice = engine.routing.choice(UNSET, capability, veto)
        return choice.model.id, choice.reason
    request = GenerateRequest(prompt="", intent=IntentHint(require=[capability]))
    veto = engine.policing.guard("generate", request=request).veto
    decision = engine.routing.generate(request, capability, veto).decision
    return decision.model_id, decision.reason


def _providers(
    keys: Keys, known: Iterable[ModelSchema], described: Iterable[ModelSchema]
) -> list[ProviderHealth]:
    """The providers, by name.

    Args:
        keys: The API keys.
        known: The models as they were registered, for only those tell where their secrets are.
        described: The same models as they are now.
    """
    secrets: dict[str, dict[str, bool | None]] = defaultdict(dict)
    configured: set[str] = set()
    models: dict[str, list[ModelSchema]] = defaultdict(list)
    for model, now in zip(known, described, strict=True):
        models[model.provider].append(now)
        match model.source:
            case OpenAICompatSource() as source:
                secrets[model.provider] |= keys.named(source)
                ready = keys.has_key(source)
            case OllamaSource() | VllmMlxSource():
                ready = now.available
            case _:
                ready = True  # whether its weights are here is another matter
        if ready:
            configured.add(model.provider)
    return [
        ProviderHealth(
            provider=name,
            configured=name in configured,
            credentials=[
                CredentialHealth(name=secret, is_set=is_set)
                for secret, is_set in sorted(secrets[name].items())
            ],
            models=_counts(its),
            capabilities=[each for each in CAPABILITIES if _any_has(its, each)],
        )
        for name, its in sorted(models.items())
    ]


def _any_has(models: Iterable[ModelSchema], capability: Capability) -> bool:
    return any(capability in model.capabilities for model in models)


def _model(engine: Engine, model: ModelSchema) -> ModelHealth:
    breaker, now_ms = engine.breakers.of(model.id), engine.clock.now_ms()
    wait_ms = math.ceil(breaker.wait_ms(now_ms))
    state: BreakerState = breaker.state
    if state == "open" and not wait_ms:
        state = "half_open"
    return ModelHealth(
        model_id=model.id,
        source=source_label(model.source),
        is_local=is_local(model.source),
        available=model.available,
        weights_ready=model.weights_ready,
        breaker=state,
        reason=model.reason,
        retry_after_ms=wait_ms or UNSET,
    )


def _scenario(engine: Engine, name: ScenarioName, *, cold_start: bool) -> RoutingScenario:
    request = SCENARIOS[name]
    workload = request.params.workload or "interactive"
    scenario = RoutingScenario(
        name=name,
        workload=workload,
        has_tools=bool(request.tools),
        has_vision=bool(request.images),
        quality_first_cold_start=cold_start and workload == "interactive",
    )
    try:
        # Its name is the seed, so that the report only changes when something else does.
        veto = engine.policing.guard("generate", request=request).veto
        decision = engine.routing.generate(request, name, veto).decision
    except CarError as error:
        return msgspec.structs.replace(scenario, why_none=error.message)
    decision = msgspec.structs.replace(
        decision, candidates=decision.candidates[:MAX_LOGGED_CANDIDATES]
    )
    return msgspec.structs.replace(scenario, decision=decision)


def _priors(priors: Mapping[str, LoadedPrior], known: set[str]) -> list[BenchmarkPriorHealth]:
    return [
        BenchmarkPriorHealth(
            model_id=model_id,
            known=model_id in known,
            overall_score=prior.overall_score,
            overall_latency_ms=prior.overall_latency_ms,
            task_scores=prior.task_scores,
            task_latency_ms=prior.task_latency_ms,
            source_path=str(path),
        )
        for model_id, (prior, path) in sorted(priors.items())
    ]


HANDLERS: dict[str, Handler] = {"models.health": models_health}
