"""The app's runner: one slot, and the runs that are under way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable

import msgspec

from car_rpc.backends.delegated import RunItem
from car_rpc.errors import KINDS, CarError
from car_rpc.protocol.connection import Connection
from car_rpc.protocol.messages import ErrorObject, Response
from car_rpc.wire.base import RequestId
from car_rpc.wire.events import RUNNER_EVENT_TYPES, RunnerEvent, RunnerEventTag
from car_rpc.wire.runner import (
    RunnerErrorData,
    RunnerEventParams,
    RunnerEventResult,
    RunnerResult,
    RunnerRunParams,
)

logger = logging.getLogger(__name__)

#: Unread events of one run, in bytes, at which it is failed: the core never stops reading its
#: input because of a stream.
RUNNER_BUFFER_BYTES = 8 * 1024 * 1024

#: How long the app has to answer a run that was cancelled, in seconds.
CANCEL_TIMEOUT_S = 1.0

_decode_event: Callable[[bytes], RunnerEvent] = msgspec.json.Decoder(RunnerEvent).decode
_decode_tag = msgspec.json.Decoder(RunnerEventTag).decode
_decode_result = msgspec.json.Decoder(RunnerResult).decode
_encode = msgspec.json.encode


class Run:
    """One ``runner.run`` that the app has not answered."""

    def __init__(self) -> None:
        self.items: deque[tuple[RunItem, int]] = deque()
        self.waiting_bytes = 0
        self.failure: CarError | None = None
        self.answered = False
        #: Whether an event of an unknown type was logged.
        self.warned = False
        self.changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing more is wanted of the app."""
        return self.answered or self.failure is not None

    def push(self, item: RunItem, size_bytes: int) -> None:
        """Queue what the app sent."""
        self.items.append((item, size_bytes))
        self.waiting_bytes += size_bytes
        self.changed.set()

    def fail(self, error: CarError) -> None:
        """End the run with an error, unless it has one already."""
        self.failure = self.failure or error
        self.changed.set()

    def answer(self, response: Response) -> None:
        """The app's response: the one terminal outcome of the run."""
        self.answered = True
        if response.error is not None:
            self.fail(_error_of(response.error))
            return
        try:
            self.push(_decode_result(response.result), len(response.result))
        except msgspec.DecodeError as error:
            self.fail(CarError("runner_failed", f"the result of `runner.run` is wrong: {error}"))


class RunnerHost:
    """Implements the delegated backend's channel over a connection.

    Args:
        connection: Where requests to the app go.
        kick: Tells the writer that there is output.
    """

    def __init__(self, connection: Connection[Run], kick: Callable[[], None]) -> None:
        self.registered = False
        self._connection = connection
        self._kick = kick
        self._runs: dict[str, Run] = {}
        self._abandoned = False
        #: Events that came after their run had ended.
        self.late_events = 0

    def register(self) -> bool:
        """Take the slot; tells whether it was taken before."""
        replaced, self.registered = self.registered, not self._abandoned
        return replaced

    def unregister(self) -> None:
        """Free the slot; runs under way go on."""
        self.registered = False

    async def run(self, params: RunnerRunParams) -> AsyncGenerator[RunItem, None]:
        """Start a run; see :class:`car_rpc.backends.delegated.RunnerChannel`."""
        run = self._runs[params.call_id] = Run()
        request_id = self._connection.call("runner.run", _encode(params), run)
        self._kick()
        # A timer, and not asyncio.timeout around the loop: that would cancel whoever reads the run.
        overdue = CarError("timeout", f"the runner did not finish within {params.deadline_ms} ms")
        loop = asyncio.get_running_loop()
        timer = loop.call_later(params.deadline_ms / 1000, run.fail, overdue)
        try:
            while True:
                while run.items:
                    item, size_bytes = run.items.popleft()
                    run.waiting_bytes -= size_bytes
                    yield item
                if run.failure is not None:
                    raise run.failure
                if run.answered:
                    return
                await run.changed.wait()
                run.changed.clear()
        finally:
            timer.cancel()
            try:
                if not run.answered:
                    await self._cancel(request_id, run)
            finally:
                del self._runs[params.call_id]

    def event(self, params: RunnerEventParams) -> RunnerEventResult:
        """Take an event of a run."""
        run = self._runs.get(params.call_id)
        if run is None or run.ended:
            self.late_events += 1
            return RunnerEventResult(emitted=False, closed=True)
        event = self._decoded(run, bytes(params.event))
        if event is None:
            return RunnerEventResult(emitted=False, closed=run.ended)
        run.push(event, len(bytes(params.event)))
        if run.waiting_bytes > RUNNER_BUFFER_BYTES:
            detail = f"more than {RUNNER_BUFFER_BYTES} bytes of events were not read"
            run.fail(CarError("runner_failed", detail, cause="backpressure"))
        return RunnerEventResult(emitted=True, closed=run.ended)

    def abandon(self) -> None:
        """The app is gone: no run will be answered any more."""
        self.registered = False
        self._abandoned = True
        for run in self._connection.pending.drain():
            run.answered = True
            run.fail(CarError("runner_failed", "the app closed its side before it answered"))

    def _decoded(self, run: Run, raw: bytes) -> RunnerEvent | None:
        try:
            return _decode_event(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            event_type = _tag_of(raw)
            if event_type is not None and event_type not in RUNNER_EVENT_TYPES:
                if not run.warned:
                    run.warned = True
                    logger.warning(
                        "runner events of type %.80r are unknown and ignored", event_type
                    )
            else:
                run.fail(CarError("runner_failed", f"a runner event is malformed: {error}"))
        return None

    async def _cancel(self, request_id: RequestId, run: Run) -> None:
        self._connection.notify("$/cancelRequest", _encode({"id": request_id}))
        self._kick()
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                while not run.answered:
                    run.changed.clear()
                    await run.changed.wait()
        except TimeoutError:
            self._connection.pending.resolve(request_id)
            logger.warning("the runner did not answer a cancelled run")


def _tag_of(raw: bytes) -> str | None:
    try:
        return _decode_tag(raw).type
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _error_of(error: ErrorObject) -> CarError:
    """The app's error in our own terms."""
    try:
        data = msgspec.convert(error.data or {}, RunnerErrorData)
    except msgspec.ValidationError:
        data = RunnerErrorData()
    extra = {
        name: value
        for name in ("status", "retry_after_ms")
        if isinstance(value := getattr(data, name), int)
    }
    if isinstance(data.kind, str) and data.kind in KINDS:
        return CarError(data.kind, error.message, **extra)
    if error.code == KINDS["method_not_found"].code:
        return CarError("no_runner", f"the app does not answer `runner.run`: {error.message}")
    return CarError("runner_failed", error.message, **extra)
