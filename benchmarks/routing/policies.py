"""Ways to choose a model: ours, LiteLLM's, and the ones that everybody tries first."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from benchmarks.routing.world import CONFIG, KINDS, TASKS, Outcome, Request, World, worth
from car_rpc.router.router import route
from car_rpc.router.scores import Candidate
from car_rpc.wire.outcomes import ModelProfile, TaskStats
from car_rpc.wire.routing import RoutingConfig


class Policy(Protocol):
    """Chooses, and hears what came of it."""

    def choose(self, request: Request, healthy: list[int]) -> int:
        """The model for a request, of those whose circuit breaker is closed."""
        ...

    def learn(self, request: Request, model: int, outcome: Outcome) -> None:
        """Hear how it went."""
        ...


class Ours:
    """The router of this project, with profiles kept as its tracker keeps them."""

    def __init__(self, world: World, config: RoutingConfig = CONFIG) -> None:
        self._config = config
        self._models = world.models
        self._ids = {model.id: index for index, model in enumerate(world.models)}
        self._profiles = [
            ModelProfile(
                model_id=model.id,
                ema_quality=sum(prior) / len(prior),
                task_stats={
                    task: TaskStats(ema_quality=quality)
                    for task, quality in zip(TASKS, prior, strict=True)
                },
            )
            for model, prior in zip(world.models, world.priors, strict=True)
        ]
        self._seed = world.seed

    def profile(self, model: int) -> ModelProfile:
        """What was observed of a model."""
        return self._profiles[model]

    def choose(self, request: Request, healthy: list[int]) -> int:
        able = set(healthy)
        candidates = [
            Candidate(model, breaker_open=index not in able, profile=self._profiles[index])
            for index, model in enumerate(self._models)
        ]
        seed = (self._seed << 32) + request.number
        return self._ids[route(candidates, request.ask, self._config, seed).model_id]

    def learn(self, request: Request, model: int, outcome: Outcome) -> None:
        profile = self._profiles[model]
        stats = profile.task_stats[request.ask.task]
        self._profiles[model] = msgspec.structs.replace(
            profile,
            total_calls=profile.total_calls + 1,
            success_count=profile.success_count + outcome.succeeded,
            total_latency_ms=profile.total_latency_ms + outcome.succeeded * outcome.latency_ms,
            ema_quality=0.8 * profile.ema_quality + 0.2 * outcome.quality,
            task_stats={
                **profile.task_stats,
                request.ask.task: TaskStats(
                    calls=stats.calls + 1,
                    success_count=stats.success_count + outcome.succeeded,
                    total_latency_ms=stats.total_latency_ms
                    + outcome.succeeded * outcome.latency_ms,
                    ema_quality=0.8 * stats.ema_quality + 0.2 * outcome.quality,
                ),
            },
        )


class BestPrior:
    """Always the model that benchmarks call the best at the task."""

    def __init__(self, world: World) -> None:
        self._priors = world.priors

    def choose(self, request: Request, healthy: list[int]) -> int:
        task = TASKS.index(request.ask.task)
        return max(healthy, key=lambda model: self._priors[model][task])

    def learn(self, request: Request, model: int, outcome: Outcome) -> None:
        pass


class RoundRobin:
    """One after the other."""

    def __init__(self, world: World) -> None:
        del world

    def choose(self, request: Request, healthy: list[int]) -> int:
        return healthy[request.number % len(healthy)]

    def learn(self, request: Request, model: int, outcome: Outcome) -> None:
        pass


class EpsilonGreedy:
    """The best average value so far, by task; one request in ten goes anywhere."""

    def __init__(self, world: World) -> None:
        self._draw = random.Random(world.seed)
        self._world = world
        self._sums: dict[tuple[int, str], tuple[float, int]] = {}

    def choose(self, request: Request, healthy: list[int]) -> int:
        if self._draw.random() < 0.1:
            return self._draw.choice(healthy)
        return max(healthy, key=lambda model: self._mean(request, model))

    def learn(self, request: Request, model: int, outcome: Outcome) -> None:
        total, count = self._sums.get((model, request.ask.task), (0.0, 0))
        value = worth(request.weights, outcome.quality, outcome.latency_ms, outcome.cost_usd)
        self._sums[model, request.ask.task] = (total + value, count + 1)

    def _mean(self, request: Request, model: int) -> float:
        # What benchmarks say counts as one observation.
        prior = self._world.priors[model][TASKS.index(request.ask.task)]
        cost_usd = self._world.cost_usd(request, model)
        first = worth(request.weights, prior, KINDS[model].latency_ms, cost_usd)
        total, count = self._sums.get((model, request.ask.task), (0.0, 0))
        return (first + total) / (1 + count)


class LiteLLM:
    """One of LiteLLM's strategy classes, called as its router calls it."""

    def __init__(self, world: World, strategy: str) -> None:
        import litellm
        from litellm.caching.caching import DualCache
        from litellm.router_strategy.lowest_cost import LowestCostLoggingHandler
        from litellm.router_strategy.lowest_latency import LowestLatencyLoggingHandler

        self._litellm = litellm
        random.seed(world.seed)  # it draws from the module's generator
        handlers = {"latency": LowestLatencyLoggingHandler, "cost": LowestCostLoggingHandler}
        self._handler = handlers[strategy](router_cache=DualCache())
        self._loop = asyncio.new_event_loop()
        self._deployments = [
            {
                "model_name": "group",
                "litellm_params": {
                    "model": f"openai/{kind.name}",
                    # It takes a price of 0 for none, and none for 5 USD: so it is almost 0.
                    "input_cost_per_token": (kind.prices or (1e-6, 1e-6))[0] / 1e6,
                    "output_cost_per_token": (kind.prices or (1e-6, 1e-6))[1] / 1e6,
                },
                "model_info": {"id": str(index)},
            }
            for index, kind in enumerate(KINDS)
        ]

    def choose(self, request: Request, healthy: list[int]) -> int:
        chosen = self._loop.run_until_complete(
            self._handler.async_get_available_deployments(
                model_group="group",
                healthy_deployments=[self._deployments[model] for model in healthy],
                messages=[{"role": "user", "content": "hi"}],
                request_kwargs={"metadata": {}},
            )
        )
        return int(chosen["model_info"]["id"])

    def learn(self, request: Request, model: int, outcome: Outcome) -> None:
        end = datetime.now()  # noqa: DTZ005 - as LiteLLM does
        start = end - timedelta(milliseconds=outcome.latency_ms)
        about = {
            "litellm_params": {
                "metadata": {"model_group": "group", "deployment": KINDS[model].name},
                "model_info": {"id": str(model)},
            }
        }
        if outcome.succeeded:
            tokens = request.output_tokens
            usage = self._litellm.Usage(
                prompt_tokens=request.ask.input_tokens,
                completion_tokens=tokens,
                total_tokens=request.ask.input_tokens + tokens,
            )
            response = self._litellm.ModelResponse(usage=usage)
            work = self._handler.async_log_success_event(about, response, start, end)
        elif outcome.timed_out:
            name = KINDS[model].name
            about["exception"] = self._litellm.Timeout("timed out", name, "openai")
            work = self._handler.async_log_failure_event(about, None, start, end)
        else:
            return
        self._loop.run_until_complete(work)


class Unexploring(Ours):
    """Ours, with the same weights for every request, but none that may explore."""

    def choose(self, request: Request, healthy: list[int]) -> int:
        waits = request.ask.workload == "interactive"
        quality, latency, cost = request.weights
        self._config = msgspec.structs.replace(
            CONFIG,
            quality_first_cold_start=waits,
            quality_weight=quality,
            latency_weight=latency,
            cost_weight=cost,
        )
        ask = request.ask._replace(workload="interactive")
        return super().choose(dataclasses.replace(request, ask=ask), healthy)


#: By the name that the results have for them.
POLICIES: dict[str, Callable[[World], Policy]] = {
    "car-rpc": Ours,
    "car-rpc, nothing explored": Unexploring,
    "car-rpc, everything explored": lambda world: Ours(
        world, msgspec.structs.replace(CONFIG, explore_interactive=True)
    ),
    "epsilon-greedy (0.1)": EpsilonGreedy,
    "always the best prior": BestPrior,
    "round robin": RoundRobin,
    "LiteLLM latency-based": lambda world: LiteLLM(world, "latency"),
    "LiteLLM cost-based": lambda world: LiteLLM(world, "cost"),
}
