"""One connection with an app: which request does what, and who answers it.

Every request becomes either an immediate answer or a task whose end is its answer, so there is
no path on which one is forgotten or answered twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import UnsetType

from car_rpc.config import Settings
from car_rpc.errors import CarError
from car_rpc.host.bootstrap import Bootstrap
from car_rpc.host.greeting import initialize_result
from car_rpc.host.params import decode_params
from car_rpc.host.runner import RunnerHost
from car_rpc.host.stream import NOTHING, Stream, wanted_stream
from car_rpc.host.waiting import Waiting
from car_rpc.protocol.connection import Answered, CancelRequested, Connection, Event, Refused
from car_rpc.protocol.messages import Notification, Request, compact, write_notification
from car_rpc.wire.announced import PROTOCOL_VERSION
from car_rpc.wire.base import RequestId
from car_rpc.wire.lifecycle import InitializeParams, PingResult, RunnerStatus

if TYPE_CHECKING:
    from car_rpc.host.dispatch import Dispatching, Outcome
    from car_rpc.host.services import Scope

logger = logging.getLogger(__name__)

#: Unread events of one stream, in bytes, at which its producer waits.
STREAM_BUFFER_BYTES = 256 * 1024

#: Unread ``log`` notifications, in bytes, at which further ones are left to standard error.
LOG_BUFFER_BYTES = 1024 * 1024

#: Their place in the output: no request has such an id.
_LOG_STREAM = object()

#: How long cancelled requests may take to be answered at ``shutdown``, in seconds.
SHUTDOWN_CANCEL_TIMEOUT_S = 5.0

#: What changes the registry, in a thread. What arrives after one of them waits for its end.
REGISTRY_CHANGES = frozenset({"models.register", "models.unregister"})

#: What goes on until it is cancelled, which the end of the session does at once.
SUBSCRIPTIONS = frozenset({"eventlog.subscribe"})

#: What may have a stream of ``generate.event``.
STREAMS = frozenset({"generate", "replay.run"})

_encode = msgspec.json.Encoder().encode


class SessionHost(Protocol):
    """What the process around a session does for it."""

    def kick(self) -> None:
        """There is output to write."""
        ...

    async def load(self) -> Dispatching:
        """Make the dispatcher; called once, after ``initialize`` was answered."""
        ...

    def backends(self) -> dict[str, dict[str, Any]]:
        """Which engines are installed."""
        ...

    def initialized(self, params: InitializeParams) -> None:
        """The client has introduced itself."""
        ...

    def exit(self, code: int) -> None:
        """The client sent ``exit``."""
        ...


class Session:
    """Serves one connection.

    Args:
        settings: The process's settings.
        session_id: Names this session in the event log.
        connection: The protocol state.
        runner: The way to the app's runner.
        host: The process around the session.
        startup_ms: Phases of the start, for ``ping``.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        session_id: str,
        connection: Connection[Waiting],
        runner: RunnerHost,
        host: SessionHost,
        startup_ms: dict[str, float],
    ) -> None:
        self._settings = settings
        self._session_id = session_id
        self._connection = connection
        self._runner = runner
        self._host = host
        self._kick = host.kick
        self._startup_ms = startup_ms
        self._dispatcher: Dispatching | None = None
        self._loading: asyncio.Task[None] | None = None
        self._load_error: CarError | None = None
        self._backlog: list[Request] = []
        self._tasks: dict[RequestId, asyncio.Future[Any]] = {}
        self._registry_changes: set[asyncio.Future[Any]] = set()
        self._subscriptions: set[RequestId] = set()
        self._streams: dict[RequestId, Stream] = {}
        self._cancelled: set[RequestId] = set()
        self._shutdowns: set[asyncio.Future[Any]] = set()
        self._drained = asyncio.Event()
        self._ping_told: tuple[int, int, RunnerStatus] | None = None
        self._ping_result = b""
        self._lifecycle = {"initialize": self._initialize, "ping": self._ping}

    # Input. What it queues at once is the caller's to write.

    def take_over(self, bootstrap: Bootstrap) -> None:
        """Go on where the answers that were given during the start end."""
        if bootstrap.initialize_params is not None:
            self._begin(decode_params(bootstrap.initialize_params, InitializeParams))
        self._handle_all(self._connection.take_over(bootstrap.splitter, bootstrap.unanswered))

    def receive(self, data: bytes) -> None:
        """Take bytes of the client."""
        self._handle_all(self._connection.receive(data))

    def receive_eof(self) -> None:
        """The client closed its side."""
        self._handle_all(self._connection.receive_eof())

    def output_taken(self) -> None:
        """Output was written: streams that waited for room may go on."""
        self._drained.set()

    async def finish_requests(self, timeout_s: float) -> None:
        """Let requests finish for a while, then cancel the rest; subscriptions end at once."""
        for request_id in self._subscriptions:
            self._cancel(request_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (waiting := self._unfinished()) and (remaining := deadline - loop.time()) > 0:
            await asyncio.wait(waiting, timeout=remaining)
        self.cancel_all()

    def cancel_all(self) -> None:
        """Cancel all work; ``shutdown`` and withheld replies end when the others have."""
        for request in [*self._backlog]:
            self._cancel(request.id)
        for request_id, task in [*self._tasks.items()]:
            if isinstance(task, asyncio.Task) and task not in self._shutdowns:
                self._cancel(request_id)

    async def answered(self, timeout_s: float) -> None:
        """Return when every other request is answered, or after a while."""
        waiting = self._unfinished()
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
            await asyncio.sleep(0)  # the answers are given by the tasks' done callbacks

    def _unfinished(self) -> set[asyncio.Future[Any]]:
        tasks = {*self._tasks.values()}
        if asyncio.current_task() in self._shutdowns:
            tasks -= self._shutdowns
        if self._backlog and self._loading is not None:
            tasks.add(self._loading)
        return tasks

    def _handle_all(self, events: Iterable[Event[Waiting]]) -> None:
        for event in events:
            match event:
                case Request():
                    self._handle_request(event)
                case Notification():
                    self._handle_notification(event)
                case CancelRequested():
                    self._cancel(event.id)
                case Refused():
                    self._fail_stream(event.request, event.error)
                case Answered():
                    event.waiting.answer(event.response)

    def _handle_request(self, request: Request) -> None:
        lifecycle = self._lifecycle.get(request.method)
        if lifecycle is not None:
            try:
                outcome: Outcome = lifecycle(request)
            except CarError as error:
                outcome = error
            self._respond(request, outcome)
        elif request.method == "shutdown":
            self._connection.step("shutdown")
            self._shutdowns.add(self._start(request, self._shutdown()))
        elif self._load_error is not None:
            self._respond(request, self._load_error)
        elif self._dispatcher is None:
            self._backlog.append(request)
        else:
            self._dispatch(self._dispatcher, request)

    def _handle_notification(self, notification: Notification) -> None:
        if notification.method == "exit":
            self._host.exit(0 if self._connection.state == "draining" else 1)
        elif notification.method == "runner.event":
            if self._dispatcher is not None:
                self._dispatcher.take_runner_event(notification.params)
        elif not notification.method.startswith("$/"):
            logger.info("the notification %r is unknown and ignored", notification.method)

    def _dispatch(self, dispatcher: Dispatching, request: Request) -> None:
        method = request.method
        call = (method, self._scope(request), request.params)
        work: Outcome | Awaitable[Outcome]
        if self._registry_changes and method != "runner.event":
            work = _after({*self._registry_changes}, dispatcher, *call)
        elif dispatcher.is_inline(method):
            work = dispatcher.call_inline(*call)
        else:
            work = dispatcher.call(*call)
        if isinstance(work, bytes | CarError):
            self._respond(request, work)
            return
        task = self._start(request, work)
        if method in REGISTRY_CHANGES:
            self._registry_changes.add(task)
        if method in SUBSCRIPTIONS:
            self._subscriptions.add(request.id)

    def _scope(self, request: Request) -> Scope:
        # Loaded by now, and not at start-up.
        from car_rpc.engine.generation import Origin  # noqa: PLC0415 - see above
        from car_rpc.host.services import Scope  # noqa: PLC0415 - see above

        origin = Origin(request.id, request.method, compact(request.params))
        notify = partial(self.notify, request.id)
        room = partial(self.room, request.id)
        return Scope(origin, notify, room, partial(self._open_stream, request.id))

    # Tasks and answers

    def _start(self, request: Request, work: Awaitable[Outcome]) -> asyncio.Future[Outcome]:
        task = asyncio.ensure_future(work)
        self._tasks[request.id] = task
        if request.method not in STREAMS:
            # Large ones, such as those of a runner's events, are not kept for its answer.
            request = Request(request.id, request.method, b"{}")
        task.add_done_callback(partial(self._finished, request))
        return task

    def _finished(self, request: Request, task: asyncio.Future[Outcome]) -> None:
        del self._tasks[request.id]
        self._cancelled.discard(request.id)
        self._subscriptions.discard(request.id)
        self._shutdowns.discard(task)
        self._registry_changes.discard(task)
        if task.cancelled():
            self._respond(request, CarError("cancelled"))
        elif (error := task.exception()) is not None:
            logger.error("a request failed unexpectedly", exc_info=error)
            self._respond(request, CarError("internal", "see the log on standard error"))
        else:
            self._respond(request, task.result())
        self._kick()

    def _respond(self, request: Request, outcome: Outcome) -> None:
        """Answer a request. A stream that it asked for has ended then, however far it came."""
        if isinstance(outcome, CarError) and request.method in STREAMS:
            if outcome.kind == "cancelled" and request.method == "generate":
                outcome = outcome.with_data(partial=NOTHING)
            self._fail_stream(request, outcome)
        self._streams.pop(request.id, None)
        self._connection.respond(request.id, outcome)

    def _cancel(self, request_id: RequestId) -> None:
        task = self._tasks.get(request_id)
        if task is not None:
            # One cancel is enough; a second would interrupt the tidying up after the first.
            if request_id not in self._cancelled:
                self._cancelled.add(request_id)
                if self._dispatcher is not None:
                    self._dispatcher.cancel_requested(request_id)
                # Behind its first step: a task that never began could not end its stream.
                asyncio.get_running_loop().call_soon(task.cancel)
            return
        for request in self._backlog:
            if request.id == request_id:
                self._backlog.remove(request)
                self._respond(request, CarError("cancelled"))
                self._kick()
                return

    # Lifecycle methods

    def _initialize(self, request: Request) -> bytes:
        if self._connection.state != "new":
            raise CarError("malformed_message", "`initialize` was accepted before")
        params = decode_params(request.params, InitializeParams)
        if params.protocol_version != PROTOCOL_VERSION:
            raise CarError(
                "protocol_version_unsupported",
                f"this process speaks version {PROTOCOL_VERSION},"
                f" not {params.protocol_version}; update the older side",
                supported=[PROTOCOL_VERSION],
            )
        self._begin(params)
        limit = self._settings.max_message_bytes
        return _encode(initialize_result(self._session_id, limit, self._host.backends()))

    def _begin(self, params: InitializeParams) -> None:
        self._connection.step("initialize")
        self._host.initialized(params)
        self._loading = asyncio.create_task(self._load_dispatcher())

    async def _load_dispatcher(self) -> None:
        try:
            self._dispatcher = await self._host.load()
        except CarError as error:
            self._load_error = error
        except Exception:
            logger.exception("the engine could not be started")
            self._load_error = CarError("internal", "the engine did not start; see the log")
        backlog, self._backlog = self._backlog, []
        for request in backlog:
            self._handle_request(request)
        self._kick()

    def _ping(self, _: Request) -> bytes:
        in_flight, runner = len(self._connection.in_flight), self._runner.status()
        told = (in_flight, len(self._startup_ms), runner)
        if told != self._ping_told:  # it seldom changes from one ping to the next
            self._ping_told = told
            self._ping_result = _encode(
                PingResult(in_flight=in_flight, startup_ms=self._startup_ms, runner=runner)
            )
        return self._ping_result

    async def _shutdown(self) -> Outcome:
        await self.finish_requests(self._settings.drain_ms / 1000)
        await self.answered(SHUTDOWN_CANCEL_TIMEOUT_S)
        return b"null"

    # Streams

    def _open_stream(self, request_id: RequestId, client_ref: str | UnsetType) -> Stream:
        stream = self._streams[request_id] = self._stream(request_id, client_ref)
        return stream

    def _stream(self, request_id: RequestId, client_ref: str | UnsetType) -> Stream:
        put, room = partial(self._put_event, request_id), partial(self.room, request_id)
        return Stream(request_id, put, room, client_ref)

    def _fail_stream(self, request: Request, error: CarError) -> None:
        """End the stream of a request that failed, also of one that never began."""
        stream = self._streams.pop(request.id, None)
        if stream is None and request.method in STREAMS:
            wanted, client_ref = wanted_stream(request.params)
            stream = self._stream(request.id, client_ref) if wanted else None
        if stream is not None:
            stream.fail(error)

    async def room(self, request_id: RequestId) -> None:
        """Wait while too many events of a request are unread."""
        while self._connection.stream_bytes(request_id) > STREAM_BUFFER_BYTES:
            self._drained.clear()
            await self._drained.wait()

    def notify(
        self, request_id: RequestId, method: str, params: bytes, *, passing: bool = False
    ) -> bool:
        """Queue a notification of a request: after its earlier ones, before its response.

        A passing one takes the place of a passing one right before it that is unread. Tells whether
        there is room for another one.
        """
        return self._put_event(request_id, write_notification(method, params), passing=passing)

    def _put_event(self, request_id: RequestId, payload: bytes, *, passing: bool = False) -> bool:
        unread_bytes = self._connection.send_event(request_id, payload, passing=passing)
        self._kick()
        return unread_bytes <= STREAM_BUFFER_BYTES

    def send_log(self, payload: bytes) -> None:
        """Queue a ``log`` notification, unless too many are unread."""
        if self._connection.stream_bytes(_LOG_STREAM) < LOG_BUFFER_BYTES:
            self._connection.notify("log", payload, stream=_LOG_STREAM)
            self._kick()


async def _after(
    changes: set[asyncio.Future[Any]],
    dispatcher: Dispatching,
    method: str,
    scope: Scope,
    raw_params: bytes,
) -> Outcome:
    """Call a method once the registry's changes that arrived before it are done."""
    await asyncio.wait(changes)
    return await dispatcher.call(method, scope, raw_params)
