"""What handlers are given: the parts of the process, and the request at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from msgspec import UnsetType

from car_rpc.backends.local.weights import Weights
from car_rpc.backends.local.workers import Workers
from car_rpc.backends.openai_compat.discovery import Discovery
from car_rpc.backends.openai_compat.keys import Keys
from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.output import Listener
from car_rpc.eventlog.upkeep import Upkeep
from car_rpc.eventlog.writer import EventLog
from car_rpc.host.policy_store import PolicyStore
from car_rpc.host.routing_store import RoutingStore
from car_rpc.host.runner import RunnerHost
from car_rpc.outcomes.tracker import Tracker
from car_rpc.registry.hardware import detect
from car_rpc.registry.registry import Registry
from car_rpc.spend.budget import Budget
from car_rpc.wire.search import Machine


class Notify(Protocol):
    """Sends a notification of a request."""

    def __call__(self, method: str, params: bytes, /, *, passing: bool = False) -> bool:
        """Send it, from its method and encoded params; tells whether there is room for more.

        A passing one takes the place of a passing one right before it that is unread.
        """
        ...


class Services(NamedTuple):
    """What handlers work with."""

    engine: Engine
    registry: Registry
    runner: RunnerHost
    log: EventLog
    upkeep: Upkeep
    keys: Keys
    weights: Weights
    workers: Workers
    discovery: Discovery
    allowed_roots: list[Path]
    routing: RoutingStore
    policies: PolicyStore
    outcomes: Tracker
    budget: Budget
    machine: Callable[[], Machine] = detect


class Scope(NamedTuple):
    """One request, as handlers see it.

    Attributes:
        origin: Where it came from.
        notify: Sends a notification of it, before its response; tells whether there is room for
            another one.
        room: Waits while too many of its notifications are unread.
        open_stream: Opens its stream; takes the client's own reference to the request.
    """

    origin: Origin
    notify: Notify
    room: Callable[[], Awaitable[None]]
    open_stream: Callable[[str | UnsetType], Listener]


Handler: TypeAlias = Callable[[Services, Scope, Any], Any]
