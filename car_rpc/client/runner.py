"""The app's side of ``runner.run``: call a function of this program, cancel it, answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
import anyio.abc
import msgspec

from car_rpc.client.connection import ClientConnection
from car_rpc.client.errors import ProcessEnded, RunnerFailure
from car_rpc.errors import KINDS, CarError
from car_rpc.protocol.messages import Request, write_error, write_result
from car_rpc.wire.base import RequestId
from car_rpc.wire.events import RunnerEvent
from car_rpc.wire.runner import RunnerEventResult, RunnerResult, RunnerRunParams

logger = logging.getLogger(__name__)

_encode = msgspec.json.encode


class RunnerRun:
    """One ``runner.run``, as the app's runner sees it.

    Attributes:
        params: What is to be run; ``params.request`` is the client's own JSON.
    """

    def __init__(self, connection: ClientConnection, params: RunnerRunParams) -> None:
        self.params = params
        self._connection = connection

    @property
    def request(self) -> dict[str, Any]:
        """The ``generate`` request, with exactly the fields that the client set."""
        request: dict[str, Any] = msgspec.json.decode(self.params.request)
        return request

    async def emit(self, event: RunnerEvent) -> bool:
        """Send an event, and wait while too many are unread.

        Returns:
            Whether more is wanted; after ``False`` the runner should stop.
        """
        params = {"call_id": self.params.call_id, "event": event}
        result = await self._connection.request("runner.event", params, RunnerEventResult)
        return not result.closed

    async def notify(self, event: RunnerEvent) -> None:
        """Send an event without waiting; too many that nobody reads end the run."""
        await self._connection.notify(
            "runner.event", {"call_id": self.params.call_id, "event": event}
        )


#: A function that runs a model. What it returns fills in what its events lacked. It fails the run
#: by raising :class:`RunnerFailure`, and is cancelled when the core wants the run no more.
Runner: TypeAlias = Callable[[RunnerRun], Awaitable[RunnerResult | str | None]]


class RunnerRuns:
    """The runs that are under way.

    Args:
        connection: Where answers go.
        tasks: Where runners run.
    """

    def __init__(self, connection: ClientConnection, tasks: anyio.abc.TaskGroup) -> None:
        self.runner: Runner | None = None
        self._connection = connection
        self._tasks = tasks
        self._scopes: dict[RequestId, anyio.CancelScope] = {}

    async def start(self, request: Request) -> None:
        """Take a ``runner.run`` request."""
        if self.runner is None:
            error = CarError("method_not_found", "no runner is registered in this program")
            await self._connection.write(write_error(request.id, error))
            return
        params = msgspec.json.decode(request.params, type=RunnerRunParams)
        self._scopes[request.id] = anyio.CancelScope()
        self._tasks.start_soon(self._run, self.runner, request.id, params)

    def cancel(self, request_id: RequestId) -> None:
        """The core does not want a run any more; it is still answered."""
        if request_id in self._scopes:
            self._scopes[request_id].cancel()

    async def _run(self, runner: Runner, request_id: RequestId, params: RunnerRunParams) -> None:
        payload = write_error(request_id, CarError("cancelled"))
        with self._scopes[request_id]:
            payload = await self._outcome(runner, request_id, params)
        del self._scopes[request_id]
        with suppress(ProcessEnded):
            await self._connection.write(payload)

    async def _outcome(
        self, runner: Runner, request_id: RequestId, params: RunnerRunParams
    ) -> bytes:
        try:
            result = await runner(RunnerRun(self._connection, params))
            if isinstance(result, str):
                result = RunnerResult(text=result)
            return write_result(request_id, _encode(result or RunnerResult()))
        except RunnerFailure as failure:
            code = KINDS["runner_failed"].code
            error = {"code": code, "message": failure.message, "data": failure.data}
            return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_encode(request_id), _encode(error))
        except Exception as error:
            # What it says may hold a secret, and the core need not know it; the app must.
            logger.exception("the runner failed unexpectedly")
            return write_error(request_id, CarError("runner_failed", type(error).__name__))
