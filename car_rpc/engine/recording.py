"""Write a request's story to the event log: what must be durable, and deltas in groups."""

from __future__ import annotations

import asyncio
from typing import Any

from car_rpc.engine.ports import Clock, EventSink, LogEntry
from car_rpc.engine.privacy import Privacy
from car_rpc.errors import CarError
from car_rpc.eventlog.redact import Search
from car_rpc.eventlog.stream import StreamRedactor
from car_rpc.wire.events import Attempt, StreamEvent

#: How long a delta may wait for others before it goes to the log, in seconds. Together with
#: the log's own group commit it must stay below the 100 ms that the protocol promises.
DELTA_WAIT_S = 0.055

#: Most events of one row of the log.
MAX_EVENTS_PER_ROW = 128


def absorb_cancel() -> None:
    """The current task was cancelled and goes on, because its request must be answered."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


class Recorder:
    """The event log of one request.

    Args:
        sink: Where events go.
        clock: Time; the request has just come.
        trace_id: The request's trace.
        conversation_id: The client's name of the conversation.
        privacy: How much goes to the log.
    """

    def __init__(
        self,
        sink: EventSink,
        clock: Clock,
        trace_id: str,
        conversation_id: str | None = None,
        *,
        privacy: Privacy,
    ) -> None:
        self.trace_id = trace_id
        self._sink = sink
        self._clock = clock
        self._started_ms = clock.now_ms()
        self._conversation_id = conversation_id
        self._privacy = privacy
        is_redacted = privacy.level == "redacted"
        self._redactor = StreamRedactor(privacy.secrets) if is_redacted else None
        self._deltas: list[StreamEvent] = []
        #: When each event came that the log has not got yet.
        self._times_ms: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self._attempt: int | None = None
        self._ended = False
        self._lost_before = sink.lost

    def request(self, **data: Any) -> None:
        """Record what is asked."""
        self.note("request", **data, privacy=self._privacy.level)

    def attempt(self, attempt: Attempt) -> None:
        """Record that a model is asked; later events belong to this attempt."""
        self._cut()
        self._attempt = attempt.attempt
        reason = {"reason": attempt.reason} if attempt.reason else {}
        self.note("attempt", model=attempt.model, **reason)

    def failure(self, error: CarError) -> None:
        """Record how an attempt failed."""
        at_ms = round(self._clock.now_ms() - self._started_ms, 3)
        self.note("failure", kind=error.kind, error=error.told, at_ms=at_ms)

    def shared(self, event_type: str, data: dict[str, Any]) -> None:
        """Record an event that other requests need as well: it outlives this one."""
        self._sink.append(LogEntry(event_type, data))

    def note(self, event_type: str, **data: Any) -> None:
        """Record an event soon."""
        self._cut()
        self._sink.append(self._entry(event_type, data))

    def aside(self, event_type: str, **data: Any) -> None:
        """Record an event soon that has no place among the deltas: these may come later.

        What comes while the end is being written is too late.
        """
        if not self._ended:
            self._sink.append(self._entry(event_type, data))

    async def written(self) -> None:
        """Return when everything so far is durable.

        Raises:
            CarError: ``io_error``: not all of it could be written, or not all that others recorded
                since this request began.
        """
        await self._sink.commit()
        if self._sink.lost != self._lost_before:
            raise CarError(
                "io_error",
                "the event log has lost what was asked; the process's own log says why, such as a"
                " full disk",
            )

    async def commit_final(self, event_type: str, **data: Any) -> None:
        """Record how the request ended. A cancel that comes now is too late and is dropped."""
        self.end_deltas()
        self._ended = True
        commit = asyncio.ensure_future(self._sink.commit(self._entry(event_type, data)))
        while not commit.done():
            try:
                await asyncio.shield(commit)
            except asyncio.CancelledError:
                absorb_cancel()
        commit.result()

    def end_deltas(self) -> None:
        """No stream event follows: let none of them wait."""
        self.flush()
        if self._redactor is not None:
            self._write(self._redactor.end(), changed=self._redactor.changed)

    def delta(self, event: StreamEvent) -> bool:
        """Record a stream event, grouped with its neighbours; tells whether the log keeps up.

        Secrets are looked for in the whole group: one that may be a part of a secret waits until
        that is known, and later ones with it.
        """
        self._deltas.append(event)
        self._times_ms.append(self._clock.now_ms())
        if len(self._deltas) >= MAX_EVENTS_PER_ROW:
            self.flush()
        elif self._timer is None:
            # At the same moments for all requests, so that they share a transaction.
            loop = asyncio.get_running_loop()
            tick = loop.time() // DELTA_WAIT_S + 1
            self._timer = loop.call_at(tick * DELTA_WAIT_S, self.flush)
        return self._sink.has_room

    async def room(self) -> None:
        """Wait while the log is behind."""
        await self._sink.room()

    def flush(self) -> None:
        """Hand waiting deltas to the log."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        events, self._deltas = self._deltas, []
        if self._redactor is None:
            self._write(events, changed=False)
        elif events:
            events = self._redactor.push_all(events)
            self._write(events, changed=self._redactor.changed)

    def _cut(self) -> None:
        """Let nothing wait, as what comes now goes behind it."""
        self.flush()
        if self._redactor is not None:
            self._write(self._redactor.cut(), changed=self._redactor.changed)

    def _write(self, events: list[StreamEvent], *, changed: bool) -> None:
        if events:
            times_ms, self._times_ms = self._times_ms[: len(events)], self._times_ms[len(events) :]
            data: dict[str, Any] = {"events": events, "at_ms": self._at_ms(times_ms)}
            if changed:
                data["redacted"] = True
            self._sink.append(self._entry("deltas", data))

    def _at_ms(self, times_ms: list[float]) -> list[int]:
        first, last = (round(times_ms[at] - self._started_ms) for at in (0, -1))
        if first == last:  # as in a flood
            return [first] * len(times_ms)
        return [round(time_ms - self._started_ms) for time_ms in times_ms]

    def _entry(self, event_type: str, data: dict[str, Any]) -> LogEntry:
        search: Search = "all"
        if event_type == "deltas" and self._redactor is not None:
            search = "nowhere"  # their text was searched as one
        elif event_type == "deltas" or (self._privacy.level == "full" and "error" not in data):
            search = "names"  # the text of an error may quote a key, also where content is kept
        return LogEntry(
            event_type,
            self._privacy.kept(data),
            self.trace_id,
            self._conversation_id,
            self._attempt,
            search=search,
        )
