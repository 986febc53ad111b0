"""The events of one request, as an async iterator."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
import msgspec

from car_rpc.client.connection import ClientConnection, Waiting
from car_rpc.client.inbox import Inbox
from car_rpc.wire.base import RequestId
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.inference import InferenceResult
from car_rpc.wire.log import LogEvent
from car_rpc.wire.replay import ReplayRunResult

E = TypeVar("E", StreamEvent, LogEvent)

#: Events of one stream that may wait for its reader; beyond it nothing more is read from the
#: core until some are taken, so one forgotten stream holds up the others.
STREAM_BUFFER_EVENTS = 65_536


class _Stream(Generic[E]):
    """The events of one request."""

    def __init__(self, connection: ClientConnection, method: str, params: dict[str, Any]) -> None:
        self._connection = connection
        self._method = method
        self._params = params
        self._answer: Waiting | None = None
        self._events: Inbox[E] | None = None

    async def __aenter__(self) -> Self:
        self._events = Inbox(STREAM_BUFFER_EVENTS)
        self._answer = await self._connection.begin(self._method, self._params, self._events)
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
            await self._connection.cancel(waiting)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        try:
            return await self._opened()[1].take()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    @property
    def request_id(self) -> RequestId:
        """JSON-RPC id of the request."""
        return self._opened()[0].request_id

    def _opened(self) -> tuple[Waiting, Inbox[E]]:
        if self._answer is None or self._events is None:
            raise RuntimeError("use the stream in `async with`")
        return self._answer, self._events


class GenerateStream(_Stream[StreamEvent]):
    """The events of one ``generate``. Made by ``CarClient.stream``."""

    def __init__(self, connection: ClientConnection, params: dict[str, Any]) -> None:
        super().__init__(connection, "generate", params)

    async def result(self) -> InferenceResult:
        """The result, once the stream has ended.

        Raises:
            RemoteError: The request failed.
            ProcessEnded: The process is gone.
        """
        return msgspec.json.decode(await self._opened()[0].wait(), type=InferenceResult)


class ReplayStream(_Stream[StreamEvent]):
    """The events of a request that is shown or runs again. Made by ``CarClient.stream_replay``."""

    def __init__(self, connection: ClientConnection, params: dict[str, Any]) -> None:
        super().__init__(connection, "replay.run", params)

    async def result(self) -> ReplayRunResult:
        """The result, once the stream has ended.

        Raises:
            RemoteError: The request failed, then or now.
            ProcessEnded: The process is gone.
        """
        return msgspec.json.decode(await self._opened()[0].wait(), type=ReplayRunResult)


class LogStream(_Stream[LogEvent]):
    """Events of the log as they are written. Made by ``CarClient.watch_log``.

    It has no end of its own: the iteration raises ``RemoteError`` of kind ``cancelled`` when the
    process shuts down, and ``ProcessEnded`` when it is gone.
    """

    def __init__(self, connection: ClientConnection, params: dict[str, Any]) -> None:
        super().__init__(connection, "eventlog.subscribe", params)

    async def __anext__(self) -> LogEvent:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            await self._opened()[0].wait()
            raise
