from collections.abc import AsyncGenerator, Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from car_rpc.backends.openai_compat.backend import OpenAICompatBackend
from car_rpc.backends.openai_compat.client import Timeouts
from car_rpc.testing import scripted_call
from car_rpc.wire.models import EnvironmentValue, ModelSchema, OpenAICompatSource
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
        source = {name: members.pop(name) for name in ("api_key_env", "api_key_envs")
                  if name in members}  # fmt: skip
        if headers:
            source["headers"] = {
                name: EnvironmentValue(**value) if isinstance(value, dict) else value
                for name, value in headers.items()
            }
        return ModelSchema(
            id="a/b:c",
            source=OpenAICompatSource(endpoint=url, model=upstream_model, **source),
            capabilities=["generate", "embed"],
            **members,
        )

    async def events(self, model: ModelSchema, **request: Any) -> list[Any]:
        return [event async for event in self.backend.generate(scripted_call(model, **request))]


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


@pytest.fixture(params=["llama_server", "mlx_server"])
def real(request: pytest.FixtureRequest) -> RealServer:
    """Every real server, one after the other."""
    server: RealServer = request.getfixturevalue(request.param)
    return server
