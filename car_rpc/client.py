"""The Python client: spawn the process, call its methods, run its delegated models.

    async with CarClient.start() as car:
        async with car.stream(prompt="Hello!") as stream:
            async for event in stream:
                ...
            result = await stream.result()

Everything is cancelled in the usual way of anyio: leaving a ``stream`` block early, or
cancelling the scope around a call, cancels the request in the core.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import anyio
import anyio.abc
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from car_rpc import __version__
from car_rpc.errors import CarError
from car_rpc.protocol.calls import Pending
from car_rpc.protocol.framing import Broken, Splitter
from car_rpc.protocol.messages import (
    ErrorObject,
    Notification,
    Request,
    Response,
    decode,
    write_error,
    write_notification,
    write_request,
    write_result,
)
from car_rpc.wire.base import RequestId
from car_rpc.wire.events import RunnerEvent, StreamEvent
from car_rpc.wire.inference import (
    DetokenizeResult,
    EmbedResult,
    GenerateEventParams,
    InferenceResult,
    TokenizeResult,
)
from car_rpc.wire.lifecycle import PROTOCOL_VERSION, CancelParams, InitializeResult, LogParams
from car_rpc.wire.log import EventlogQueryResult
from car_rpc.wire.models import (
    ModelResult,
    ModelSchema,
    ModelsListResult,
    ModelsRegisterResult,
    ModelsUnregisterResult,
)
from car_rpc.wire.runner import RunnerEventResult, RunnerResult, RunnerRunParams

T = TypeVar("T")

#: Largest message that the client accepts from the core, in bytes.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024

#: Events of one stream that may wait for its reader; beyond it nothing more is read from the
#: core until some are taken, so one forgotten stream holds up the others.
STREAM_BUFFER_EVENTS = 65_536

#: How long the process may take to leave after it was asked to, in seconds.
EXIT_TIMEOUT_S = 5.0

_encode = msgspec.json.encode


class RemoteError(Exception):
    """A request failed.

    Attributes:
        kind: What happened, from the protocol's error table; this is the contract.
        code: JSON-RPC error code.
        message: Text for people.
        data: The rest of ``error.data``.
    """

    def __init__(self, code: int, message: str, data: dict[str, Any]) -> None:
        self.kind = str(data.get("kind", "internal"))
        self.code = code
        self.message = message
        self.data = data
        super().__init__(message)


class ProcessEnded(Exception):
    """The process is gone; requests in flight have no answer.

    Attributes:
        exit_code: How it ended, or ``None`` when that is not known.
    """

    def __init__(self, exit_code: int | None) -> None:
        self.exit_code = exit_code
        super().__init__(f"car-rpc ended (exit code {exit_code}); its standard error says why")


class RunnerRun:
    """One ``runner.run``, as the app's runner sees it.

    Attributes:
        params: What is to be run; ``params.request`` is the client's own JSON.
    """

    def __init__(self, client: CarClient, params: RunnerRunParams) -> None:
        self.params = params
        self._client = client

    @property
    def request(self) -> dict[str, Any]:
        """The ``generate`` request, with exactly the fields that the client set."""
        request: dict[str, Any] = msgspec.json.decode(self.params.request)
        return request

    async def emit(self, event: RunnerEvent) -> bool:
        """Send an event and wait until the core took it; ``False`` means: stop now."""
        params = {"call_id": self.params.call_id, "event": event}
        result = await self._client.request("runner.event", params, RunnerEventResult)
        return not result.closed

    async def notify(self, event: RunnerEvent) -> None:
        """Send an event without waiting for the core."""
        await self._client.notify("runner.event", {"call_id": self.params.call_id, "event": event})


Runner: TypeAlias = Callable[[RunnerRun], Awaitable[RunnerResult | str | None]]


class RunnerFailure(Exception):
    """Raised by a runner to fail a run with a kind of the protocol's error table.

    Args:
        message: Text for people.
        kind: For example ``runner_declined`` or ``rate_limited``.
        data: More members of ``error.data``: ``status``, ``retry_after_ms``.
    """

    def __init__(self, message: str, kind: str = "runner_failed", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = {"kind": kind, **data}


class GenerateStream:
    """The events of one ``generate``. Made by :meth:`CarClient.stream`."""

    def __init__(self, client: CarClient, params: dict[str, Any]) -> None:
        self._client = client
        self._params = params
        self._answer: Waiting | None = None
        self._events: MemoryObjectReceiveStream[StreamEvent] | None = None

    async def __aenter__(self) -> Self:
        send, self._events = anyio.create_memory_object_stream[StreamEvent](STREAM_BUFFER_EVENTS)
        self._answer = await self._client.begin("generate", self._params, send)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        waiting, events = self._opened()
        events.close()
        if not waiting.done.is_set():
            await self._client.cancel(waiting)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        try:
            return await self._opened()[1].receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    @property
    def request_id(self) -> RequestId:
        """JSON-RPC id of the request."""
        return self._opened()[0].request_id

    async def result(self) -> InferenceResult:
        """The result, once the stream has ended.

        Raises:
            RemoteError: The request failed.
            ProcessEnded: The process is gone.
        """
        return msgspec.json.decode(await self._opened()[0].wait(), type=InferenceResult)

    def _opened(self) -> tuple[Waiting, MemoryObjectReceiveStream[StreamEvent]]:
        if self._answer is None or self._events is None:
            raise RuntimeError("use the stream in `async with`")
        return self._answer, self._events


class Waiting:
    """A request that was sent, and its answer once that is there."""

    def __init__(self, events: MemoryObjectSendStream[StreamEvent] | None) -> None:
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
            self.events.close()

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
            raise RemoteError(error.code, error.message, _error_data(error))
        return self._response.result


class CarClient:
    """A running car-rpc process. Use :meth:`start`."""

    def __init__(
        self,
        process: anyio.abc.Process,
        tasks: anyio.abc.TaskGroup,
        on_log: Callable[[LogParams], None] | None,
    ) -> None:
        self._process = process
        self._tasks = tasks
        self._on_log = on_log
        self._pending: Pending[Waiting] = Pending()
        self._streams: dict[RequestId, Waiting] = {}
        self._write_lock = anyio.Lock()
        self._runner: Runner | None = None
        self._runs: dict[RequestId, anyio.CancelScope] = {}
        self._ended: ProcessEnded | None = None
        self.server: InitializeResult | None = None

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        *,
        arguments: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "car_rpc", "serve"),
        env: dict[str, str] | None = None,
        stderr: int | None = subprocess.DEVNULL,
        allowed_paths: Sequence[str] = (),
        on_log: Callable[[LogParams], None] | None = None,
        log_level: str = "info",
    ) -> AsyncGenerator[CarClient]:
        """Spawn the process and initialize the connection; leave nothing behind.

        Args:
            arguments: Options of ``car-rpc serve``, such as ``--state-dir``.
            command: What to spawn, when it is not this Python's own car-rpc.
            env: Environment of the process; this one's when ``None``.
            stderr: Where its log lines go, as for ``subprocess``; ``None`` shows them.
            allowed_paths: Roots below which message content may name files.
            on_log: Gets the process's log, too.
            log_level: Least severe level for ``on_log``.

        Raises:
            RemoteError: The process refused the connection.
            ProcessEnded: It ended before it answered.
        """
        process = await anyio.open_process([*command, *arguments], env=env, stderr=stderr)
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                client = cls(process, tasks, on_log)
                tasks.start_soon(client._read)
                try:
                    await client._initialize(allowed_paths, log_level)
                    yield client
                except BaseException as error:
                    failure = error
                    raise
                finally:
                    with anyio.CancelScope(shield=True):
                        await client._leave()
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup:
            if failure is None:
                raise
            # What the caller raised comes out as it was, not in a group.
            raise failure from None

    @property
    def pid(self) -> int:
        """Process id of the core."""
        return self._process.pid

    # Calls

    async def request(self, method: str, params: Any, result_type: type[T]) -> T:
        """Call a method.

        Raises:
            RemoteError: The request failed.
            ProcessEnded: The process is gone.
        """
        waiting = await self.begin(method, params, None)
        try:
            return msgspec.json.decode(await waiting.wait(), type=result_type)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.cancel(waiting)
            raise

    async def call(self, method: str, params: Any = None) -> Any:
        """Call any method; returns its result as plain Python values."""
        return await self.request(method, {} if params is None else params, object)

    async def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        await self._write(write_notification(method, _encode(params)))

    async def generate(self, **params: Any) -> InferenceResult:
        """Generate without events; the fields are those of ``GenerateRequest``."""
        return await self.request("generate", params, InferenceResult)

    def stream(self, **params: Any) -> GenerateStream:
        """Generate with events; use it in ``async with``."""
        return GenerateStream(self, {**params, "stream": True})

    async def embed(self, texts: Sequence[str], **params: Any) -> EmbedResult:
        """Embed texts; the other fields are those of ``EmbedParams``."""
        return await self.request("embed", {**params, "texts": list(texts)}, EmbedResult)

    async def tokenize(self, model: str, text: str) -> list[int]:
        """Token ids of a text."""
        params = {"model": model, "text": text}
        return (await self.request("tokenize", params, TokenizeResult)).tokens

    async def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        params = {"model": model, "tokens": list(tokens)}
        return (await self.request("detokenize", params, DetokenizeResult)).text

    async def models(self, **filters: Any) -> list[ModelSchema]:
        """All models, or those that match ``ModelsListParams``."""
        return (await self.request("models.list", filters, ModelsListResult)).models

    async def model(self, wanted: str) -> ModelSchema:
        """One model by id or name."""
        return (await self.request("models.get", {"model": wanted}, ModelResult)).model

    async def register_model(self, model: ModelSchema | dict[str, Any]) -> ModelsRegisterResult:
        """Add a model to the registry."""
        return await self.request("models.register", {"model": model}, ModelsRegisterResult)

    async def unregister_model(self, wanted: str) -> str:
        """Forget a model; returns its id."""
        params = {"model": wanted}
        result = await self.request("models.unregister", params, ModelsUnregisterResult)
        return result.model_id

    async def query_log(self, **filters: Any) -> EventlogQueryResult:
        """A page of the event log; the fields are those of ``EventlogQueryParams``."""
        return await self.request("eventlog.query", filters, EventlogQueryResult)

    async def register_runner(self, runner: Runner, **params: Any) -> None:
        """Run delegated models with a function of this program."""
        self._runner = runner
        await self.call("runner.register", params)

    async def unregister_runner(self) -> None:
        """Stop running delegated models."""
        await self.call("runner.unregister")
        self._runner = None

    # Connection

    async def _initialize(self, allowed_paths: Sequence[str], log_level: str) -> None:
        capabilities = {"log": {"level": log_level}} if self._on_log else {}
        params = {
            "protocol_version": PROTOCOL_VERSION,
            "client_info": {"name": "car-rpc-python", "version": __version__},
            "process_id": os.getpid(),
            "allowed_paths": list(allowed_paths),
            "capabilities": capabilities,
        }
        self.server = await self.request("initialize", params, InitializeResult)

    async def begin(
        self, method: str, params: Any, events: MemoryObjectSendStream[StreamEvent] | None
    ) -> Waiting:
        """Send a request and return at once; its answer arrives in what is returned."""
        if self._ended is not None:
            raise self._ended
        waiting = Waiting(events)
        waiting.request_id = self._pending.begin(waiting)
        if events is not None:
            self._streams[waiting.request_id] = waiting
        await self._write(write_request(waiting.request_id, method, _encode(params)))
        return waiting

    async def cancel(self, waiting: Waiting) -> None:
        """Cancel a request and wait for its answer, which always comes."""
        await self.notify("$/cancelRequest", {"id": waiting.request_id})
        await waiting.done.wait()

    async def _write(self, payload: bytes) -> None:
        stdin = _piped(self._process.stdin)
        # A message is written whole, also when the caller is cancelled meanwhile.
        with anyio.CancelScope(shield=True):
            async with self._write_lock:
                try:
                    await stdin.send(payload + b"\n")
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    raise self._ended or ProcessEnded(self._process.returncode) from None

    async def _read(self) -> None:
        stdout = _piped(self._process.stdout)
        splitter = Splitter(MAX_MESSAGE_BYTES, "ndjson")
        try:
            async for chunk in stdout:
                for frame in splitter.receive(chunk):
                    if not isinstance(frame, Broken):
                        await self._handle(frame.data)
        except anyio.BrokenResourceError:
            pass
        finally:
            with anyio.move_on_after(EXIT_TIMEOUT_S, shield=True):
                await self._process.wait()
            self._ended = ProcessEnded(self._process.returncode)
            for waiting in self._pending.drain():
                waiting.lose(self._ended)

    async def _handle(self, frame: bytes) -> None:
        message = decode(frame)
        match message:
            case Response():
                waiting = self._pending.resolve(message.id)
                if waiting is not None:
                    self._streams.pop(waiting.request_id, None)
                    waiting.answer(message)
            case Notification():
                await self._handle_notification(message)
            case Request():
                await self._handle_request(message)
            case _:
                pass

    async def _handle_notification(self, message: Notification) -> None:
        if message.method == "generate.event":
            params = msgspec.json.decode(message.params, type=GenerateEventParams)
            waiting = self._streams.get(params.request_id)
            if waiting is not None and waiting.events is not None:
                try:
                    await waiting.events.send(params.event)
                except anyio.BrokenResourceError:
                    waiting.events = None
        elif message.method == "$/cancelRequest":
            target = msgspec.json.decode(message.params, type=CancelParams).id
            if target in self._runs:
                self._runs[target].cancel()
        elif message.method == "log" and self._on_log is not None:
            self._on_log(msgspec.json.decode(message.params, type=LogParams))

    async def _handle_request(self, message: Request) -> None:
        if message.method == "runner.run" and self._runner is not None:
            params = msgspec.json.decode(message.params, type=RunnerRunParams)
            self._runs[message.id] = anyio.CancelScope()
            self._tasks.start_soon(self._run, self._runner, message.id, params)
        elif message.method == "ping":
            await self._write(write_result(message.id, b"{}"))
        else:
            error = CarError("method_not_found", message.method)
            await self._write(write_error(message.id, error))

    async def _run(self, runner: Runner, request_id: RequestId, params: RunnerRunParams) -> None:
        payload = write_error(request_id, CarError("cancelled"))
        scope = self._runs[request_id]
        try:
            with scope:
                payload = await self._outcome(runner, request_id, params)
        finally:
            del self._runs[request_id]
        with suppress(ProcessEnded):
            await self._write(payload)

    async def _outcome(
        self, runner: Runner, request_id: RequestId, params: RunnerRunParams
    ) -> bytes:
        try:
            result = await runner(RunnerRun(self, params))
        except RunnerFailure as failure:
            error = {"code": 1023, "message": failure.message, "data": failure.data}
            return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_encode(request_id), _encode(error))
        except Exception as error:  # noqa: BLE001 - the app's runner may raise anything
            return write_error(request_id, CarError("runner_failed", type(error).__name__))
        if isinstance(result, str):
            result = RunnerResult(text=result)
        return write_result(request_id, _encode(result or RunnerResult()))

    async def _leave(self) -> None:
        """Ask the process to go, then see to it."""
        with anyio.move_on_after(EXIT_TIMEOUT_S):
            if self._ended is None:
                try:
                    await self.call("shutdown")
                    await self.notify("exit", {})
                except (RemoteError, ProcessEnded):
                    pass
            await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.aclose()


def _error_data(error: ErrorObject) -> dict[str, Any]:
    return msgspec.convert(error.data or {}, dict[str, Any])


def _piped(stream: T | None) -> T:
    if stream is None:
        raise RuntimeError("the process was started without its pipes")
    return stream
