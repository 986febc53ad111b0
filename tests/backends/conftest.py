"""Every kind of backend, each with a model that ends by itself and one that does not."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from car_rpc.backends.delegated import DelegatedBackend, RunItem
from car_rpc.backends.fake import FakeBackend
from car_rpc.backends.local.backend import LocalBackend
from car_rpc.backends.local.workers import Workers
from car_rpc.engine.ports import Backend
from car_rpc.errors import CarError
from car_rpc.host.wiring import SystemClock
from car_rpc.testing import MemorySink, scripted_model
from car_rpc.transport.os_layer import os_layer
from car_rpc.wire.events import Done, Heartbeat, TextDelta
from car_rpc.wire.models import DelegatedSource, LocalSource, MlxSource, ModelSchema
from car_rpc.wire.runner import RunnerResult, RunnerRunParams

DELTA = {"emit": {"type": "text_delta", "text": "x"}}
DEMO_DIR = Path(__file__).parents[2] / "car_rpc" / "data" / "demo"
DEMO_MODEL = DEMO_DIR / "tiny-chat-F16.gguf"


class Ids:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"


class Channel:
    """An app's runner in memory."""

    def __init__(self) -> None:
        self.registered = True
        self.runs: list[RunnerRunParams] = []
        self.items: list[RunItem | CarError] = [
            Heartbeat(),
            TextDelta(text="by the app"),
            Done(text="ignored"),
            RunnerResult(text="ignored, too"),
        ]
        self.closed = 0

    async def run(self, params: RunnerRunParams) -> AsyncGenerator[RunItem, None]:
        self.runs.append(params)
        try:
            for item in self.items:
                await asyncio.sleep(0)
                if isinstance(item, CarError):
                    raise item
                yield item
            if params.hint == "endless":
                await asyncio.Event().wait()
        finally:
            self.closed += 1


class Candidate(NamedTuple):
    """A backend for the conformance suite."""

    backend: Backend
    model: ModelSchema
    endless: ModelSchema | None


def delegated_model(hint: str) -> ModelSchema:
    source = DelegatedSource(hint=hint)
    return ModelSchema(id=f"app/{hint}:1", source=source, capabilities=["generate"])


def make_fake() -> Candidate:
    endless = scripted_model("a/endless:1", [DELTA, {"stall": True}])
    return Candidate(FakeBackend(), scripted_model("a/echo:1", [{"echo": True}]), endless)


def make_delegated() -> Candidate:
    backend = DelegatedBackend(Channel(), Ids())
    return Candidate(backend, delegated_model("gpt"), delegated_model("endless"))


def local(
    engine: str, module: str | None, sink: Any, control: Any = None, **options: Any
) -> LocalBackend:
    """A backend whose workers no other has; the options are those of `Workers`."""
    clock = options.pop("clock", SystemClock())
    return LocalBackend(engine, module, Workers(control or os_layer(), sink, clock, **options))


def make_worker() -> Candidate:
    backend = local("fake", None, MemorySink())
    endless = scripted_model("a/endless:1", [DELTA, {"stall": True}])
    return Candidate(backend, scripted_model("a/echo:1", [{"echo": True}]), endless)


def make_llama() -> Candidate:
    assert DEMO_MODEL.is_file()
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed")
    source = LocalSource(path=str(DEMO_MODEL))
    model = ModelSchema(id="demo/tiny:f16", source=source, capabilities=["generate"])
    return Candidate(local("llama_cpp", "llama_cpp", MemorySink()), model, None)


def make_mlx() -> Candidate:
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    source = MlxSource(path=str(DEMO_DIR / "mlx"))
    model = ModelSchema(id="demo/tiny:mlx", source=source, capabilities=["generate"])
    return Candidate(local("mlx", "mlx_lm", MemorySink()), model, None)


BACKENDS: dict[str, tuple[Callable[[], Candidate], list[pytest.MarkDecorator]]] = {
    "fake": (make_fake, []),
    "delegated": (make_delegated, []),
    "worker": (make_worker, [pytest.mark.process]),
    "llama": (make_llama, [pytest.mark.llama, pytest.mark.process, pytest.mark.timeout(180)]),
    "mlx": (make_mlx, [pytest.mark.mlx, pytest.mark.process, pytest.mark.timeout(180)]),
}


@pytest.fixture(
    params=[pytest.param(make, id=name, marks=marks) for name, (make, marks) in BACKENDS.items()]
)
async def candidate(request: pytest.FixtureRequest) -> Any:
    """Every backend, one after the other."""
    candidate: Candidate = request.param()
    yield candidate
    await candidate.backend.close()


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def app_model() -> ModelSchema:
    return delegated_model("gpt")


@pytest.fixture
def delegated(channel: Channel) -> DelegatedBackend:
    return DelegatedBackend(channel, Ids())


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
async def workers(sink: MemorySink) -> Any:
    """A backend whose scripted models run in real worker processes."""
    backend = local("fake", None, sink)
    yield backend
    await backend.close()
