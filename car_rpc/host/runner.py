"""The app's runner: one slot, and the runs that are under way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

import msgspec

from car_rpc.backends.delegated import RunItem, runner_error
from car_rpc.engine.interruption import interrupted
from car_rpc.errors import KINDS, CarError
from car_rpc.host.params import located
from car_rpc.host.waiting import Waiting
from car_rpc.protocol.connection import Connection
from car_rpc.protocol.limits import RUNNER_BUFFER_BYTES
from car_rpc.protocol.messages import ErrorObject, Response
from car_rpc.wire.base import MAX_SAFE_INTEGER, RequestId
from car_rpc.wire.events import RUNNER_EVENT_TYPES, RunnerEvent, RunnerEventTag
from car_rpc.wire.lifecycle import RunnerStatus
from car_rpc.wire.runner import (
    RunnerEventParams,
    RunnerEventResult,
    RunnerResult,
    RunnerRunParams,
)

logger = logging.getLogger(__name__)

#: Unread events of one run, in bytes, beyond which a ``runner.event`` request waits for its
#: reply. Far below the limit above, so that runners which await their events never come near it.
RUNNER_ROOM_BYTES = 256 * 1024

#: What an event that was sent as a request counts on top of its own bytes: the request that is
#: not answered yet takes memory, too.
REQUEST_BYTES = 512

#: How long a run that has begun to send may be silent, in seconds.
IDLE_TIMEOUT_S = 60.0

#: How long the app has to answer a run that was cancelled, in seconds.
CANCEL_TIMEOUT_S = 1.0

_decode_event: Callable[[bytes], RunnerEvent] = msgspec.json.Decoder(RunnerEvent).decode
_decode_tag = msgspec.json.Decoder(RunnerEventTag).decode
_decode_result = msgspec.json.Decoder(RunnerResult).decode
_encode = msgspec.json.Encoder().encode


class Run:
    """One ``runner.run``: what its app sent that is not read yet, and how it ended.

    Attributes:
        request_id: Our request to the app.
        failure: What the run ends with, after the events before it.
        answered: The app has answered: it may forget the run.
        closed: Nothing more is wanted of the app.
        begun: The app has sent an event.
        warned: An event of an unknown type was logged.
        changed: Set with each of these, and with each event.
    """

    def __init__(self) -> None:
        self.request_id: RequestId | None = None
        self.failure: CarError | None = None
        self.answered = self.closed = self.begun = self.warned = False
        self.changed = asyncio.Event()
        self.unread_bytes = 0
        self._unread: deque[tuple[RunItem, int]] = deque()
        self._withheld: deque[asyncio.Future[bytes]] = deque()

    @property
    def unread(self) -> bool:
        """Whether there is something to :meth:`take`."""
        return bool(self._unread)

    def push(self, item: RunItem, size_bytes: int) -> None:
        """Queue what the app sent."""
        self._unread.append((item, size_bytes))
        self.unread_bytes += size_bytes
        self.changed.set()

    def take(self) -> RunItem:
        """The next of what the app sent; replies that waited for room are given."""
        item, size_bytes = self._unread.popleft()
        self.unread_bytes -= size_bytes
        if self._withheld and self.unread_bytes <= RUNNER_ROOM_BYTES:
            self._reply_all(emitted=True)
        return item

    def reply(self) -> RunnerEventResult | asyncio.Future[bytes]:
        """The reply to the request that brought an event; encoded and later while there is no room.

        To cancel the future is to give up the reply, not the event.
        """
        if self.closed or self.unread_bytes <= RUNNER_ROOM_BYTES:
            return RunnerEventResult(emitted=True, closed=self.closed)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._withheld.append(future)
        return future

    def close(self, *, emitted: bool = True) -> None:
        """Want nothing more of the app, and give every reply; tells it whether events got on."""
        self.closed = True
        self._reply_all(emitted=emitted)
        self.changed.set()

    def fail(self, error: CarError) -> None:
        """End the run with an error, unless it has ended before."""
        if not self.closed:
            self.failure = error
        self.close()

    def answer(self, response: Response) -> None:
        """The app's response: the terminal outcome, or the confirmation of a cancel."""
        self.answered = True
        if self.closed:
            self.changed.set()
        elif response.error is not None:
            self.fail(_error_of(response.error))
        else:
            try:
                self.push(_decode_result(response.result), len(response.result))
                self.close()
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.fail(_malformed("the result of `runner.run`", error, "$"))

    def abandon(self) -> None:
        """The app is gone."""
        self.answered = True
        gone = "the app closed its side before it answered"
        self.fail(CarError("runner_failed", gone, retryable=False))

    def _reply_all(self, *, emitted: bool) -> None:
        if self._withheld:
            reply = _encode(RunnerEventResult(emitted=emitted, closed=self.closed))
            for future in self._withheld:
                if not future.done():  # the app cancelled its request
                    future.set_result(reply)
            self._withheld.clear()


class RunnerHost:
    """Implements the delegated backend's channel over a connection.

    Args:
        connection: Where requests to the app go.
        kick: Tells the writer that there is output.
    """

    def __init__(self, connection: Connection[Waiting], kick: Callable[[], None]) -> None:
        self.registered = False
        self._connection = connection
        self._kick = kick
        self._runs: dict[str, Run] = {}
        self._abandoned = False
        self._late_events = 0

    def register(self) -> bool:
        """Take the slot; tells whether it was taken before."""
        replaced, self.registered = self.registered, not self._abandoned
        return replaced

    def unregister(self) -> None:
        """Free the slot; runs under way go on."""
        self.registered = False

    def status(self) -> RunnerStatus:
        """For ``ping``."""
        return RunnerStatus(
            registered=self.registered, runs=len(self._runs), late_events=self._late_events
        )

    async def run(self, params: RunnerRunParams) -> AsyncGenerator[RunItem, None]:
        """Start a run; see :class:`car_rpc.backends.delegated.RunnerChannel`."""
        run = self._runs[params.call_id] = Run()
        run.request_id = self._connection.call("runner.run", _encode(params), run)
        self._kick()
        # A timer, and not asyncio.timeout around the loop: that would cancel whoever reads the run.
        late = f"the runner did not finish within {params.deadline_ms} ms"
        overdue = CarError("timeout", late, cause="deadline")
        loop = asyncio.get_running_loop()
        timer = loop.call_later(params.deadline_ms / 1000, self._give_up, run, overdue)
        try:
            while True:
                while run.unread:
                    yield run.take()
                if run.failure is not None:
                    raise run.failure
                if run.answered:
                    return
                await self._news(run)
        finally:
            timer.cancel()
            try:
                await self._confirmed(run)
            finally:
                del self._runs[params.call_id]

    def event(
        self, params: RunnerEventParams, *, wants_reply: bool
    ) -> RunnerEventResult | asyncio.Future[bytes]:
        """Take an event of a run, at once. A reply that is wanted may come later."""
        run = self._runs.get(params.call_id)
        if run is None or run.closed:
            self._late_events += 1
            return RunnerEventResult(emitted=False, closed=True)
        run.begun = True
        raw = bytes(params.event)
        event = self._decoded(run, raw)
        if event is None:
            run.changed.set()  # it is a sign of life
            return RunnerEventResult(emitted=False, closed=run.closed)
        run.push(event, len(raw) + REQUEST_BYTES * wants_reply)
        if run.unread_bytes > RUNNER_BUFFER_BYTES:
            detail = f"more than {RUNNER_BUFFER_BYTES} bytes of events were not read"
            self._give_up(
                run, CarError("runner_failed", detail, cause="backpressure", retryable=False)
            )
        return run.reply() if wants_reply else RunnerEventResult(emitted=True, closed=run.closed)

    def abandon(self) -> None:
        """The app is gone: no run, nor any other request to it, will be answered any more."""
        self.registered = False
        self._abandoned = True
        for waiting in self._connection.pending.drain():
            waiting.abandon()

    def _decoded(self, run: Run, raw: bytes) -> RunnerEvent | None:
        try:
            return _decode_event(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            event_type = _tag_of(raw)
            if event_type is None or event_type in RUNNER_EVENT_TYPES:
                self._give_up(run, _malformed("a runner event", error, "$.event"))
            elif not run.warned:
                run.warned = True
                logger.warning("runner events of type %.80r are unknown and ignored", event_type)
        return None

    async def _news(self, run: Run) -> None:
        """Wait for the app: once it has begun, only for so long.

        The clock runs only while everything it sent is read. A runner whose replies are withheld,
        or whose client reads slowly, is not idle: it waits for us.
        """
        timer = None
        if run.begun:
            stalled = interrupted("idle_stall")
            loop = asyncio.get_running_loop()
            timer = loop.call_later(IDLE_TIMEOUT_S, self._give_up, run, stalled)
        try:
            await run.changed.wait()
            run.changed.clear()
        finally:
            if timer is not None:
                timer.cancel()

    def _give_up(self, run: Run, error: CarError) -> None:
        """Fail a run, and tell its app at once, however late the client reads of it."""
        if not run.closed:
            run.fail(error)
            self._cancel(run)

    async def _confirmed(self, run: Run) -> None:
        """Return when the app is done with a run, which is cancelled if need be; bounded."""
        if not run.closed:
            self._cancel(run)
        run.close(emitted=not run.unread)
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                while not run.answered:
                    run.changed.clear()
                    await run.changed.wait()
        except TimeoutError:
            logger.warning("the runner did not answer a cancelled run")
        finally:
            if not run.answered:
                self._connection.pending.resolve(run.request_id)

    def _cancel(self, run: Run) -> None:
        self._connection.notify("$/cancelRequest", _encode({"id": run.request_id}))
        self._kick()


def _tag_of(raw: bytes) -> str | None:
    try:
        return _decode_tag(raw).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _malformed(what: str, error: Exception, root: str) -> CarError:
    message, path = located(error)
    path = root + path.removeprefix("$")
    detail = f"{what} is malformed: {message} - at `{path}`"
    return CarError("runner_failed", detail, path=path, retryable=False)


def _error_of(error: ErrorObject) -> CarError:
    """The app's error in our own terms. Members of another type than theirs are not there."""
    data = cast("dict[str, Any]", error.data) if isinstance(error.data, dict) else {}
    extra = {
        name: data[name]
        for name, kind in (("status", int), ("retry_after_ms", int), ("retryable", bool))
        if type(data.get(name)) is kind  # not isinstance: true is an int, too
    }
    if extra.get("retry_after_ms", 0) > MAX_SAFE_INTEGER:
        del extra["retry_after_ms"]
    unknown_method = error.code == KINDS["method_not_found"].code
    otherwise = "no_runner" if unknown_method else "runner_failed"
    return runner_error(data.get("kind"), error.message, otherwise=otherwise, **extra)
