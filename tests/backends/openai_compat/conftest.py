from collections.abc import AsyncGenerator, Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.backends.openai_compat.backend import OpenAICompatBackend
from car_rpc.backends.openai_compat.client import Timeouts
from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.ports import Clock
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import FakeClock, MemorySink, scripted_call
from car_rpc.wire.events import Done, ErrorEvent, StreamEvent, StreamReset, TextDelta
from car_rpc.wire.inference import GenerateRequest, InferenceResult
from car_rpc.wire.models import ModelSchema, OpenAICompatSource, SecretReference
from tests.servers import real
from tests.servers.real import RealServer, llama_cpp_server, mlx_lm_server
from tests.servers.scripted import ScriptedServer


class Upstream:
    """A backend, and what it needs to talk to a server.

    Attributes:
        environ: The environment that keys are read from.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self.environ: dict[str, str] = {}
        self.backend = OpenAICompatBackend(timeouts, self.environ)

    def model(self, url: str, upstream_model: str = "gpt", **members: Any) -> ModelSchema:
        headers = members.pop("headers", {})
        source = {name: members.pop(name) for name in ("api_key_env", "api_key_envs", "prefill")
                  if name in members}  # fmt: skip
        if headers:
            source["headers"] = {
                name: SecretReference(**value) if isinstance(value, dict) else value
                for name, value in headers.items()
            }
        return ModelSchema(
            id=members.pop("id", "a/b:c"),
            source=OpenAICompatSource(endpoint=url, model=upstream_model, **source),
            capabilities=["generate", "embed"],
            **members,
        )

    async def events(self, model: ModelSchema, **request: Any) -> list[Any]:
        return [event async for event in self.backend.generate(scripted_call(model, **request))]


class Stream:
    """What a client gets of one request.

    Attributes:
        events: All but the last one.
        last: The last event; a list, to tell when there are two.
    """

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.last: list[StreamEvent] = []

    async def room(self) -> None:
        pass

    def send(self, event: StreamEvent) -> bool:
        if isinstance(event, Done | ErrorEvent):
            self.last.append(event)
        else:
            assert not self.last, "an event after the last one"
            self.events.append(event)
        return True

    @property
    def text(self) -> str:
        """What a client that follows the rules shows at the end."""
        text = ""
        for event in self.events:
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, StreamReset):
                text = ""
        return text

    def of_type(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Ids:
    def __init__(self) -> None:
        self._numbers = count(1)

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"


class World:
    """A real engine in front of our backend; only its log and, if wished, its clock are doubles."""

    def __init__(self, backend: OpenAICompatBackend, registry: Registry, clock: Clock) -> None:
        self.registry = registry
        self.engine = Engine(registry, lambda _: backend, MemorySink(), clock, Ids())

    async def generate(self, stream: Stream, **fields: Any) -> InferenceResult:
        raw = msgspec.json.encode(fields)
        request = msgspec.json.decode(raw, type=GenerateRequest)
        return await self.engine.generate(request, Origin(1, "generate", raw), stream)


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make an engine with these models, in order of preference."""
    registries: list[Registry] = []

    def make(
        backend: OpenAICompatBackend, *models: ModelSchema, clock: Clock | None = None
    ) -> World:
        registries.append(Registry(models, ModelStore(tmp_path / "car.db"), tmp_path))
        return World(backend, registries[-1], clock or FakeClock())

    yield make
    for registry in registries:
        registry.close()


@pytest.fixture
async def make_upstream() -> AsyncGenerator[Callable[..., Upstream], None]:
    """Make an upstream with these limits; the others are far away."""
    made: list[Upstream] = []

    def make(**timeouts: float) -> Upstream:
        made.append(Upstream(Timeouts(**timeouts)))
        return made[-1]

    yield make
    for upstream in made:
        await upstream.backend.close()


@pytest.fixture
def upstream(make_upstream: Callable[..., Upstream]) -> Upstream:
    return make_upstream()


@pytest.fixture
async def server() -> AsyncGenerator[ScriptedServer, None]:
    async with ScriptedServer().running() as server:
        yield server


def _need(*modules: str) -> None:
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture(scope="session")
def llama_server() -> Iterator[RealServer]:
    _need("llama_cpp", "fastapi")
    with llama_cpp_server() as server:
        yield server


@pytest.fixture(scope="session")
def mlx_server() -> Iterator[RealServer]:
    _need("mlx_lm")
    with mlx_lm_server() as server:
        yield server


@pytest.fixture(scope="session")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A real server that goes on with a last turn of the assistant, and embeds texts."""
    _need("llama_cpp", "fastapi")
    with real.open_server(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture(params=["llama_server", "mlx_server"], name="real")
def real_server(request: pytest.FixtureRequest) -> RealServer:
    """Every real server, one after the other."""
    server: RealServer = request.getfixturevalue(request.param)
    return server
