"""What speaks for each model, as numbers. Pure; ``spec/ROUTING.md``, sections 4 to 6."""

from __future__ import annotations

from typing import NamedTuple

from car_rpc.router.ask import Ask
from car_rpc.router.belief import Belief, belief_of, reliability
from car_rpc.spend.prices import estimated_usd
from car_rpc.wire.models import ModelSchema, Performance
from car_rpc.wire.outcomes import ModelProfile, TaskStats
from car_rpc.wire.routing import RoutingConfig, RoutingMode
from car_rpc.wire.sources import is_local

#: Latency at which its score is a half, in milliseconds; the other one is to the first token.
HALF_LATENCY_MS = 2000.0
HALF_TTFT_MS = 500.0

#: Cost at which its score is a half, in USD.
HALF_COST_USD = 0.01

#: Score of what is not known.
UNKNOWN = 0.5

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
    """A candidate with what speaks for it, before the parts are weighed."""

    model_id: str
    candidate: Candidate
    belief: Belief
    quality: float
    reliability: float
    latency_ms: float | None
    latency: float
    cost_usd: float | None
    cost: float
    local: bool


def scored(candidate: Candidate, ask: Ask, config: RoutingConfig) -> Scored:
    """The parts of a candidate's score."""
    model, profile = candidate.model, candidate.profile
    strength = config.prior_strength
    stats = profile.task_stats.get(ask.task) if profile is not None else None
    belief = belief_of(model, profile, ask.task, strength)
    latency_ms = _latency_ms(candidate, stats, ask, config)
    half_ms = HALF_TTFT_MS if ask.workload == "fast" else HALF_LATENCY_MS
    cost_usd = estimated_usd(model, ask.input_tokens, ask.output_tokens)
    return Scored(
        model.id,
        candidate,
        belief,
        belief.quality,
        reliability(belief, stats, strength),
        latency_ms,
        UNKNOWN if latency_ms is None else half_ms / (half_ms + latency_ms),
        cost_usd,
        UNKNOWN if cost_usd is None else HALF_COST_USD / (HALF_COST_USD + cost_usd),
        is_local(model.source),
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


def weighed(parts: Scored, weights: Weights, bonus: float) -> float:
    """The score of a candidate."""
    score = (
        weights.quality * parts.quality
        + weights.latency * parts.latency
        + weights.cost * parts.cost
    )
    return score + bonus if parts.local else score


def _configured(config: RoutingConfig) -> Weights:
    quality, latency, cost = config.quality_weight, config.latency_weight, config.cost_weight
    if isinstance(quality, float) and isinstance(latency, float) and isinstance(cost, float):
        return Weights(quality, latency, cost)
    return MODES[config.mode]


def _latency_ms(
    candidate: Candidate, stats: TaskStats | None, ask: Ask, config: RoutingConfig
) -> float | None:
    performance = candidate.model.performance
    declared = None
    if isinstance(performance, Performance):
        if ask.workload == "fast" and isinstance(performance.ttft_p50_ms, float):
            return performance.ttft_p50_ms
        declared = _declared_ms(performance, ask.output_tokens)
    profile = candidate.profile
    if profile is None:
        return declared
    if stats is not None and stats.success_count >= config.min_observations:
        return _mean_ms(stats)
    if profile.success_count >= config.min_observations:
        return _mean_ms(profile)
    if declared is not None:
        return declared
    of_task = _mean_ms(stats)
    return _mean_ms(profile) if of_task is None else of_task


def _declared_ms(performance: Performance, output_tokens: int) -> float | None:
    if isinstance(performance.latency_p50_ms, float):
        return performance.latency_p50_ms
    if isinstance(performance.tokens_per_second, float) and performance.tokens_per_second > 0:
        generating_ms = 1000 * output_tokens / performance.tokens_per_second
        return (performance.ttft_p50_ms or 0.0) + generating_ms
    return None


def _mean_ms(seen: TaskStats | ModelProfile | None) -> float | None:
    if seen is None or not seen.success_count:
        return None
    return seen.total_latency_ms / seen.success_count
