"""Time decisions as the engine makes them, with all that they look at: files, keys, rows."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from car_rpc.backends.delegated import DelegatedBackend, RunItem
from car_rpc.backends.local.backend import LocalBackend
from car_rpc.backends.local.workers import Workers
from car_rpc.backends.openai_compat.backend import OpenAICompatBackend
from car_rpc.engine.breaker import BreakerPolicy, Breakers
from car_rpc.engine.ports import Backend
from car_rpc.engine.routing import Routing, RoutingInputs
from car_rpc.errors import CarError
from car_rpc.host.routing_store import RoutingStore
from car_rpc.outcomes.profiles import AttemptEnd
from car_rpc.outcomes.store import OutcomeStore
from car_rpc.outcomes.tracker import Tracker
from car_rpc.registry.builtin import builtin_models
from car_rpc.registry.curated import curated
from car_rpc.registry.fit import Fitting
from car_rpc.registry.hardware import detect
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import FakeClock, MemorySink
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import (
    Cost,
    DelegatedSource,
    LocalSource,
    ModelSchema,
    ModelSource,
    OpenAICompatSource,
)
from car_rpc.wire.outcomes import ModelProfile
from car_rpc.wire.routing import RoutingConfig
from car_rpc.wire.runner import RunnerRunParams

#: Models that answer; those of the curated catalog, which are not here, come on top.
COUNT = 200

#: A prompt of about 600 tokens.
PROMPT = "Say in one sentence what the following paragraph is about. " * 40

_NOW = "2026-01-01T00:00:00.000Z"


class _Nobody:
    """Of the operating system and of the app, what starts no worker and takes no request."""

    registered = True

    def spawn_options(self) -> dict[str, object]:
        return {}

    def lower_priority(self, pid: int) -> None:
        pass

    def kill_tree(self, pid: int) -> None:
        pass

    def exists(self, pid: int) -> bool:
        return False

    def memory_bytes(self, pid: int) -> int | None:
        return None

    async def run(self, params: RunnerRunParams) -> AsyncGenerator[RunItem, None]:
        raise CarError("no_runner", "nothing runs here")
        yield

    def new(self, prefix: str) -> str:
        return prefix


def decision_times(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the processor that whole decisions took, by workload.

    Args:
        folder: An empty one, for the database and the models' files.
        rounds: Decisions for each workload.
    """
    routing, models = _engine(folder)
    times: dict[str, list[float]] = {}
    for workload in ("interactive", "background"):
        fields = {"prompt": PROMPT, "params": {"workload": workload, "max_tokens": 300}}
        request = msgspec.convert(fields, GenerateRequest)
        taken: list[float] = []
        for number in range(rounds):
            started = time.thread_time()
            route = routing.generate(request, f"tr_{number}")
            taken.append((time.thread_time() - started) * 1000)
            if len(route.models) != models:
                raise AssertionError(f"{len(route.models)} of {models} models could answer")
        times[workload] = taken
    return times


def times_table(times: dict[str, list[float]]) -> str:
    """How long decisions took."""
    lines = ["| workload | median, ms | 99 % within, ms |", "|---|---|---|"]
    for workload, values in times.items():
        within = sorted(values)[int(0.99 * len(values))]
        lines.append(f"| {workload} | {statistics.median(values):.2f} | {within:.2f} |")
    return "\n".join(lines)


def _engine(folder: Path) -> tuple[Routing, int]:
    """The routing of an engine with its real stores and backends, and how many models answer."""
    database, files, nobody = folder / "car.db", folder / "models", _Nobody()
    files.mkdir()
    store, fits = ModelStore(database), Fitting()
    fits.machine = detect()
    for number in range(COUNT):
        store.put(_model(number, files))
    # As it is on most days: nothing came or went just now.
    os.utime(files, (0, 0))
    outcomes = OutcomeStore(database)
    for number in range(COUNT):
        ends = [
            AttemptEnd("tr", attempt, f"sim/m{number}:1", "generate", "success", 100.0 + number)
            for attempt in range(number % 20)
        ]
        outcomes.record(ends, lambda model_id: ModelProfile(model_id=model_id), _NOW)
    clock = FakeClock()
    tracker = Tracker(outcomes, {}, lambda: _NOW)
    workers = Workers(nobody, MemorySink(), clock)
    backends: dict[type[ModelSource], Backend] = {
        LocalSource: LocalBackend("llama_cpp", None, workers),
        OpenAICompatSource: OpenAICompatBackend(),
        DelegatedSource: DelegatedBackend(nobody, nobody),
    }
    absent = LocalBackend("mlx", "none", workers)
    routing = Routing(
        Registry([*builtin_models(), *curated().models], store, files, files),
        lambda model: backends.get(type(model.source), absent),
        Breakers(BreakerPolicy()),
        clock,
        RoutingInputs(
            config=RoutingStore(database, RoutingConfig()).current,
            profiles=tracker.profiles,
            fits=fits,
        ),
    )
    return routing, COUNT


def _model(number: int, files: Path) -> ModelSchema:
    """A third each: files on this machine, servers that want a key and money, models of the app."""
    file = files / f"m{number}.gguf"
    sources: list[ModelSource] = [
        LocalSource(path=str(file)),
        OpenAICompatSource(endpoint="https://models.invalid", model="m", api_key_env="PATH"),
        DelegatedSource(),
    ]
    cost: list[Cost] = [
        Cost(size_bytes=10**9),
        Cost(input_per_mtok_usd=0.1 + number / 100, output_per_mtok_usd=0.4 + number / 50),
        Cost(),
    ]
    file.touch()
    return ModelSchema(
        id=f"sim/m{number}:1",
        source=sources[number % 3],
        capabilities=["generate", "tool_use"],
        context_length=32_768,
        param_count=f"{1 + number % 30}B",
        cost=cost[number % 3],
    )
