"""The app's side of ``policy.approve``: ask a function of this program, and answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import anyio
import anyio.abc
import msgspec

from car_rpc.client.connection import ClientConnection
from car_rpc.client.errors import ProcessEnded
from car_rpc.errors import CarError
from car_rpc.protocol.messages import Request, write_error, write_result
from car_rpc.wire.base import RequestId
from car_rpc.wire.policy import PolicyApproveParams, PolicyApproveResult

logger = logging.getLogger(__name__)

#: A function that says whether something may happen; ``False`` if it raises. It is cancelled when
#: the core wants no answer any more.
Approve: TypeAlias = Callable[[PolicyApproveParams], Awaitable[PolicyApproveResult | bool]]


class Approvals:
    """The questions that are not answered yet.

    Args:
        connection: Where answers go.
        tasks: Where they are asked.
        approve: Answers them; ``None`` where nobody does.
    """

    def __init__(
        self,
        connection: ClientConnection,
        tasks: anyio.abc.TaskGroup,
        approve: Approve | None,
    ) -> None:
        self.approve = approve
        self._connection = connection
        self._tasks = tasks
        self._scopes: dict[RequestId, anyio.CancelScope] = {}

    async def start(self, request: Request) -> None:
        """Take a ``policy.approve`` request."""
        if self.approve is None:
            error = CarError("method_not_found", "nobody in this program approves of anything")
            await self._connection.write(write_error(request.id, error))
            return
        question = msgspec.json.decode(request.params, type=PolicyApproveParams)
        self._scopes[request.id] = anyio.CancelScope()
        self._tasks.start_soon(self._ask, self.approve, request.id, question)

    def cancel(self, request_id: RequestId) -> None:
        """The core wants no answer any more; it still gets one."""
        if request_id in self._scopes:
            self._scopes[request_id].cancel()

    async def _ask(
        self, approve: Approve, request_id: RequestId, question: PolicyApproveParams
    ) -> None:
        payload = write_error(request_id, CarError("cancelled"))
        with self._scopes[request_id]:
            result = await _answer(approve, question)
            payload = write_result(request_id, msgspec.json.encode(result))
        del self._scopes[request_id]
        with suppress(ProcessEnded):
            await self._connection.write(payload)


async def _answer(approve: Approve, question: PolicyApproveParams) -> PolicyApproveResult:
    try:
        answer = await approve(question)
    except Exception as error:
        # What it says may hold a secret, and the core need not know it; the app must.
        logger.exception("the approval failed unexpectedly")
        reason = f"the app's approval raised {type(error).__name__}"
        return PolicyApproveResult(approved=False, reason=reason)
    if isinstance(answer, PolicyApproveResult):
        return answer
    return PolicyApproveResult(approved=answer is True)
