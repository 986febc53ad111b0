"""Routing: hints of a request, the router's configuration, and the decision with its reasons."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import NonNegative, NonNegativeFloat, Positive, UnitInterval, WireStruct
from car_rpc.wire.models import Capability

TaskHint: TypeAlias = Literal["chat", "classify", "summarize", "reasoning", "code", "extract"]
Task: TypeAlias = Literal["generate", "embed", "classify", "code", "reasoning"]
TaskComplexity: TypeAlias = Literal["simple", "medium", "code", "complex"]
RoutingMode: TypeAlias = Literal["auto", "fast", "best"]
RoutingStrategy: TypeAlias = Literal[
    "explicit", "schema_based", "profile_based", "exploration", "pool"
]
Names: TypeAlias = Annotated[list[str], Meta(max_length=1024)]


class IntentHint(WireStruct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request is for, as a hint to the router. A request that names a model keeps it.

    Attributes:
        task: What is asked for.
        prefer_local: Rather a model on this machine.
        prefer_fast: Rather a fast one.
        prefer_quality: Rather a good one.
        high_stakes: The best one there is; goes before the other preferences.
        require: What the model must be able to do.
        exclude_models: Ids or names of models that are only taken when no other is left.
    """

    task: TaskHint | UnsetType = UNSET
    prefer_local: bool = False
    prefer_fast: bool = False
    prefer_quality: bool = False
    high_stakes: bool = False
    require: list[Capability] = []
    exclude_models: Names = []


class PoolMember(WireStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of a pool.

    Attributes:
        model_id: Its id.
        weight: Its share of the homes, beside the weights of the others.
        role: ``failover_only`` members are nobody's home.
    """

    model_id: str
    weight: Annotated[float, Meta(gt=0.0, le=1e6)] = 1.0
    role: Literal["member", "failover_only"] = "member"


class PoolSwitch(WireStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which failures move a conversation to another member of its pool.

    Attributes:
        on_circuit_open: Transient failures do, once the member's circuit breaker is open.
        on_quota: A rate limit does.
        quota_retry_after_threshold_ms: Only when the wait is at least this long or unknown.
        on_permanent: A model that is gone or refuses the credentials does.
        max_switches_per_session: How often one conversation moves at most; unlimited when absent.
    """

    on_circuit_open: bool = True
    on_quota: bool = True
    quota_retry_after_threshold_ms: NonNegative = 0
    on_permanent: bool = True
    max_switches_per_session: NonNegative | UnsetType = UNSET


class PoolSpec(WireStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models that stand for one another; asked for as the model ``pool/NAME``.

    Attributes:
        members: The models; at least one of them may be a home.
        home: How a conversation gets its home: by a hash that is the same in every process, in
            turn, or the first that works.
        sticky_scope: Whether a home is kept for a conversation or only for one request.
        switch: When a conversation moves.
    """

    members: Annotated[list[PoolMember], Meta(min_length=1, max_length=256)]
    home: Literal["deterministic", "round_robin", "first_healthy"] = "deterministic"
    sticky_scope: Literal["conversation", "request"] = "conversation"
    switch: PoolSwitch = PoolSwitch()


class RoutingConfig(WireStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the router chooses. ``spec/ROUTING.md`` has the rules.

    Attributes:
        mode: Which weights are used: balanced, cheap and fast, or the best answers.
        quality_weight: Weight of quality. The three weights are given together, with a sum of 1,
            and go before ``mode``.
        latency_weight: Weight of speed.
        cost_weight: Weight of cost.
        min_observations: Calls after which what was observed of a model goes before what it
            declares.
        max_latency_ms: Models known to take longer are left out, in milliseconds.
        max_cost_usd: Models that cost more for the request, or whose price is unknown, are left
            out, in USD.
        prefer_local: Whether models on this machine get a small bonus.
        prior_strength: How many observations an assumption is worth.
        quality_first_cold_start: Whether quality goes first while a task is new.
        bootstrap_min_task_observations: Calls of a task after which it is not new any more.
        bootstrap_quality_floor: Quality that a model must have while a task is new, if any has.
        quality_floor: Quality that a model must have later, if any has.
        explore_interactive: Whether requests that a person waits for may try less known models.
        min_trust_tier: ``curated`` leaves out the models that the user registered.
        pools: Pools of models, by name.
    """

    mode: RoutingMode = "auto"
    quality_weight: UnitInterval | UnsetType = UNSET
    latency_weight: UnitInterval | UnsetType = UNSET
    cost_weight: UnitInterval | UnsetType = UNSET
    min_observations: Positive = 5
    max_latency_ms: NonNegativeFloat | UnsetType = UNSET
    max_cost_usd: NonNegativeFloat | UnsetType = UNSET
    prefer_local: bool = True
    prior_strength: Annotated[float, Meta(gt=0.0, le=1000.0)] = 2.0
    quality_first_cold_start: bool = True
    bootstrap_min_task_observations: NonNegative = 10
    bootstrap_quality_floor: UnitInterval = 0.75
    quality_floor: UnitInterval = 0.3
    explore_interactive: bool = False
    min_trust_tier: Literal["curated", "community"] = "community"
    pools: Annotated[
        dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}(?![\s\S])")], PoolSpec],
        Meta(max_length=256),
    ] = msgspec.field(default_factory=dict[str, PoolSpec])


class RouteCandidate(WireStruct, frozen=True, kw_only=True):
    """A model that was considered. Scores are from 0 to 1, a higher one is better.

    Attributes:
        model_id: Its id.
        reliability: Share of its requests at this task that are expected to succeed.
        score: The sum that candidates are ranked by; a bonus may lift it above 1.
        selected: Whether it was chosen.
        in_band: Whether its quality is above the floor.
        quality: Expected quality of its answer.
        latency: Score of its speed.
        cost: Score of its price.
        latency_ms: Expected time of its answer, in milliseconds; null when unknown.
        cost_usd: Expected price of its answer, in USD; null when unknown.
        why_not: Why it was not chosen.
    """

    model_id: str
    reliability: float
    score: float
    selected: bool
    in_band: bool
    quality: float
    latency: float
    cost: float
    latency_ms: float | None
    cost_usd: float | None
    why_not: str | UnsetType = UNSET


class RouteDecision(WireStruct, frozen=True, kw_only=True):
    """Result of ``models.route``: which model a request gets, and why.

    Attributes:
        model_id: Id of the model.
        model_name: Its name.
        task: What kind of work the request was taken for; profiles are kept by it.
        complexity: How hard it looks.
        reason: Why the model was chosen, for people.
        strategy: What the choice rests on: the client's word, what models declare, what was
            observed of them, a try of a less known one, or a pool's home.
        predicted_quality: Expected quality of its answer; 0.5 when the client chose.
        fallbacks: Ids of the models that are asked next, in order.
        context_length: Tokens of its context; 0 when unknown.
        needs_compaction: Whether the prompt seems longer than that.
        candidates: Every model that was considered, the best first.
        propensity: Probability with which this model was chosen: 1 unless the router tries
            less known models. It lets a log of decisions be evaluated.
        input_tokens: Estimated tokens of the prompt.
        output_tokens: Tokens of the answer that prices and times were estimated with.
    """

    model_id: str
    model_name: str
    task: Task
    complexity: TaskComplexity
    reason: str
    strategy: RoutingStrategy
    predicted_quality: float
    fallbacks: list[str]
    context_length: NonNegative
    needs_compaction: bool
    candidates: list[RouteCandidate]
    propensity: float
    input_tokens: NonNegative
    output_tokens: NonNegative


class RoutingSetConfigParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``routing.set_config``.

    Attributes:
        config: The whole configuration: what it does not name gets its default.
    """

    config: RoutingConfig


class RoutingConfigResult(WireStruct, frozen=True, kw_only=True):
    """The router's configuration.

    Attributes:
        config: The configuration as it holds now, in every process on the state directory.
    """

    config: RoutingConfig
