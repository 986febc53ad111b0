"""The state of all models at a glance: what there is, what is missing, and who would get what."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, NonNegativeFloat, WireStruct
from car_rpc.wire.inference import Workload
from car_rpc.wire.models import Capability
from car_rpc.wire.routing import RouteDecision, RoutingConfig

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]

ScenarioName: TypeAlias = Literal[
    "interactive_text", "background_code", "interactive_tool_use", "interactive_vision"
]


class ModelCounts(WireStruct, frozen=True, kw_only=True):
    """How many models there are.

    Attributes:
        total: All.
        available: Those that could serve a request now.
        local: Those that run on this machine, on a server on it included.
        remote: The others.
        local_available: Local ones that are available.
        remote_available: Others that are available.
    """

    total: NonNegative
    available: NonNegative
    local: NonNegative
    remote: NonNegative
    local_available: NonNegative
    remote_available: NonNegative


class DefaultModel(WireStruct, frozen=True, kw_only=True):
    """Which model a request with this need gets when it names none.

    Attributes:
        capability: The need.
        model_id: Id of the model; null when no model can do it now.
        reason: Why this one, or why none, for people.
    """

    capability: Capability
    model_id: str | None
    reason: str


class CredentialHealth(WireStruct, frozen=True, kw_only=True):
    """A secret that models of a provider need. Never the secret.

    Attributes:
        name: Name of an environment variable of the core, or ``keyring:`` with service and user
            name of an entry in the operating system's keychain.
        is_set: Whether the variable is set; null for an entry of the keychain, which is not
            asked, for that may ask the user.
    """

    name: str
    is_set: bool | None


class ProviderHealth(WireStruct, frozen=True, kw_only=True):
    """A provider and its models.

    Attributes:
        provider: Its name.
        configured: Whether any of its models has what it needs beside weights: a key where it
            names one, an Ollama or vLLM-MLX server that has not gone.
        credentials: The secrets that its models name, by name.
        models: How many models it has.
        capabilities: What they can do together, in the order of ``capabilities`` of the report.
    """

    provider: str
    configured: bool
    credentials: list[CredentialHealth]
    models: ModelCounts
    capabilities: list[Capability]


class CapabilityHealth(WireStruct, frozen=True, kw_only=True):
    """A capability and who has it.

    Attributes:
        capability: The capability.
        models: How many models have it.
    """

    capability: Capability
    models: ModelCounts


class ModelHealth(WireStruct, frozen=True, kw_only=True):
    """A model as it is now.

    Attributes:
        model_id: Its id.
        source: Where it comes from: the kind of its source and what is most telling of it, such
            as ``remote:https://api.example.com`` or ``ollama:http://127.0.0.1:11434:llama3.2:3b``.
        is_local: Whether it runs on this machine, on a server on it included.
        available: Whether it could serve a request now.
        weights_ready: Whether its weights are there.
        reason: Why they are not, with the file that is missing or what it lacks; of a model that
            is ready and reads text only, that its projector is missing.
        breaker: Its circuit breaker: ``closed`` while it works, ``open`` while it is left alone
            because it kept failing, ``half_open`` when the next request will try it.
        retry_after_ms: How long it is still left alone, in milliseconds.
    """

    model_id: str
    source: str
    is_local: bool
    available: bool
    weights_ready: bool
    breaker: BreakerState
    reason: str | UnsetType = UNSET
    retry_after_ms: NonNegative | UnsetType = UNSET


class BenchmarkPriorHealth(WireStruct, frozen=True, kw_only=True):
    """What a benchmark says of a model. It counts until the model was used.

    Attributes:
        model_id: Id of the model.
        known: Whether there is such a model.
        overall_score: Its quality, from 0 to 1.
        overall_latency_ms: Its usual latency, in milliseconds.
        task_scores: Its quality by task.
        task_latency_ms: Its latency by task, in milliseconds.
        source_path: The file that says so; of several, the last one that was read.
    """

    model_id: str
    known: bool
    overall_score: float
    overall_latency_ms: NonNegativeFloat | UnsetType = UNSET
    task_scores: dict[str, float]
    task_latency_ms: dict[str, NonNegativeFloat]
    source_path: str


class RoutingScenario(WireStruct, frozen=True, kw_only=True):
    """A typical request, and the model that it would get now.

    Attributes:
        name: Which one; ``spec/ROUTING.md`` has their requests.
        workload: Who waits for it.
        has_tools: Whether it brings tools.
        has_vision: Whether it brings an image.
        quality_first_cold_start: Whether quality goes first while its task is new; never where
            nobody waits.
        decision: The decision with its reason, and the best 16 of its candidates; absent when no
            model can answer.
        why_none: Why none can.
    """

    name: ScenarioName
    workload: Workload
    has_tools: bool
    has_vision: bool
    quality_first_cold_start: bool
    decision: RouteDecision | UnsetType = UNSET
    why_none: str | UnsetType = UNSET


class ModelsHealthResult(WireStruct, frozen=True, kw_only=True):
    """Result of ``models.health``.

    It is made of what this process knows: no server is asked, and no model is loaded.

    Attributes:
        counts: How many models there are.
        defaults: Which model each capability gets, in the order of ``capabilities``.
        providers: The providers, by name.
        capabilities: Every capability, with or without models.
        models: Every model, by id.
        routing: How models are chosen.
        routing_scenarios: What that comes to for four typical requests.
        benchmark_priors: What benchmarks say of models, by id.
    """

    counts: ModelCounts
    defaults: list[DefaultModel]
    providers: list[ProviderHealth]
    capabilities: list[CapabilityHealth]
    models: list[ModelHealth]
    routing: RoutingConfig
    routing_scenarios: list[RoutingScenario]
    benchmark_priors: list[BenchmarkPriorHealth]
