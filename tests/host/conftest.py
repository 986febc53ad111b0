"""A session in memory: a client on one side, the real dispatcher and engine on the other."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.backends.delegated import DelegatedBackend
from car_rpc.backends.fake import FakeBackend
from car_rpc.backends.local.weights import Weights
from car_rpc.config import Settings
from car_rpc.engine.engine import Engine
from car_rpc.errors import CarError
from car_rpc.host.approver import ApproverHost
from car_rpc.host.dispatch import Dispatcher
from car_rpc.host.policy_store import PolicyStore
from car_rpc.host.routing_store import RoutingStore
from car_rpc.host.runner import RunnerHost
from car_rpc.host.services import Services
from car_rpc.host.session import Session
from car_rpc.host.waiting import Waiting
from car_rpc.outcomes.store import OutcomeStore
from car_rpc.outcomes.tracker import Tracker
from car_rpc.protocol.connection import Connection
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.spend.budget import Budget
from car_rpc.spend.store import SpendStore
from car_rpc.testing import FakeClock, MemorySink, scripted_model
from car_rpc.wire.lifecycle import InitializeParams
from car_rpc.wire.log import EventlogQueryParams, EventlogQueryResult, LogEvent
from car_rpc.wire.models import DelegatedSource, ModelSchema
from car_rpc.wire.routing import RoutingConfig

NOW = "2026-01-31T08:30:00.000Z"

SO_FAR = {"type": "text_delta", "text": "so far"}
BLOCK = {"type": "text_delta", "text": "x" * 1000}

MODELS = [
    scripted_model("test/echo:a", [{"echo": True}]),
    scripted_model(
        "test/stall:a", [{"emit": {"type": "text_delta", "text": "so far"}}, {"stall": True}]
    ),
    scripted_model(
        "test/flood:a", [{"emit": {"type": "text_delta", "text": "x" * 1000}, "repeat": 2000}]
    ),
    ModelSchema(
        id="test/app:a", source=DelegatedSource(hint="gpt"), capabilities=["generate", "vision"]
    ),
]


class Log(MemorySink):
    """An event log in memory that can be asked for a type of events."""

    async def query(self, page: EventlogQueryParams) -> EventlogQueryResult:
        """The newest ones before a place."""
        numbered = [*enumerate(self.entries[: self.committed], 1)]
        events = [
            LogEvent(
                seq=seq,
                ts=NOW,
                session_id="ses_1",
                trace_id=None,
                type=entry.type,
                data=json.loads(msgspec.json.encode(entry.data)),
            )
            for seq, entry in reversed(numbered)
            if seq < page.after_seq and entry.type in (page.types or ())
        ]
        return EventlogQueryResult(events=events[: page.limit], next_seq=1)


class Counter:
    """Ids that count."""

    def __init__(self) -> None:
        self.count = 0

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"


class LoopClock:
    """The clock of the event loop's timers, which tests put forward instead of waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        self._ahead_s = 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead_s)

    async def advance(self, seconds: float) -> None:
        """Let what is going on come to rest, then time pass, and what is due happen."""
        await _turns()
        self._ahead_s += seconds
        await _turns()


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class App:
    """The client's side of a session, and what the process around it does."""

    def __init__(
        self,
        registry: Registry,
        tmp_path: Path,
        connection: Connection[Waiting] | None = None,
        drain_ms: int = 50,
        **kept: Any,
    ) -> None:
        self.connection = connection or Connection()
        self.messages: list[Any] = []
        self.reading = True
        self.loaded = asyncio.Event()
        self.load_error: Exception | None = None
        self.introduced: list[InitializeParams] = []
        self.exit_codes: list[int] = []
        self.sink = Log()
        self._kicked = asyncio.Event()
        self.runner = RunnerHost(self.connection, self.kick)
        backends = {"fake": FakeBackend(), "delegated": DelegatedBackend(self.runner, Counter())}

        def backend_of(model: ModelSchema) -> Any:
            return backends["delegated" if isinstance(model.source, DelegatedSource) else "fake"]

        policies = PolicyStore(tmp_path / "car.db", [])
        engine = Engine(
            registry,
            backend_of,
            self.sink,
            FakeClock(),
            Counter(),
            rules=policies.current,
            approver=ApproverHost(self.connection, self.kick, announced=True),
            **kept,
        )
        nothing: Any = None
        log: Any = self.sink
        self.services = Services(
            engine=engine,
            registry=registry,
            runner=self.runner,
            log=log,
            upkeep=nothing,
            keys=nothing,
            weights=Weights(registry, nothing, backend_of, tmp_path, tmp_path),
            workers=nothing,
            discovery=nothing,
            allowed_roots=[tmp_path / "allowed"],
            routing=RoutingStore(tmp_path / "car.db", RoutingConfig()),
            policies=policies,
            outcomes=kept.get("outcomes", nothing),
            budget=kept.get("budget", nothing),
        )
        settings = Settings(tmp_path, tmp_path, drain_ms=drain_ms)
        self.session = Session(
            settings=settings,
            session_id="ses_1",
            connection=self.connection,
            runner=self.runner,
            host=self,
            startup_ms={"ready": 1.0},
        )

    # What the process around a session does

    def kick(self) -> None:
        self._kicked.set()

    async def load(self) -> Dispatcher:
        await self.loaded.wait()
        if self.load_error is not None:
            raise self.load_error
        return Dispatcher(self.services)

    def backends(self) -> dict[str, dict[str, Any]]:
        return {"fake": {"available": True}}

    def initialized(self, params: InitializeParams) -> None:
        self.introduced.append(params)

    def exit(self, code: int) -> None:
        self.exit_codes.append(code)

    # What the client does

    def send(self, *messages: dict[str, Any]) -> None:
        lines = [json.dumps({"jsonrpc": "2.0", **message}) for message in messages]
        self.session.receive("".join(f"{line}\n" for line in lines).encode())

    def request(self, request_id: Any, method: str, **params: Any) -> None:
        self.send({"id": request_id, "method": method, "params": params})

    def notify(self, method: str, **params: Any) -> None:
        self.send({"method": method, "params": params})

    def read(self) -> list[Any]:
        if self.reading and self.connection.has_output:
            data = self.connection.take_output(1 << 30)
            self.messages += [json.loads(line) for line in data.splitlines()]
            self.session.output_taken()
        return self.messages

    async def until(self, found: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(10):
            while True:
                self._kicked.clear()
                for message in self.read():
                    if found(message):
                        return message
                await self._kicked.wait()

    async def answer(self, request_id: Any) -> Any:
        return await self.until(lambda m: "method" not in m and m["id"] == request_id)

    async def method(self, name: str) -> Any:
        return await self.until(lambda m: m.get("method") == name)

    async def call(self, request_id: Any, method: str, **params: Any) -> Any:
        self.request(request_id, method, **params)
        return await self.answer(request_id)

    async def failure(self, request_id: Any, method: str, **params: Any) -> Any:
        return (await self.call(request_id, method, **params))["error"]

    def answered(self) -> list[Any]:
        return [m["id"] for m in self.read() if "method" not in m]

    def events(self, request_id: Any) -> list[Any]:
        found = [m["params"] for m in self.read() if m.get("method") == "generate.event"]
        return [params for params in found if params["request_id"] == request_id]


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    return LoopClock(monkeypatch)


@pytest.fixture
def registry(tmp_path: Path) -> Any:
    registry = Registry(MODELS, ModelStore(tmp_path / "car.db"), tmp_path)
    yield registry
    registry.close()


@pytest.fixture
async def fresh(registry: Registry, tmp_path: Path) -> Any:
    """A session that nobody has introduced himself to."""
    outcomes = Tracker(OutcomeStore(tmp_path / "car.db"), {}, lambda: NOW)
    budget = Budget(SpendStore(tmp_path / "car.db"), lambda: datetime.fromisoformat(NOW))
    app = App(registry, tmp_path, outcomes=outcomes, budget=budget)
    yield app
    app.session.cancel_all()
    await app.session.answered(5)
    await outcomes.close(5)
    budget.close()


@pytest.fixture
async def app(fresh: App) -> App:
    """A session that is ready."""
    fresh.loaded.set()
    await fresh.call("init", "initialize", protocol_version=1)
    await fresh.call("warm", "models.list")
    fresh.messages.clear()
    return fresh


@pytest.fixture
def broken() -> CarError:
    return CarError("io_error", "the database cannot be used")
