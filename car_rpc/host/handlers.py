"""What each method does: typed parameters in, typed result out. No JSON-RPC, no I/O.

Each function is bound to its row of the method table by :data:`HANDLERS`. Plain functions
belong to methods that the table marks inline; a future is the encoded result, and comes later.
"""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
from msgspec import UNSET

from car_rpc.engine import judging
from car_rpc.engine.checkpoint import Checkpoint
from car_rpc.engine.generation import failure_of
from car_rpc.errors import CarError, invalid_params
from car_rpc.host import accounts, attachments, audio, health, log_handlers, policies, weights
from car_rpc.host.greeting import installed_backends
from car_rpc.host.progress import heartbeats
from car_rpc.host.replay import replay_run
from car_rpc.host.routing_store import check_config
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.host.stream import NOTHING
from car_rpc.registry.curated import curated
from car_rpc.registry.fit import recommended, with_fit
from car_rpc.registry.search import search, search_templates, upgrades
from car_rpc.wire.base import decode_object
from car_rpc.wire.inference import (
    DetokenizeParams,
    DetokenizeResult,
    EmbedParams,
    EmbedResult,
    GenerateRequest,
    InferenceResult,
    TokenizeParams,
    TokenizeResult,
)
from car_rpc.wire.keys import KeysStatsResult
from car_rpc.wire.lifecycle import EmptyParams
from car_rpc.wire.models import (
    FakeSource,
    ModelParams,
    ModelResult,
    ModelSchema,
    ModelsDiscoverParams,
    ModelsDiscoverResult,
    ModelsListParams,
    ModelsListResult,
    ModelsRegisterParams,
    ModelsRegisterResult,
    ModelsUnregisterResult,
    OpenAICompatSource,
    SecretReference,
)
from car_rpc.wire.routing import RouteDecision, RoutingConfigResult, RoutingSetConfigParams
from car_rpc.wire.runner import (
    RunnerEventParams,
    RunnerEventResult,
    RunnerRegisterParams,
    RunnerRegisterResult,
    RunnerUnregisterResult,
)
from car_rpc.wire.script import check as check_script
from car_rpc.wire.search import (
    Machine,
    ModelsSearchParams,
    ModelsSearchResult,
    ModelsUpgradesResult,
)
from car_rpc.wire.speech import TranscribeParams, TranscribeResult
from car_rpc.wire.tasks import (
    ClassifyParams,
    ClassifyResult,
    GroundParams,
    GroundResult,
    RerankParams,
    RerankResult,
)


async def generate(services: Services, scope: Scope, params: GenerateRequest) -> InferenceResult:
    """Run a model; with ``stream`` its events go to the client first."""
    raw = scope.origin.raw_params
    try:
        params, raw, checkpoint = await _whole_request(services, params, raw)
    except (Exception, asyncio.CancelledError) as error:
        failure = failure_of(error)
        if failure.kind == "cancelled":
            failure = failure.with_data(partial=NOTHING)
        raise await services.engine.refused(scope.origin, failure, params.privacy) from error
    listener = scope.open_stream(params.client_ref) if params.stream else None
    origin = scope.origin._replace(raw_params=raw)
    async with heartbeats(params.progress_token, scope.notify):
        return await services.engine.generate(params, origin, listener, checkpoint)


async def _whole_request(
    services: Services, params: GenerateRequest, raw: bytes
) -> tuple[GenerateRequest, bytes, Checkpoint | None]:
    """A request with all that belongs to it: what it resumes, and the files that it names."""
    params, raw, checkpoint = await services.engine.resumed(params, raw)
    params, raw = await attachments.inline(params, raw, services.allowed_roots)
    return params, raw, checkpoint


async def embed(services: Services, scope: Scope, params: EmbedParams) -> EmbedResult:
    """Embed texts."""
    return await services.engine.embed(params, scope.origin)


async def tokenize(services: Services, _: Scope, params: TokenizeParams) -> TokenizeResult:
    """Token ids of a text."""
    return TokenizeResult(tokens=await services.engine.tokenize(params.model, params.text))


async def detokenize(services: Services, _: Scope, params: DetokenizeParams) -> DetokenizeResult:
    """Text of token ids."""
    return DetokenizeResult(text=await services.engine.detokenize(params.model, params.tokens))


async def classify(services: Services, scope: Scope, params: ClassifyParams) -> ClassifyResult:
    """Which labels fit a text."""
    return await judging.classify(services.engine, params, scope.origin)


async def rerank(services: Services, scope: Scope, params: RerankParams) -> RerankResult:
    """Documents by how well they fit a query."""
    return await judging.rerank(services.engine, params, scope.origin)


async def ground(services: Services, scope: Scope, params: GroundParams) -> GroundResult:
    """Where things are in an image."""
    asked = decode_object(scope.origin.raw_params)
    raw = msgspec.json.encode({"prompt": params.prompt, "images": [asked["image"]]})
    request = msgspec.json.decode(raw, type=GenerateRequest)
    try:
        _, raw = await attachments.inline(request, raw, services.allowed_roots)
    except CarError as error:
        refusal = judging.of_ground(error)
        raise await services.engine.refused(scope.origin, refusal) from None
    image = decode_object(raw)["images"][0]
    origin = scope.origin._replace(raw_params=msgspec.json.encode({**asked, "image": image}))
    return await judging.ground(services.engine, params, image, origin)


async def transcribe(
    services: Services, scope: Scope, params: TranscribeParams
) -> TranscribeResult:
    """Write down what is said in a recording."""
    recording = await asyncio.to_thread(audio.received, params)
    async with heartbeats(params.progress_token, scope.notify):
        return await services.engine.transcribe(params.model, recording, scope.origin)


def models_list(services: Services, _: Scope, params: ModelsListParams) -> ModelsListResult:
    """All models that match."""
    models = [services.engine.described(model) for model in services.registry.all()]
    return ModelsListResult(
        models=[
            model
            for model in models
            if (model.available or not params.available_only)
            and (params.capability in model.capabilities or not isinstance(params.capability, str))
        ]
    )


def models_get(services: Services, _: Scope, params: ModelParams) -> ModelResult:
    """One model, by id or name."""
    model = services.registry.find(params.model)
    return ModelResult(model=services.engine.described(model))


async def models_search(
    services: Services, _: Scope, params: ModelsSearchParams
) -> ModelsSearchResult:
    """The models that match, and which of all suits this machine."""
    models, machine = await _judged(services)
    engines = [name for name, each in installed_backends().items() if each["available"]]
    best = recommended(models, machine, engines)
    return ModelsSearchResult(
        models=search(models, params),
        templates=search_templates(curated().templates, params),
        machine=machine,
        recommended=UNSET if best is None else best.id,
    )


async def models_upgrades(services: Services, _: Scope, __: EmptyParams) -> ModelsUpgradesResult:
    """Newer versions of the models that are here."""
    models, _machine = await _judged(services)
    return ModelsUpgradesResult(upgrades=upgrades(models))


async def _judged(services: Services) -> tuple[list[ModelSchema], Machine]:
    """All models with whether they fit the machine, and the machine."""
    machine = await asyncio.to_thread(services.machine)
    models = (services.engine.described(model) for model in services.registry.all())
    return [with_fit(model, machine) for model in models], machine


async def models_register(
    services: Services, scope: Scope, params: ModelsRegisterParams
) -> ModelsRegisterResult:
    """Add a model; it can be used at once and is there after a restart."""

    async def work() -> ModelsRegisterResult:
        source = params.model.source
        if isinstance(source, FakeSource):
            try:
                check_script(source.script)
            except ValueError as error:
                path = "$.model.source.script"
                raise CarError("invalid_params", f"{error} - at `{path}`", path=path) from None
        if isinstance(source, OpenAICompatSource):
            _check_headers(source)
        # In a thread: another process may hold the database for a moment.
        model, replaced = await asyncio.to_thread(services.registry.register, params.model)
        return ModelsRegisterResult(model=services.engine.described(model), replaced=replaced)

    return await services.engine.recorded(scope.origin, work)


def _check_headers(source: OpenAICompatSource) -> None:
    for name, value in (source.headers or {}).items():
        if isinstance(value, SecretReference) and (value.env is UNSET) == (value.keyring is UNSET):
            detail = "a secret stands in `env` or in `keyring`; give exactly one of them"
            raise invalid_params(detail, f"$.model.source.headers[{name!r}]")


async def models_unregister(
    services: Services, scope: Scope, params: ModelParams
) -> ModelsUnregisterResult:
    """Forget a model; its files stay."""

    async def work() -> ModelsUnregisterResult:
        model_id = await asyncio.to_thread(services.registry.unregister, params.model)
        return ModelsUnregisterResult(model_id=model_id)

    return await services.engine.recorded(scope.origin, work)


async def models_discover(
    services: Services, scope: Scope, params: ModelsDiscoverParams
) -> ModelsDiscoverResult:
    """Look for servers with models; what they have is known until the process ends."""

    async def work() -> ModelsDiscoverResult:
        result = await services.discovery.run(params)
        services.registry.replace_discovered(services.discovery.models())
        return result

    return await services.engine.recorded(scope.origin, work)


async def models_route(services: Services, scope: Scope, params: GenerateRequest) -> RouteDecision:
    """Which model a request would get, and why; it does not run."""
    request, _, _ = await _whole_request(services, params, scope.origin.raw_params)
    return services.engine.explained(request)


def routing_get_config(services: Services, _: Scope, __: EmptyParams) -> RoutingConfigResult:
    """How the router chooses now."""
    return RoutingConfigResult(config=services.routing.current())


async def routing_set_config(
    services: Services, scope: Scope, params: RoutingSetConfigParams
) -> RoutingConfigResult:
    """Choose otherwise from now on, in every process on the state directory."""

    async def work() -> RoutingConfigResult:
        check_config(params.config, "$.config")
        # In a thread: another process may hold the database for a moment.
        await asyncio.to_thread(services.routing.put, params.config)
        return RoutingConfigResult(config=services.routing.current())

    return await services.engine.recorded(scope.origin, work)


async def keys_stats(services: Services, _scope: Scope, _params: EmptyParams) -> KeysStatsResult:
    """How the API keys of servers have fared."""
    return await services.keys.stats()


async def runner_register(
    services: Services, scope: Scope, _: RunnerRegisterParams
) -> RunnerRegisterResult:
    """Make the client the runner of delegated models."""
    # Before anything is awaited, so that requests sent right behind this one find the runner.
    result = RunnerRegisterResult(replaced=services.runner.register())

    async def work() -> RunnerRegisterResult:
        return result

    return await services.engine.recorded(scope.origin, work)


async def runner_unregister(
    services: Services, scope: Scope, _: EmptyParams
) -> RunnerUnregisterResult:
    """Empty the runner's slot."""
    services.runner.unregister()

    async def work() -> RunnerUnregisterResult:
        return RunnerUnregisterResult()

    return await services.engine.recorded(scope.origin, work)


def runner_event(
    services: Services, _: Scope, params: RunnerEventParams
) -> RunnerEventResult | asyncio.Future[bytes]:
    """Take one event of a run; the reply waits until there is room for more."""
    return services.runner.event(params, wants_reply=True)


HANDLERS: dict[str, Handler] = {
    "generate": generate,
    "embed": embed,
    "tokenize": tokenize,
    "detokenize": detokenize,
    "classify": classify,
    "rerank": rerank,
    "ground": ground,
    "transcribe": transcribe,
    "models.list": models_list,
    "models.get": models_get,
    "models.search": models_search,
    "models.upgrades": models_upgrades,
    "models.register": models_register,
    "models.unregister": models_unregister,
    "models.discover": models_discover,
    "keys.stats": keys_stats,
    "models.route": models_route,
    "routing.get_config": routing_get_config,
    "routing.set_config": routing_set_config,
    "runner.register": runner_register,
    "runner.unregister": runner_unregister,
    "runner.event": runner_event,
    **log_handlers.HANDLERS,
    **accounts.HANDLERS,
    **health.HANDLERS,
    **weights.HANDLERS,
    **policies.HANDLERS,
}
HANDLERS["replay.run"] = partial(replay_run, HANDLERS)
