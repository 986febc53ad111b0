"""Write a request's story to the event log: what must be durable, and deltas in groups."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from car_rpc.engine.ports import EventSink, LogEntry
from car_rpc.wire.events import StreamEvent

#: How long a delta may wait for others before it goes to the log, in seconds. Together with
#: the log's own group commit it must stay below the 100 ms that the protocol promises.
DELTA_WAIT_S = 0.04

#: Most events of one row of the log.
MAX_EVENTS_PER_ROW = 128

#: Members of an event that hold what the client or a model said.
_CONTENT = frozenset({"params", "events", "result", "error"})


def absorb_cancel() -> None:
    """The current task was cancelled and goes on, because its request must be answered."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


class Recorder:
    """The event log of one request.

    Args:
        sink: Where events go.
        trace_id: The request's trace.
        conversation_id: The client's name of the conversation.
        metadata_only: Keep sizes instead of content (privacy level ``metadata``).
    """

    def __init__(
        self,
        sink: EventSink,
        trace_id: str,
        conversation_id: str | None = None,
        *,
        metadata_only: bool = False,
    ) -> None:
        self.trace_id = trace_id
        self._sink = sink
        self._conversation_id = conversation_id
        self._metadata_only = metadata_only
        self._deltas: list[StreamEvent] = []
        self._timer: asyncio.TimerHandle | None = None
        self._attempt: int | None = None

    def begin_attempt(self, attempt: int) -> None:
        """Later events belong to this attempt."""
        self.flush()
        self._attempt = attempt

    def note(self, event_type: str, **data: Any) -> None:
        """Record an event soon."""
        self.flush()
        self._sink.append(self._entry(event_type, data))

    async def commit(self, event_type: str, **data: Any) -> None:
        """Record an event; returns when it and all before it are durable."""
        self.flush()
        await self._sink.commit(self._entry(event_type, data))

    async def commit_final(self, event_type: str, **data: Any) -> None:
        """Record how the request ended. A cancel that comes now is too late and is dropped."""
        commit = asyncio.ensure_future(self.commit(event_type, **data))
        while not commit.done():
            try:
                await asyncio.shield(commit)
            except asyncio.CancelledError:
                absorb_cancel()
        commit.result()

    def delta(self, event: StreamEvent) -> None:
        """Record a stream event, grouped with its neighbours."""
        self._deltas.append(event)
        if len(self._deltas) >= MAX_EVENTS_PER_ROW:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELTA_WAIT_S, self.flush)

    async def room(self) -> None:
        """Wait while the log is behind."""
        await self._sink.room()

    def flush(self) -> None:
        """Hand waiting deltas to the log."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._deltas:
            deltas, self._deltas = self._deltas, []
            self._sink.append(self._entry("deltas", {"events": deltas}))

    def _entry(self, event_type: str, data: dict[str, Any]) -> LogEntry:
        if self._metadata_only:
            data = {name: _size_if_content(name, value) for name, value in data.items()}
        return LogEntry(event_type, data, self.trace_id, self._conversation_id, self._attempt)


def _size_if_content(name: str, value: object) -> object:
    if name not in _CONTENT:
        return value
    return {"bytes": len(msgspec.json.encode(value))}
