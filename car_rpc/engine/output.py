"""Where the events of a request go: through the accumulator to the log and to the client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from car_rpc.engine.ports import Clock
from car_rpc.engine.recording import Recorder
from car_rpc.engine.screening import Screen
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.wire.events import (
    Attempt,
    ReasoningDelta,
    Recovery,
    RunnerEvent,
    StreamEvent,
    TextDelta,
    ToolCallStart,
)
from car_rpc.wire.inference import TokenLogprob
from car_rpc.wire.models import ModelSchema


class Listener(Protocol):
    """Who gets the events of a stream."""

    def send(self, event: StreamEvent) -> bool:
        """Pass on an event; tells whether there is room for another one."""
        ...

    async def room(self) -> None:
        """Wait while too many are unread."""
        ...


class Output:
    """The events of one request over all its attempts.

    Args:
        accumulator: What they add up to.
        recorder: The request's event log.
        listener: The client's stream, if it wants one.
        clock: Time.
        screen: What policies leave of them; ``None`` for all.
    """

    def __init__(
        self,
        accumulator: Accumulator,
        recorder: Recorder,
        listener: Listener | None,
        clock: Clock,
        screen: Screen | None = None,
    ) -> None:
        #: When the first token came, by the clock.
        self.first_token_at_ms: float | None = None
        self._accumulator = accumulator
        self._recorder = recorder
        self._listener = listener
        self._clock = clock
        self._screen = screen
        self._started_ms = clock.now_ms()
        self._recovery: Recovery | None = None

    @property
    def answer(self) -> Accumulator | Screen:
        """The answer as it is told."""
        return self._screen or self._accumulator

    @property
    def items(self) -> list[Any]:
        """A provider's own items as they are told."""
        items = self._accumulator.provider_output_items
        return items if self._screen is None else self._screen.items(items)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """How likely the tokens were; none where a policy screens the answer that they spell."""
        return self._accumulator.logprobs if self._screen is None else []

    async def begin_attempt(self, attempt: Attempt, model: ModelSchema) -> None:
        """Another attempt begins, once the log holds all before it."""
        if self._screen is not None:
            self._screened(self._screen, self._screen.begin_attempt(model))
        if self._recovery is not None:
            self._recovery = msgspec.structs.replace(self._recovery, attempt=attempt.attempt)
        await self._recorder.written()
        await self.room()
        self._recorder.attempt(attempt)
        if self._listener is not None:
            self._listener.send(attempt)

    def recovers(self, recovery: Recovery, *, may_repeat: bool) -> None:
        """The stream goes on.

        With ``may_repeat`` the next attempt may say the end of the text again, and this is told
        as soon as it is known how much.
        """
        if may_repeat:
            self._recovery = recovery
        else:
            self._tell(recovery)

    def push(self, event: StreamEvent | RunnerEvent) -> bool:
        """Take an event of the backend; tells whether there is room for another one.

        Raises:
            CarError: As :meth:`Accumulator.push`; ``policy_denied``.
        """
        return self.pass_on(self._accumulator.push(event))

    async def close(self) -> None:
        """The answer is complete.

        Raises:
            CarError: ``policy_denied``.
        """
        self.pass_on(self._accumulator.close())
        if self._screen is not None:
            self._screened(self._screen, self._screen.close())
            await self._questions(self._screen)
            self._screened(self._screen, self._screen.end())

    async def room(self) -> None:
        """Wait while the app is asked about a call, the log is behind, or the client reads.

        Raises:
            CarError: ``policy_denied``.
        """
        if self._screen is not None:
            await self._questions(self._screen)
        await self._recorder.room()
        if self._listener is not None:
            await self._listener.room()

    def pass_on(self, events: Iterable[StreamEvent]) -> bool:
        """Tell the log and the client what the accumulator has taken; see :meth:`push`."""
        if self._recovery is not None:
            self._tell_recovery(self._recovery)
        has_room = True
        for event in events:
            if self.first_token_at_ms is None and isinstance(
                event, TextDelta | ReasoningDelta | ToolCallStart
            ):
                self.first_token_at_ms = self._clock.now_ms()
                after_ms = round(self.first_token_at_ms - self._started_ms, 3)
                self._recorder.aside("first_token", after_ms=after_ms)
            has_room = self._tell(event)
        return has_room

    def conclude(self, failure: CarError | None = None) -> CarError | None:
        """No event follows but the last one; returns a failure as it is told."""
        if self._screen is None:
            return failure
        self._screen.conclude()
        if failure is None or "snapshot" not in failure.extra:
            return failure
        told = {**failure.extra, "snapshot": self._screen.snapshot()}
        return CarError(failure.kind, failure.detail, **told)

    def finish(self, event: StreamEvent) -> None:
        """The last event of the stream."""
        if self._listener is not None:
            self._listener.send(event)

    def _tell_recovery(self, recovery: Recovery) -> None:
        removed = self._accumulator.overlap_removed
        if removed is not None:
            self._recovery = None
            if removed:
                recovery = msgspec.structs.replace(recovery, overlap_removed=removed)
            self._tell(recovery)

    def _tell(self, event: StreamEvent) -> bool:
        if self._screen is None:
            return self._say(event)
        return self._screened(self._screen, self._screen.take(event))

    def _screened(self, screen: Screen, events: Iterable[StreamEvent]) -> bool:
        has_room = True
        for event in events:
            has_room = self._say(event)
        if screen.refusal is not None:
            raise screen.refusal
        return has_room and not screen.asks

    async def _questions(self, screen: Screen) -> None:
        while screen.asks:
            self._screened(screen, await screen.answered())

    def _say(self, event: StreamEvent) -> bool:
        # To both at once, so that the log holds what the client got, whenever a cancel comes.
        has_room = self._recorder.delta(event)
        if self._listener is not None:
            return self._listener.send(event) and has_room
        return has_room
