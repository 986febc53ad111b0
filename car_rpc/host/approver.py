"""Questions to the app: ``policy.approve``, whose answer may come late, or never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from car_rpc.engine.policing import NobodyToAsk
from car_rpc.errors import KINDS
from car_rpc.host.waiting import Waiting
from car_rpc.protocol.connection import Connection
from car_rpc.protocol.messages import Response
from car_rpc.wire.policy import PolicyApproveParams, PolicyApproveResult

_decode = msgspec.json.Decoder(PolicyApproveResult).decode
_encode = msgspec.json.Encoder().encode


class _Question:
    """One question. Whatever comes instead of an approval is a refusal."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[PolicyApproveResult] = loop.create_future()

    def answer(self, response: Response) -> None:
        """The app's response."""
        if response.error is None:
            try:
                self._settle(_decode(response.result))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._settle(_refusal(f"the app's answer is malformed: {error}"))
        elif response.error.code == KINDS["method_not_found"].code:
            self._settle(_refusal("the app has no handler for `policy.approve`"))
        else:
            self._settle(_refusal(f"the app failed to answer: {response.error.message}"))

    def abandon(self) -> None:
        """The app is gone."""
        self._settle(_refusal("the app closed its side before it answered"))

    def _settle(self, result: PolicyApproveResult) -> None:
        if not self.answered.done():
            self.answered.set_result(result)


class ApproverHost(NobodyToAsk):
    """Asks the app over a connection, once it has said that it answers.

    Args:
        connection: Where questions go.
        kick: Tells the writer that there is output.
        announced: Whether the client has the capability ``approve``.
    """

    def __init__(
        self, connection: Connection[Waiting], kick: Callable[[], None], *, announced: bool
    ) -> None:
        self._announced = announced
        self._connection = connection
        self._kick = kick

    async def approve(self, question: PolicyApproveParams) -> PolicyApproveResult:
        """The app's answer; a refusal where there is none in time."""
        if not self._announced:
            return await super().approve(question)
        waiting = _Question()
        request_id = self._connection.call("policy.approve", _encode(question), waiting)
        self._kick()
        try:
            # Not `wait_for`: the question is withdrawn below, however it ends.
            await asyncio.wait([waiting.answered], timeout=question.deadline_ms / 1000)
            if waiting.answered.done():
                return waiting.answered.result()
            return _refusal(f"the app did not answer within {question.deadline_ms} ms")
        finally:
            if not waiting.answered.done():
                self._connection.pending.resolve(request_id)
                self._connection.notify("$/cancelRequest", _encode({"id": request_id}))
                self._kick()


def _refusal(reason: str) -> PolicyApproveResult:
    return PolicyApproveResult(approved=False, reason=reason)
