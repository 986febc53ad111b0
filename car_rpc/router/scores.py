"""What speaks for each model, as numbers. Pure; ``spec/ROUTING.md``, sections 4 to 6."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from car_rpc.router.ask import Ask
from car_rpc.router.belief import Belief, belief_of, reliability
from car_rpc.spend.prices import estimated_usd, is_priced
from car_rpc.wire.models import ModelSchema, Performance
from car_rpc.wire.outcomes import ModelProfile, TaskStats
from car_rpc.wire.routing import RoutingConfig, RoutingMode, Task
from car_rpc.wire.sources import is_local

#: Latency at which its score is a half, in milliseconds; the other one is to the first token.
HALF_LATENCY_MS = 2000.0
HALF_TTFT_MS = 500.0

#: Cost at which its score is a half, in USD.
HALF_COST_USD = 0.01

#: Score of what is not known.
UNKNOWN = 0.5

#: Models that are remembered for requests of one kind; many times what anyone registers.
MAX_KNOWN = 4096

_LOCAL_BONUS = 0.05
_LOCAL_WANTED_BONUS = 0.25


class Weights(NamedTuple):
    """How much each part of the score counts; the sum is 1."""

    quality: float
    latency: float
    cost: float


MODES: dict[RoutingMode, Weights] = {
    "auto": Weights(0.45, 0.40, 0.15),
    "fast": Weights(0.15, 0.35, 0.50),
    "best": Weights(0.70, 0.20, 0.10),
}
_HIGH_STAKES = Weights(0.90, 0.05, 0.05)


class Candidate(NamedTuple):
    """A model as it is now.

    Attributes:
        model: The model.
        available: Whether it could serve a request now.
        fits: Whether it fits in memory.
        breaker_open: Whether its circuit breaker keeps requests from it.
        profile: What was observed of it.
        refusal: Why it cannot take what this request holds, where that is known.
    """

    model: ModelSchema
    available: bool = True
    fits: bool = True
    breaker_open: bool = False
    profile: ModelProfile | None = None
    refusal: str | None = None


class Scored(NamedTuple):
    """A model with what speaks for it, before the parts are weighed.

    Attributes:
        model: The model.
        profile: What was observed of it.
        belief: How good it is believed to be.
        quality: The expected quality.
        spread: The standard deviation of the quality.
        reliability: Share of its requests that are expected to succeed.
        local: Whether it runs on this machine.
        speed: What its latency depends on, where that depends on the length of the answer.
        priced: Whether its cost depends on the number of tokens.
        latency_ms: How long it takes, in milliseconds, if that is known.
        latency: The score of that.
        cost_usd: What it costs, in USD, if that is known.
        cost: The score of that.
    """

    model: ModelSchema
    profile: ModelProfile | None
    belief: Belief
    quality: float
    spread: float
    reliability: float
    local: bool
    speed: Performance | None
    priced: bool
    latency_ms: float | None
    latency: float
    cost_usd: float | None
    cost: float


#: How many of its parts stay the same whatever the lengths of prompt and answer.
_LENGTHS = Scored._fields.index("latency_ms")


class Known:
    """What speaks for each model, kept from one request to the next while nothing changes it.

    What depends on the lengths of prompt and answer is worked out for each request. A cache, so it
    never changes a decision.
    """

    def __init__(self) -> None:
        self._config: RoutingConfig | None = None
        self._tables: dict[tuple[Task, bool], dict[str, Scored]] = {}

    def table(self, ask: Ask, config: RoutingConfig) -> dict[str, Scored]:
        """What is known for requests like this one, by id; for :func:`scored`."""
        if config != self._config:
            self._config, self._tables = config, {}
        table = self._tables.setdefault((ask.task, ask.workload == "fast"), {})
        if len(table) > MAX_KNOWN:
            table.clear()
        return table


def scored(
    candidate: Candidate, ask: Ask, config: RoutingConfig, known: dict[str, Scored] | None = None
) -> Scored:
    """The parts of a candidate's score.

    Args:
        candidate: The model as it is now.
        ask: What is asked of it.
        config: How to choose.
        known: A table of :class:`Known`, to look it up in and to put it into.
    """
    model, profile = candidate.model, candidate.profile
    parts = None if known is None else known.get(model.id)
    if parts is None or parts.model is not model or parts.profile is not profile:
        parts = _scored(model, profile, ask, config)
        if known is not None:
            known[model.id] = parts
    elif parts.priced or parts.speed is not None:
        parts = _sized(parts, ask)
    return parts


def _scored(
    model: ModelSchema, profile: ModelProfile | None, ask: Ask, config: RoutingConfig
) -> Scored:
    strength = config.prior_strength
    stats = profile.task_stats.get(ask.task) if profile is not None else None
    belief = belief_of(model, profile, ask.task, strength)
    latency_ms, speed = _latency_ms(model, profile, stats, ask, config)
    parts = Scored(
        model,
        profile,
        belief,
        belief.quality,
        belief.spread,
        reliability(belief, stats, strength),
        is_local(model.source),
        speed,
        is_priced(model),
        latency_ms,
        UNKNOWN,
        estimated_usd(model, ask.input_tokens, ask.output_tokens),
        UNKNOWN,
    )
    return _sized(parts, ask)


def _sized(parts: Scored, ask: Ask) -> Scored:
    """The parts for a request of this length."""
    latency_ms, cost_usd = parts.latency_ms, parts.cost_usd
    if parts.speed is not None:
        generating_ms = 1000 * ask.output_tokens / (parts.speed.tokens_per_second or 1)
        latency_ms = (parts.speed.ttft_p50_ms or 0.0) + generating_ms
    if parts.priced:
        cost_usd = estimated_usd(parts.model, ask.input_tokens, ask.output_tokens)
    half_ms = HALF_TTFT_MS if ask.workload == "fast" else HALF_LATENCY_MS
    return Scored._make(
        (
            *parts[:_LENGTHS],
            latency_ms,
            UNKNOWN if latency_ms is None else half_ms / (half_ms + latency_ms),
            cost_usd,
            UNKNOWN if cost_usd is None else HALF_COST_USD / (HALF_COST_USD + cost_usd),
        )
    )


def weights_of(ask: Ask, config: RoutingConfig, *, quality_first: bool) -> Weights:
    """How much each part counts for a request."""
    intent = ask.intent
    if intent.high_stakes:
        return _HIGH_STAKES
    quality, latency, cost = _configured(config)
    if quality_first:
        quality, latency, cost = MODES["best"]
    if ask.workload == "fast":
        latency *= 3
    elif ask.workload in ("background", "batch"):
        latency *= 0.25
    if intent.prefer_fast:
        latency *= 2
    if intent.prefer_quality:
        quality *= 2
    if ask.complexity == "simple":
        quality *= 0.5
    elif ask.complexity != "medium":
        quality *= 1.5
    total = quality + latency + cost
    return Weights(quality / total, latency / total, cost / total)


def local_bonus(ask: Ask, config: RoutingConfig) -> float:
    """What a model gets for running on this machine."""
    if ask.intent.high_stakes:
        return 0.0
    bonus = _LOCAL_BONUS if config.prefer_local else 0.0
    wanted = ask.intent.prefer_local or ask.workload == "local_preferred"
    return bonus + _LOCAL_WANTED_BONUS if wanted else bonus


def weighed(candidates: Iterable[Scored], weights: Weights, bonus: float) -> list[float]:
    """The score of each candidate."""
    of_quality, of_latency, of_cost = weights
    return [
        of_quality * parts.quality
        + of_latency * parts.latency
        + of_cost * parts.cost
        + (bonus if parts.local else 0.0)
        for parts in candidates
    ]


def _configured(config: RoutingConfig) -> Weights:
    quality, latency, cost = config.quality_weight, config.latency_weight, config.cost_weight
    if isinstance(quality, float) and isinstance(latency, float) and isinstance(cost, float):
        return Weights(quality, latency, cost)
    return MODES[config.mode]


def _latency_ms(
    model: ModelSchema,
    profile: ModelProfile | None,
    stats: TaskStats | None,
    ask: Ask,
    config: RoutingConfig,
) -> tuple[float | None, Performance | None]:
    """How long it takes if that is known for any answer, else what says so for one of a length."""
    performance = model.performance
    declared_ms, speed = None, None
    if isinstance(performance, Performance):
        if ask.workload == "fast" and isinstance(performance.ttft_p50_ms, float):
            return performance.ttft_p50_ms, None
        if isinstance(performance.latency_p50_ms, float):
            declared_ms = performance.latency_p50_ms
        elif performance.tokens_per_second:
            speed = performance
    if profile is None:
        return declared_ms, speed
    if stats is not None and stats.success_count >= config.min_observations:
        return _mean_ms(stats), None
    if profile.success_count >= config.min_observations:
        return _mean_ms(profile), None
    if declared_ms is not None or speed is not None:
        return declared_ms, speed
    of_task = _mean_ms(stats)
    return (_mean_ms(profile) if of_task is None else of_task), None


def _mean_ms(seen: TaskStats | ModelProfile | None) -> float | None:
    if seen is None or not seen.success_count:
        return None
    return seen.total_latency_ms / seen.success_count
