"""How good a model is believed to be at a task. Pure; ``spec/ROUTING.md``, sections 3 and 8."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from car_rpc.wire.models import ModelSchema
from car_rpc.wire.outcomes import ModelProfile, TaskStats
from car_rpc.wire.routing import Task

#: Observations that the tracker's average remembers: (1 + 0.8) / (1 - 0.8).
MEMORY = 9

#: Quality of a model of which nothing is known.
UNKNOWN_QUALITY = 0.5

#: Quality of a model without parameters, and how much a doubling of 1 + billions adds.
_SMALLEST_QUALITY = 0.3
_QUALITY_PER_DOUBLING = 0.1
_LARGEST_QUALITY = 0.8

#: What a model gets that declares to be made for the task.
_MADE_FOR_IT = 0.05
_DECLARABLE = frozenset[Task]({"code", "reasoning", "classify"})

_PARAM_COUNT = re.compile(r"(?:([0-9]+)x)?([0-9]+(?:\.[0-9]+)?)([KMBT])", re.IGNORECASE)
_BILLIONS = {"K": 1e-6, "M": 1e-3, "B": 1.0, "T": 1e3}

#: Qualities that a draw can give.
GRID = 64
POINTS = [(i + 0.5) / GRID for i in range(GRID)]
_LOGS = [(math.log(x), math.log(1 - x)) for x in POINTS]


class Belief(NamedTuple):
    """A Beta distribution over quality, and what it rests on.

    Attributes:
        alpha: Observations for it, virtual ones included.
        beta: Observations against it.
        calls: Calls of the task.
        prior: Quality that was assumed before them.
    """

    alpha: float
    beta: float
    calls: int
    prior: float

    @property
    def quality(self) -> float:
        """The expected quality."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def spread(self) -> float:
        """The standard deviation of the quality."""
        total = self.alpha + self.beta
        return math.sqrt(self.alpha * self.beta / (total + 1)) / total


class Draws:
    """The distribution of a belief on a grid, so that all probabilities are known exactly.

    Attributes:
        probabilities: Of each quality of :data:`POINTS`.
    """

    def __init__(self, belief: Belief) -> None:
        a, b = belief.alpha - 1, belief.beta - 1
        weights = [math.exp(a * log_x + b * log_rest) for log_x, log_rest in _LOGS]
        total = sum(weights)
        self.probabilities = [weight / total for weight in weights]
        up_to = [0.0, *accumulate(self.probabilities)]
        self._up_to = up_to
        self._padded = [0.0] * GRID + up_to + [up_to[-1]] * GRID

    def draw(self, unit: float) -> float:
        """The quality at a random number from 0 to 1."""
        return POINTS[min(bisect_right(self._up_to, unit) - 1, GRID - 1)]

    def not_above(self, handicap: float) -> list[float]:
        """For each of :data:`POINTS`, the probability of one at most ``handicap`` above it."""
        steps = math.floor(handicap * GRID)
        start = GRID + 1 + max(-GRID - 1, min(GRID, steps))
        return self._padded[start : start + GRID]


@lru_cache(maxsize=1024)
def draws_of(belief: Belief) -> Draws:
    """The distribution of a belief; it stays the same from request to request until one ends."""
    return Draws(belief)


def belief_of(
    model: ModelSchema, profile: ModelProfile | None, task: Task, strength: float
) -> Belief:
    """What is believed of a model.

    Args:
        model: The model.
        profile: What was observed of it, or is assumed from benchmarks.
        task: What it is to do.
        strength: Observations that an assumption is worth.
    """
    prior = declared_quality(model, task)
    stats = None
    if profile is not None:
        prior = _overall(prior, profile, strength)
        stats = profile.task_stats.get(task)
    if stats is None:
        return Belief(strength * prior, strength * (1 - prior), 0, prior)
    if not stats.calls:
        prior = stats.ema_quality
    seen = min(stats.calls, MEMORY)
    return Belief(
        strength * prior + seen * stats.ema_quality,
        strength * (1 - prior) + seen * (1 - stats.ema_quality),
        stats.calls,
        prior,
    )


def reliability(belief: Belief, stats: TaskStats | None, strength: float) -> float:
    """Share of a model's requests at a task that are expected to succeed."""
    successes = stats.success_count if stats is not None else 0
    return (successes + strength * belief.prior) / (belief.calls + strength)


def declared_quality(model: ModelSchema, task: Task) -> float:
    """The quality to expect of a model that nobody has used, from its size and capabilities."""
    quality = UNKNOWN_QUALITY
    if isinstance(model.param_count, str):
        quality = _quality_of_size(model.param_count)
    if task in _DECLARABLE and task in model.capabilities:
        quality += _MADE_FOR_IT
    return quality


@lru_cache(maxsize=1024)
def _quality_of_size(param_count: str) -> float:
    count = _PARAM_COUNT.match(param_count)
    if count is None:
        return UNKNOWN_QUALITY
    factor, number, unit = count.groups()
    billions = int(factor or 1) * float(number) * _BILLIONS[unit.upper()]
    grown = _SMALLEST_QUALITY + _QUALITY_PER_DOUBLING * math.log2(1 + billions)
    return min(_LARGEST_QUALITY, grown)


def _overall(declared: float, profile: ModelProfile, strength: float) -> float:
    if not profile.total_calls:
        return profile.ema_quality
    seen = min(profile.total_calls, MEMORY)
    return (strength * declared + seen * profile.ema_quality) / (strength + seen)
