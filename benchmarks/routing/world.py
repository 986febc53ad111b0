"""A world of models that change: their quality drifts and breaks, their servers slow down and fail.

Everything a policy cannot know is drawn from the seed before the first request, so that all
policies live through the same world.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from car_rpc.router.ask import Ask
from car_rpc.router.scores import HALF_COST_USD, HALF_LATENCY_MS, Weights, weights_of
from car_rpc.wire.models import Cost, LocalSource, ModelSchema, OpenAICompatSource, Performance
from car_rpc.wire.routing import RoutingConfig, Task

TASKS: tuple[Task, ...] = ("generate", "code", "reasoning")
TASK_SHARES = (0.5, 0.3, 0.2)

#: Requests that nobody waits for.
BACKGROUND_SHARE = 0.3

#: Between two requests, in milliseconds.
PACE_MS = 2000.0

#: What a failed request takes until it has failed, in milliseconds.
FAILED_MS = 10_000.0

#: The same preferences for every policy: the router's own defaults, without a bonus.
CONFIG = RoutingConfig(prefer_local=False)


@dataclass(frozen=True)
class Kind:
    """A model as it begins: quality by task, median latency in ms, USD per million tokens."""

    name: str
    quality: tuple[float, float, float]
    latency_ms: float
    prices: tuple[float, float] | None = None


KINDS = (
    Kind("local-small", (0.55, 0.35, 0.30), 1200),
    Kind("local-medium", (0.68, 0.55, 0.50), 4000),
    Kind("mini", (0.74, 0.66, 0.60), 900, (0.15, 0.6)),
    Kind("flash", (0.78, 0.70, 0.64), 700, (0.3, 2.5)),
    Kind("coder", (0.70, 0.90, 0.75), 2500, (0.5, 2.0)),
    Kind("mid", (0.82, 0.80, 0.76), 2000, (1.0, 5.0)),
    Kind("pro", (0.86, 0.88, 0.87), 4000, (3.0, 15.0)),
    Kind("max", (0.89, 0.90, 0.92), 9000, (15.0, 75.0)),
)
COUNT = len(KINDS)


@dataclass(frozen=True)
class Request:
    """One request and what it will be like on whichever model gets it."""

    number: int
    ask: Ask
    weights: Weights
    output_tokens: int
    luck: float
    taste: float
    noise: float

    @property
    def now_ms(self) -> float:
        """When it comes."""
        return self.number * PACE_MS


@dataclass(frozen=True)
class Outcome:
    """How a request ended; its quality is 1 when the answer was accepted, else 0."""

    succeeded: bool
    timed_out: bool
    quality: float
    latency_ms: float
    cost_usd: float


@dataclass
class Moment:
    """All models at one time: quality by task, median latency, chance to fail."""

    quality: list[list[float]]
    latency_ms: list[float]
    failing: list[float]


@dataclass
class World:
    """All of it, for one seed."""

    seed: int
    length: int
    requests: list[Request] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    #: What benchmarks said of the models before the first request: near the truth, not true.
    priors: list[list[float]] = field(default_factory=list)
    models: list[ModelSchema] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        quality = [[_clip(q + draw.gauss(0, 0.06)) for q in kind.quality] for kind in KINDS]
        self.priors = [[_clip(q + draw.gauss(0, 0.08)) for q in row] for row in quality]
        self.models = [_schema(kind) for kind in KINDS]
        latency = [kind.latency_ms * math.exp(draw.gauss(0, 0.2)) for kind in KINDS]
        breaks = self._spells(draw, count=3, least=400, most=1200)
        outages = self._spells(draw, count=5, least=80, most=250)
        slow = self._spells(draw, count=3, least=200, most=600)
        for number in range(self.length):
            if number % 50 == 0:
                quality = [[_clip(q + draw.gauss(0, 0.015)) for q in row] for row in quality]
                latency = [ms * math.exp(draw.gauss(0, 0.03)) for ms in latency]
            self.moments.append(
                Moment(
                    [
                        [_clip(q - 0.35 * breaks(model, number)) for q in row]
                        for model, row in enumerate(quality)
                    ],
                    [ms * (1 + 3 * slow(model, number)) for model, ms in enumerate(latency)],
                    [0.01 + 0.6 * outages(model, number) for model in range(COUNT)],
                )
            )
            self.requests.append(_request(draw, number))

    def outcome(self, request: Request, model: int) -> Outcome:
        """What comes of a request on a model."""
        moment = self.moments[request.number]
        if request.luck < moment.failing[model]:
            timed_out = request.luck < moment.failing[model] / 2
            return Outcome(False, timed_out, 0.0, FAILED_MS, 0.0)
        quality = moment.quality[model][TASKS.index(request.ask.task)]
        return Outcome(
            True,
            False,
            float(request.taste < quality),
            moment.latency_ms[model] * math.exp(0.3 * request.noise),
            self.cost_usd(request, model),
        )

    def cost_usd(self, request: Request, model: int) -> float:
        """What a successful answer costs."""
        into, out = KINDS[model].prices or (0.0, 0.0)
        return (request.ask.input_tokens * into + request.output_tokens * out) / 1e6

    def value(self, request: Request, model: int) -> float:
        """What a model's answer is worth on average: what regret is measured by."""
        moment = self.moments[request.number]
        fails = moment.failing[model]
        quality = moment.quality[model][TASKS.index(request.ask.task)]
        good = worth(
            request.weights, quality, moment.latency_ms[model], self.cost_usd(request, model)
        )
        return (1 - fails) * good + fails * worth(request.weights, 0.0, FAILED_MS, 0.0)

    def _spells(self, draw: random.Random, count: int, least: int, most: int):  # noqa: ANN202 - a closure
        spells = []
        for _ in range(count):
            start = draw.randrange(self.length)
            spells.append((draw.randrange(COUNT), start, start + draw.randint(least, most)))
        return lambda model, now: any(m == model and a <= now < b for m, a, b in spells)


def worth(weights: Weights, quality: float, latency_ms: float, cost_usd: float) -> float:
    """The value of one answer to someone with these weights."""
    return (
        weights.quality * quality
        + weights.latency * HALF_LATENCY_MS / (HALF_LATENCY_MS + latency_ms)
        + weights.cost * HALF_COST_USD / (HALF_COST_USD + cost_usd)
    )


def _request(draw: random.Random, number: int) -> Request:
    background = draw.random() < BACKGROUND_SHARE
    output_tokens = int(300 * math.exp(draw.gauss(0, 0.6)))
    ask = Ask(
        task=draw.choices(TASKS, TASK_SHARES)[0],
        input_tokens=int(600 * math.exp(draw.gauss(0, 0.8))),
        output_tokens=output_tokens,
        workload="background" if background else "interactive",
    )
    weights = weights_of(ask, CONFIG, quality_first=False)
    return Request(
        number, ask, weights, output_tokens, draw.random(), draw.random(), draw.gauss(0, 1)
    )


def _schema(kind: Kind) -> ModelSchema:
    if kind.prices is None:
        source, cost = LocalSource(path="x"), Cost()
    else:
        source = OpenAICompatSource(endpoint="https://api.example.com", model=kind.name)
        cost = Cost(input_per_mtok_usd=kind.prices[0], output_per_mtok_usd=kind.prices[1])
    return ModelSchema(
        id=f"sim/{kind.name}:1",
        name=kind.name,
        source=source,
        capabilities=["generate"],
        cost=cost,
        performance=Performance(latency_p50_ms=kind.latency_ms),
    )


def _clip(value: float) -> float:
    return min(0.98, max(0.02, value))
