"""Which of the models that can answer does. Pure; ``spec/ROUTING.md``, section 7."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
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
        passed: Every candidate.
        scores: The score of each.
        ranking: Positions of all, the best first.
        in_band: How many of the ranking are above the floor of quality; these come first.
        weights: How much each part of a score counts.
        bonus: What local models get.
        chosen: Position of the one chosen.
        propensity: Probability with which it was chosen.
        contenders: How many the choice was among, when it was made by chance; else 0.
    """

    passed: Sequence[Scored]
    scores: list[float]
    ranking: list[int]
    in_band: int
    weights: Weights
    bonus: float
    chosen: int
    propensity: float
    contenders: int


def select(passed: Sequence[Scored], ask: Ask, config: RoutingConfig, seed: int) -> Selection:
    """Choose one of at least one candidates; of equals, the earlier one is preferred."""
    quality_first = _quality_first(passed, ask, config)
    weights = weights_of(ask, config, quality_first=quality_first)
    bonus = local_bonus(ask, config)
    explores = weights.quality > 0 and _explores(ask, config)
    floor = config.bootstrap_quality_floor if quality_first else config.quality_floor
    scores = weighed(passed, weights, bonus)
    band, others = _band(passed, floor, explores=explores, best_only=ask.intent.high_stakes)
    ranking = _best_first(band, scores) + _best_first(others, scores)
    chosen, propensity, count = ranking[0], 1.0, 0
    if explores:
        hopes = {n: scores[n] + weights.quality * passed[n].spread for n in band}
        contenders = nlargest(MAX_CONTENDERS, band, key=hopes.__getitem__)
        count = len(contenders)
        rivals = [(passed[n], scores[n]) for n in contenders]
        index, propensity = _thompson(rivals, weights, SplitMix64(seed))
        chosen = contenders[index]
    return Selection(passed, scores, ranking, len(band), weights, bonus, chosen, propensity, count)


def _best_first(positions: list[int], scores: list[float]) -> list[int]:
    return sorted(positions, key=scores.__getitem__, reverse=True)  # equals keep their order


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
    passed: Sequence[Scored], floor: float, *, explores: bool, best_only: bool
) -> tuple[list[int], list[int]]:
    """Positions of those above the floor, and of the others."""
    qualities = [parts.quality for parts in passed]
    if explores:
        qualities = [min(1.0, parts.quality + parts.spread) for parts in passed]
    best = max(qualities)
    if best_only or best < floor:
        floor = best - BAND_WIDTH
    band = [index for index, quality in enumerate(qualities) if quality >= floor]
    others = [index for index, quality in enumerate(qualities) if quality < floor]
    return band, others


def _thompson(
    contenders: list[tuple[Scored, float]], weights: Weights, random: SplitMix64
) -> tuple[int, float]:
    """Thompson sampling: every contender has the chance of being the best one that it has.

    Returns:
        The position of the one chosen, and the probability of that.
    """
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
    return chosen, sum(chances)
