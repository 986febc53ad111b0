"""Where the events of a request go: through the accumulator to the log and to the client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from car_rpc.engine.ports import Clock
from car_rpc.engine.recording import Recorder
from car_rpc.engine.stream import Accumulator
from car_rpc.wire.events import (
    Attempt,
    ReasoningDelta,
    Recovery,
    RunnerEvent,
    StreamEvent,
    TextDelta,
    ToolCallStart,
)


class Listener(Protocol):
    """Who gets the events of a stream."""

    async def room(self) -> None:
        """Wait while too many events are unread."""
        ...

    def send(self, event: StreamEvent) -> None:
        """Pass on an event, without waiting."""
        ...


class Output:
    """The events of one request over all its attempts.

    Args:
        accumulator: What they add up to.
        recorder: The request's event log.
        listener: The client's stream, if it wants one.
        clock: Time.
    """

    def __init__(
        self, accumulator: Accumulator, recorder: Recorder, listener: Listener | None, clock: Clock
    ) -> None:
        #: When the first token came, by the clock.
        self.first_token_at_ms: float | None = None
        self._accumulator = accumulator
        self._recorder = recorder
        self._listener = listener
        self._clock = clock
        self._started_ms = clock.now_ms()
        self._recovery: Recovery | None = None

    async def begin_attempt(self, attempt: Attempt) -> None:
        """Another attempt begins, once the log holds all before it."""
        if self._recovery is not None:
            self._recovery = msgspec.structs.replace(self._recovery, attempt=attempt.attempt)
        await self._recorder.written()
        await self._room()
        self._recorder.attempt(attempt)
        if self._listener is not None:
            self._listener.send(attempt)

    async def recovers(self, recovery: Recovery, *, may_repeat: bool) -> None:
        """The stream goes on.

        With ``may_repeat`` the next attempt may say the end of the text again, and this is told
        as soon as it is known how much.
        """
        if may_repeat:
            self._recovery = recovery
        else:
            await self._tell(recovery)

    async def push(self, event: StreamEvent | RunnerEvent) -> None:
        """Take an event of the backend.

        Raises:
            CarError: As :meth:`Accumulator.push`.
        """
        await self.pass_on(self._accumulator.push(event))

    async def close(self) -> None:
        """The answer is complete."""
        await self.pass_on(self._accumulator.close())

    async def pass_on(self, events: Iterable[StreamEvent]) -> None:
        """Tell the log and the client what the accumulator has taken."""
        removed = self._accumulator.overlap_removed
        if self._recovery is not None and removed is not None:
            recovery, self._recovery = self._recovery, None
            if removed:
                recovery = msgspec.structs.replace(recovery, overlap_removed=removed)
            await self._tell(recovery)
        for event in events:
            if self.first_token_at_ms is None and isinstance(
                event, TextDelta | ReasoningDelta | ToolCallStart
            ):
                self.first_token_at_ms = self._clock.now_ms()
                after_ms = round(self.first_token_at_ms - self._started_ms, 3)
                self._recorder.aside("first_token", after_ms=after_ms)
            await self._tell(event)

    def finish(self, event: StreamEvent) -> None:
        """The last event of the stream, which nothing holds up."""
        if self._listener is not None:
            self._listener.send(event)

    async def _tell(self, event: StreamEvent) -> None:
        # Told to both at once, so that the log holds what the client got, whenever a cancel comes.
        await self._room()
        self._recorder.delta(event)
        if self._listener is not None:
            self._listener.send(event)

    async def _room(self) -> None:
        """Wait while the log or the client is behind."""
        await self._recorder.room()
        if self._listener is not None:
            await self._listener.room()
