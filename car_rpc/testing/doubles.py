"""Doubles of the engine's ports that keep everything in memory, and models that follow a script."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from car_rpc.engine.ports import GenerateCall, LogEntry
from car_rpc.eventlog.redact import redact_json
from car_rpc.eventlog.shapes import KNOWN
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.log import LogEvent
from car_rpc.wire.models import Capability, FakeSource, ModelSchema, ScriptStep


class FakeClock:
    """A clock that stands still until it is told to go on; who sleeps moves it.

    Attributes:
        slept_ms: Every wait, in order.
    """

    def __init__(self, now_ms: float = 0.0) -> None:
        self.slept_ms: list[float] = []
        self._now_ms = now_ms

    async def sleep_ms(self, ms: float) -> None:
        """Let time pass, at once."""
        self.slept_ms.append(ms)
        self._now_ms += ms
        await asyncio.sleep(0)

    def now_ms(self) -> float:
        """Monotonic milliseconds."""
        return self._now_ms

    def advance(self, ms: float) -> None:
        """Let time pass."""
        self._now_ms += ms


class MemorySink:
    """An event log in memory.

    Attributes:
        entries: Everything recorded, in order.
        committed: How many of them are durable.
        lost: How many events could not be written, which a test may raise.
        failure: When set, every commit fails with it.
        secrets: What is replaced in what is read.
    """

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.committed = 0
        self.lost = 0
        self.failure: Exception | None = None
        self.secrets = KNOWN

    def append(self, entry: LogEntry) -> None:
        """Record an event that is not durable yet."""
        self.entries.append(entry)

    async def commit(self, *entries: LogEntry) -> None:
        """Record events and make all so far durable."""
        if self.failure is not None:
            raise self.failure
        self.entries += entries
        self.committed = len(self.entries)

    @property
    def has_room(self) -> bool:
        """There is always room."""
        return True

    async def room(self) -> None:
        """Nothing to wait for."""

    async def story(self, trace_id: str) -> list[LogEvent]:
        """The durable events of a request, as they would be read from a database."""
        return [
            LogEvent(
                seq=number,
                ts="2026-01-01T00:00:00.000Z",
                session_id="ses_test",
                trace_id=trace_id,
                attempt=UNSET if entry.attempt is None else entry.attempt,
                type=entry.type,
                data=self._kept(entry),
            )
            for number, entry in enumerate(self.entries[: self.committed], 1)
            if entry.trace_id == trace_id
        ]

    def _kept(self, entry: LogEntry) -> dict[str, Any]:
        text = redact_json(msgspec.json.encode(entry.data), self.secrets, entry.search)
        return msgspec.json.decode(text, type=dict[str, Any])

    @property
    def types(self) -> list[str]:
        """Types of what was recorded of requests, in order."""
        return _types(self.entries)

    @property
    def committed_types(self) -> list[str]:
        """Types of what is durable, in order."""
        return _types(self.entries[: self.committed])


def _types(entries: Iterable[LogEntry]) -> list[str]:
    return [entry.type for entry in entries if entry.trace_id is not None]


def scripted_model(
    model_id: str,
    steps: Sequence[ScriptStep | dict[str, Any]],
    capabilities: Sequence[Capability] = ("generate",),
) -> ModelSchema:
    """A model of the ``fake`` engine.

    Args:
        model_id: ``provider/name:variant``.
        steps: What it does for each request, such as ``{"echo": True}``; dicts are as in JSON.
        capabilities: What it claims to do.

    Raises:
        msgspec.ValidationError: A step is not one of the protocol's.
    """
    script = msgspec.convert(msgspec.to_builtins(list(steps)), list[ScriptStep])
    return ModelSchema(
        id=model_id, source=FakeSource(script=script), capabilities=list(capabilities)
    )


def scripted_call(model: ModelSchema, **request: Any) -> GenerateCall:
    """A first attempt on a model, as the engine would make it; the fields are the request's."""
    raw = msgspec.json.encode({"prompt": "one two three", **request})
    return GenerateCall(
        model=model,
        request=msgspec.json.decode(raw, type=GenerateRequest),
        raw_request=raw,
        parent_id=1,
        trace_id="tr_test",
        attempt=1,
        deadline_ms=None,
    )
