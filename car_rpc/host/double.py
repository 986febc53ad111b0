"""A dispatcher that answers from a cassette, and has the other requests run and recorded.

It stands before everything that a request meets: parameters are not checked, no policy is asked, no
model is chosen. All of that went into the answer when it was recorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from car_rpc.cassette.file import read_media
from car_rpc.cassette.interaction import Asked, Interaction
from car_rpc.cassette.lines import Captured
from car_rpc.cassette.requests import normalised
from car_rpc.engine.generation import failure_of
from car_rpc.engine.output import Listener
from car_rpc.engine.ports import Clock
from car_rpc.engine.recording import absorb_cancel
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.host.deck import Deck
from car_rpc.host.dispatch import Dispatching, Outcome, unknown_method
from car_rpc.host.params import decode_params
from car_rpc.host.progress import heartbeats
from car_rpc.host.services import Scope
from car_rpc.wire.base import RequestId, decode_object
from car_rpc.wire.events import Done, ErrorEvent, StreamEvent
from car_rpc.wire.methods import METHODS, RUNS_MODELS
from car_rpc.wire.runner import RunnerEventResult

logger = logging.getLogger(__name__)

#: What belongs to other requests or to the log, and to no cassette.
LEFT_OUT = frozenset({"eventlog.subscribe", "replay.run", "runner.event"})

#: There is no run where there is no runner.
_NO_RUN = msgspec.json.encode(RunnerEventResult(emitted=False, closed=True))


class Double:
    """A dispatcher with a cassette.

    Args:
        deck: The cassette.
        inner: Runs requests; ``None`` where none is run.
        clock: Time.
        is_timed: Whether answers take the time that they took.
    """

    def __init__(
        self, deck: Deck, inner: Dispatching | None, clock: Clock, *, is_timed: bool
    ) -> None:
        self._deck = deck
        self._inner = inner
        self._clock = clock
        self._is_timed = is_timed

    def is_inline(self, _: str) -> bool:
        """Every request is looked up in the order of arrival."""
        return True

    def call_inline(
        self, method: str, scope: Scope, raw_params: bytes
    ) -> Outcome | asyncio.Future[Any]:
        """Answer a request, or begin to."""
        if method not in METHODS or method in LEFT_OUT:
            return self._left_out(method, scope, raw_params)
        params = normalised(raw_params, METHODS[method].params, read_media, self._deck.secrets)
        asked = Asked(method, params)
        try:
            interaction = self._deck.tape.take(asked)
        except CarError as error:
            return error
        if interaction is not None:
            return asyncio.ensure_future(self._play(interaction, scope, raw_params))
        return self._record(asked, scope, raw_params)

    async def call(self, method: str, scope: Scope, raw_params: bytes) -> Outcome:
        """Answer a request."""
        work = self.call_inline(method, scope, raw_params)
        outcome: Outcome = await work if isinstance(work, asyncio.Future) else work
        return outcome

    def take_runner_event(self, raw_params: bytes) -> None:
        """Take a ``runner.event`` that is a notification."""
        if self._inner is not None:
            self._inner.take_runner_event(raw_params)

    def cancel_requested(self, request_id: RequestId) -> None:
        """A request will be cancelled."""
        if self._inner is not None:
            self._inner.cancel_requested(request_id)

    def _left_out(
        self, method: str, scope: Scope, raw_params: bytes
    ) -> Outcome | asyncio.Future[Any]:
        if self._inner is not None:
            return _begun(self._inner, method, scope, raw_params)
        match method:
            case "runner.event":
                return _NO_RUN
            case "eventlog.subscribe":  # to a log that nobody writes; a cancel ends it
                return asyncio.get_running_loop().create_task(asyncio.Event().wait())
            case "replay.run":
                return CarError("not_found", "where a cassette answers, no event log is written")
            case _:
                return unknown_method(method)

    # Playing

    async def _play(self, interaction: Interaction, scope: Scope, raw_params: bytes) -> Outcome:
        method = interaction.asked.method
        wanted = _wanted(method, raw_params)
        playback = _Playback(interaction, self._clock, is_timed=self._is_timed)
        if METHODS[method].logged and method not in RUNS_MODELS:
            await self._change_state(interaction, scope, raw_params)
        listener = None
        if method == "generate" and wanted.stream:
            listener = scope.open_stream(wanted.client_ref)
        try:
            async with heartbeats(wanted.progress_token, scope.notify):
                await playback.run(listener)
        except asyncio.CancelledError as error:
            if not playback.ended:
                if method != "generate":
                    raise
                return failure_of(error).with_data(**playback.partial())
            absorb_cancel()  # it came too late
        return _answer(interaction, wanted.client_ref)

    async def _change_state(
        self, interaction: Interaction, scope: Scope, raw_params: bytes
    ) -> None:
        """Do what the answer says was done, for the requests that are run for real."""
        if self._inner is None or isinstance(interaction.answer, CarError):
            return
        method = interaction.asked.method
        outcome = await self._inner.call(method, scope, raw_params)
        if isinstance(outcome, CarError):
            logger.warning("`%s` does not run as it was recorded: %s", method, outcome)

    # Recording

    def _record(
        self, asked: Asked, scope: Scope, raw_params: bytes
    ) -> Outcome | asyncio.Future[Any]:
        assert self._inner is not None  # noqa: S101 - else the tape has refused
        place = self._deck.tape.place()
        started, started_ms = self._deck.now(), self._clock.now_ms()
        events: list[tuple[float, StreamEvent]] = []
        open_real = scope.open_stream

        def passed_ms() -> float:
            return self._clock.now_ms() - started_ms

        def open_stream(client_ref: str | UnsetType) -> Listener:
            return _Tee(open_real(client_ref), lambda e: events.append((passed_ms(), e)))

        def keep(outcome: Outcome) -> None:
            request_id = scope.origin.request_id
            captured = Captured(request_id, asked, started, events, outcome, passed_ms())
            self._deck.keep(place, captured)

        scope = scope._replace(open_stream=open_stream)
        work = _begun(self._inner, asked.method, scope, raw_params)
        if isinstance(work, asyncio.Future):
            return asyncio.ensure_future(_kept(work, keep))
        keep(work)
        return work


class _Playback:
    """One answer that is given again.

    Attributes:
        ended: Whether its stream has ended, or all that goes before its answer has passed.
    """

    def __init__(self, interaction: Interaction, clock: Clock, *, is_timed: bool) -> None:
        self.ended = False
        self._recorded = interaction.recorded
        self._clock = clock
        self._is_timed = is_timed
        self._accumulator = Accumulator()

    async def run(self, listener: Listener | None) -> None:
        """Tell the stream's events, and pass the time until the answer."""
        started_ms = self._clock.now_ms()
        for at_ms, told in self._recorded.events:
            event = msgspec.convert(told, StreamEvent)
            if listener is not None:
                await listener.room()
            await self._until(started_ms + at_ms)
            self.ended = isinstance(event, Done | ErrorEvent)
            if not self.ended:
                self._accumulator.push(event)
            if listener is not None:
                listener.send(event)
        if not self.ended:
            await self._until(started_ms + self._recorded.answered_ms)
            self.ended = True

    def partial(self) -> dict[str, Any]:
        """What was told so far, as the error of a cancelled request has it."""
        said = self._accumulator
        partial = {"text": said.text, "tool_calls": said.tool_calls(), "usage": said.usage}
        return {"trace_id": self._recorded.trace_id, "partial": partial}

    async def _until(self, moment_ms: float) -> None:
        wait_ms = moment_ms - self._clock.now_ms() if self._is_timed else 0.0
        # Also without a wait: other streams go on meanwhile, and a cancel is heard.
        await self._clock.sleep_ms(max(0.0, wait_ms))


class _Tee:
    """The client's stream, whose events are noted."""

    def __init__(self, listener: Listener, note: Callable[[StreamEvent], None]) -> None:
        self._listener = listener
        self._note = note

    async def room(self) -> None:
        await self._listener.room()

    def send(self, event: StreamEvent) -> bool:
        self._note(event)
        return self._listener.send(event)


class _Wanted(Struct, frozen=True):
    """What a request says that is no part of what it asks."""

    stream: bool = False
    client_ref: str | UnsetType = UNSET
    progress_token: int | str | UnsetType = UNSET


def _wanted(method: str, raw_params: bytes) -> _Wanted:
    """Nothing of a request that was refused for its parameters."""
    params_type = METHODS[method].params
    try:
        decode_params(raw_params, params_type)
        wanted = msgspec.json.decode(raw_params, type=_Wanted)
    except (CarError, msgspec.DecodeError):
        return _Wanted()
    has_progress = "progress_token" in params_type.__struct_fields__
    return wanted if has_progress else _Wanted(client_ref=wanted.client_ref)


def _answer(interaction: Interaction, client_ref: str | UnsetType) -> Outcome:
    """The recorded answer, as one to a request with this reference."""
    answer = interaction.answer
    if isinstance(answer, CarError) or interaction.asked.method != "generate":
        return answer
    result = decode_object(answer)
    if result.pop("client_ref", UNSET) is UNSET and client_ref is UNSET:
        return answer
    if client_ref is not UNSET:
        result["client_ref"] = client_ref
    return msgspec.json.encode(result)


def _begun(
    dispatcher: Dispatching, method: str, scope: Scope, raw_params: bytes
) -> Outcome | asyncio.Future[Any]:
    if dispatcher.is_inline(method):
        return dispatcher.call_inline(method, scope, raw_params)
    return asyncio.ensure_future(dispatcher.call(method, scope, raw_params))


async def _kept(work: Awaitable[Outcome], keep: Callable[[Outcome], None]) -> Outcome:
    try:
        outcome = await work
    except asyncio.CancelledError:
        keep(CarError("cancelled"))
        raise
    keep(outcome)
    return outcome
