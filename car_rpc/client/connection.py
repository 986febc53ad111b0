"""Requests and their answers over the pipes of a car-rpc process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.abc
import msgspec

from car_rpc.client.errors import ProcessEnded, RemoteError
from car_rpc.client.inbox import Inbox
from car_rpc.protocol.calls import Pending
from car_rpc.protocol.framing import Splitter
from car_rpc.protocol.limits import MAX_DEPTH
from car_rpc.protocol.messages import (
    Notification,
    Request,
    Response,
    decode,
    write_notification,
    write_request,
)
from car_rpc.wire.base import RequestId
from car_rpc.wire.inference import GenerateEventParams
from car_rpc.wire.log import EventlogEventParams

T = TypeVar("T")

#: Where the events of a request go, of the kind that its method has.
Events: TypeAlias = Inbox[Any]

#: Largest message that the client accepts from the core, in bytes.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024

#: Deepest nesting of a message from the core: the event log returns what was sent to it, as deep
#: as the core accepts, with a few levels around it.
MAX_ANSWER_DEPTH = 2 * MAX_DEPTH

#: How long a cancelled request may take to be answered, in seconds: longer than the core takes
#: to give up on a model that hangs.
CANCEL_TIMEOUT_S = 15.0

#: How long the core may take to read a message, in seconds; it never stops reading while its
#: output is read.
WRITE_TIMEOUT_S = 10.0

#: How long the process may take to leave after it was asked to, in seconds.
EXIT_TIMEOUT_S = 5.0

#: How much of the process's standard error is kept, in bytes, and how long its end is waited for
#: once the process is gone, in seconds: others may hold the pipe open.
LOG_TAIL_BYTES = 4096
LOG_TIMEOUT_S = 0.5

_encode = msgspec.json.encode
_decode_event = msgspec.json.Decoder(GenerateEventParams).decode
_decode_logged = msgspec.json.Decoder(EventlogEventParams).decode


class Waiting:
    """A request that was sent, and its answer once that is there."""

    def __init__(self, events: Events | None) -> None:
        self.request_id: RequestId = 0
        self.events = events
        self.done = anyio.Event()
        self._response: Response | None = None
        self._lost: ProcessEnded | None = None

    def answer(self, response: Response) -> None:
        """The core answered."""
        self._response = response
        self._finish()

    def lose(self, error: ProcessEnded) -> None:
        """There will be no answer."""
        self._lost = error
        self._finish()

    def _finish(self) -> None:
        self.done.set()
        if self.events is not None:
            self.events.end()

    async def wait(self) -> bytes:
        """The result as JSON.

        Raises:
            RemoteError: The request failed.
            ProcessEnded: The process is gone.
        """
        await self.done.wait()
        if self._response is None:
            raise self._lost or ProcessEnded(None)
        error = self._response.error
        if error is not None:
            raise RemoteError(
                error.code, error.message, msgspec.convert(error.data or {}, dict[str, Any])
            )
        return self._response.result


class ClientConnection:
    """The client's end of the wire.

    Args:
        process: The car-rpc process, with pipes on its standard input and output.
        on_request: Gets the core's own requests.
        on_notification: Gets its notifications, but for the events of streams.
    """

    def __init__(
        self,
        process: anyio.abc.Process,
        on_request: Callable[[Request], Awaitable[None]],
        on_notification: Callable[[Notification], None],
    ) -> None:
        self.process = process
        #: Set once the process is gone.
        self.ended: ProcessEnded | None = None
        self._on_request = on_request
        self._on_notification = on_notification
        self._pending: Pending[Waiting] = Pending()
        self._streams: dict[RequestId, Waiting] = {}
        self._write_lock = anyio.Lock()
        self._log_tail = b""
        self._log_ended = anyio.Event()
        # An app that is cancelled still needs the answers to what it sends while it leaves.
        self._reading = anyio.CancelScope(shield=True)

    async def begin(
        self,
        method: str,
        params: Any,
        events: Events | None = None,
    ) -> Waiting:
        """Send a request and return at once; its answer arrives in what is returned."""
        if self.ended is not None:
            raise self.ended
        waiting = Waiting(events)
        waiting.request_id = self._pending.begin(waiting)
        if events is not None:
            self._streams[waiting.request_id] = waiting
        await self.write(write_request(waiting.request_id, method, _encode(params)))
        return waiting

    async def request(self, method: str, params: Any, result_type: type[T]) -> T:
        """Send a request and wait for its result.

        Raises:
            RemoteError: The request failed.
            ProcessEnded: The process is gone.
        """
        waiting = await self.begin(method, params)
        try:
            return msgspec.json.decode(await waiting.wait(), type=result_type)
        except anyio.get_cancelled_exc_class():
            await self.cancel(waiting)
            raise

    async def cancel(self, waiting: Waiting) -> None:
        """Cancel a request and wait for its answer, bounded: the core may hang."""
        with anyio.move_on_after(CANCEL_TIMEOUT_S, shield=True), suppress(ProcessEnded):
            await self.notify("$/cancelRequest", {"id": waiting.request_id})
            await waiting.done.wait()

    async def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        await self.write(write_notification(method, _encode(params)))

    async def leave(self) -> None:
        """Ask the process to go, then see to it."""
        with anyio.move_on_after(EXIT_TIMEOUT_S):
            with suppress(RemoteError, ProcessEnded):
                await (await self.begin("shutdown", {})).wait()
                await self.notify("exit", {})
            await self.process.wait()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.aclose()

    async def write(self, payload: bytes) -> None:
        """Send a message whole, also when the caller is cancelled meanwhile.

        Raises:
            ProcessEnded: The process is gone, or takes no input any more.
        """
        stdin = _piped(self.process.stdin)
        with anyio.move_on_after(WRITE_TIMEOUT_S, shield=True):
            async with self._write_lock:
                try:
                    await stdin.send(payload + b"\n")
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    raise self.ended or self._gone() from None
                return
        raise self._gone()

    async def read(self) -> None:
        """Handle what the core sends until it is gone; then nothing waits any more."""
        with self._reading:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_log)
                await self._read()
                tasks.cancel_scope.cancel()

    def stop_reading(self) -> None:
        """End :meth:`read`."""
        self._reading.cancel()

    async def _read(self) -> None:
        splitter = Splitter(MAX_MESSAGE_BYTES, "ndjson")
        try:
            async for chunk in _piped(self.process.stdout):
                for frame in splitter.receive(chunk):
                    if isinstance(frame, bytes):
                        await self._handle(frame)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # it was killed
            pass
        finally:
            with anyio.move_on_after(EXIT_TIMEOUT_S, shield=True):
                await self.process.wait()
            with anyio.move_on_after(LOG_TIMEOUT_S, shield=True):
                await self._log_ended.wait()
            self.ended = self._gone()
            for waiting in self._pending.drain():
                waiting.lose(self.ended)

    async def _keep_log(self) -> None:
        """Keep the last of what the process writes to its standard error."""
        try:
            if self.process.stderr is not None:
                async for chunk in self.process.stderr:
                    self._log_tail = (self._log_tail + chunk)[-LOG_TAIL_BYTES:]
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self._log_ended.set()

    def _gone(self) -> ProcessEnded:
        return ProcessEnded(self.process.returncode, self._log_tail.decode(errors="replace"))

    async def _handle(self, frame: bytes) -> None:
        message = decode(frame, MAX_ANSWER_DEPTH)
        match message:
            case Response():
                waiting = self._pending.resolve(message.id)
                if waiting is not None:
                    self._streams.pop(waiting.request_id, None)
                    waiting.answer(message)
            case Notification(method="generate.event"):
                await self._deliver(_decode_event(message.params))
            case Notification(method="eventlog.event"):
                await self._deliver(_decode_logged(message.params))
            case Notification():
                self._on_notification(message)
            case Request():
                await self._on_request(message)
            case _:
                pass

    async def _deliver(self, params: GenerateEventParams | EventlogEventParams) -> None:
        waiting = self._streams.get(params.request_id)
        if waiting is not None and waiting.events is not None:
            await waiting.events.put(params.event)


def _piped(stream: T | None) -> T:
    if stream is None:
        raise RuntimeError("the process was started without its pipes")
    return stream
