"""Which of the models that can answer does. Pure; ``spec/ROUTING.md``, section 7."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from typing import NamedTuple

from car_rpc.router.ask import Ask
from car_rpc.router.belief import draws_of
from car_rpc.router.scores import Scored, Weights, local_bonus, weighed, weights_of
from car_rpc.router.splitmix import SplitMix64
from car_rpc.wire.routing import RoutingConfig

#: Models that one request chooses among when it explores.
MAX_CONTENDERS = 8

#: Values that differ by no more are equal: rounding is not to decide.
EQUAL = 1e-9

#: How far below the best one a model may be, where none reaches the floor.
BAND_WIDTH = 0.1


class Selection(NamedTuple):
    """What was chosen, and all that could have been.

    Attributes:
        ranking: Every candidate with its score, the best first.
        weights: How much each part of a score counts.
        bonus: What local models get.
        chosen: The one chosen.
        band: Ids of those whose quality is above the floor.
        propensity: Probability with which it was chosen.
        contenders: How many the choice was among, when it was made by chance; else 0.
    """

    ranking: list[tuple[Scored, float]]
    weights: Weights
    bonus: float
    chosen: Scored
    band: frozenset[str]
    propensity: float
    contenders: int


def select(passed: Sequence[Scored], ask: Ask, config: RoutingConfig, seed: int) -> Selection:
    """Choose one of at least one candidates; of equals, the earlier one is preferred."""
    quality_first = _quality_first(passed, ask, config)
    weights = weights_of(ask, config, quality_first=quality_first)
    bonus = local_bonus(ask, config)
    explores = weights.quality > 0 and _explores(ask, config)
    spreads = {p.model_id: p.belief.spread if explores else 0.0 for p in passed}
    floor = config.bootstrap_quality_floor if quality_first else config.quality_floor
    band = _band(passed, spreads, floor, best_only=ask.intent.high_stakes)
    scores = [(parts, weighed(parts, weights, bonus)) for parts in passed]
    ranking = sorted(scores, key=lambda one: (one[0].model_id not in band, -one[1]))
    chosen, propensity, count = ranking[0][0], 1.0, 0
    if explores:
        hopes = [
            (-(score + weights.quality * spreads[parts.model_id]), index)
            for index, (parts, score) in enumerate(scores)
            if parts.model_id in band
        ]
        contenders = [scores[index] for _, index in nsmallest(MAX_CONTENDERS, hopes)]
        chosen, propensity = _thompson(contenders, weights, SplitMix64(seed))
        count = len(contenders)
    return Selection(ranking, weights, bonus, chosen, band, propensity, count)


def _quality_first(passed: Sequence[Scored], ask: Ask, config: RoutingConfig) -> bool:
    if not config.quality_first_cold_start or ask.workload != "interactive":
        return False
    if ask.intent.prefer_fast or ask.intent.prefer_local:
        return False
    return sum(p.belief.calls for p in passed) < config.bootstrap_min_task_observations


def _explores(ask: Ask, config: RoutingConfig) -> bool:
    if ask.intent.high_stakes:
        return False
    return config.explore_interactive or ask.workload not in ("interactive", "fast")


def _band(
    passed: Sequence[Scored], spreads: dict[str, float], floor: float, *, best_only: bool
) -> frozenset[str]:
    qualities = {p.model_id: min(1.0, p.quality + spreads[p.model_id]) for p in passed}
    best = max(qualities.values())
    if best_only or best < floor:
        floor = best - BAND_WIDTH
    return frozenset(model_id for model_id, quality in qualities.items() if quality >= floor)


def _thompson(
    contenders: list[tuple[Scored, float]], weights: Weights, random: SplitMix64
) -> tuple[Scored, float]:
    """Thompson sampling: every contender has the chance of being the best one that it has."""
    draws = [draws_of(parts.belief) for parts, _ in contenders]
    #: What is sure of each score; its drawn quality comes on top.
    sure = [score - weights.quality * parts.quality for parts, score in contenders]
    values = [
        base + weights.quality * of.draw(random.unit())
        for base, of in zip(sure, draws, strict=True)
    ]
    best = max(values)
    chosen = next(index for index, value in enumerate(values) if value >= best - EQUAL)
    chances = draws[chosen].probabilities
    for other, of in enumerate(draws):
        if other != chosen:
            # How much better the other one may be without being chosen: it loses to its equals
            # only when it comes later.
            slack = EQUAL if other > chosen else -EQUAL
            handicap = (sure[chosen] - sure[other] + slack) / weights.quality
            loses = of.not_above(handicap)
            chances = [chance * lost for chance, lost in zip(chances, loses, strict=True)]
    return contenders[chosen][0], sum(chances)
