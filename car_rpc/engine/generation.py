"""One ``generate`` request from its parameters to its one result.

The data flows forward once: route, attempt, events through the accumulator to the client and
to the log, result. Whatever happens on the way, the stream ends with exactly one ``done`` or
``error``, and the log holds the request before it runs and its completion before the caller
gets the result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import NamedTuple, Protocol

from msgspec import UNSET, Raw, UnsetType

from car_rpc.engine.ports import Backend, Clock, GenerateCall
from car_rpc.engine.recording import Recorder, absorb_cancel
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError, invalid_params
from car_rpc.wire.base import RequestId
from car_rpc.wire.events import (
    Attempt,
    Done,
    ErrorEvent,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallStart,
)
from car_rpc.wire.inference import GenerateRequest, InferenceResult
from car_rpc.wire.models import Capability, ModelSchema

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Who gets the events of a stream."""

    async def send(self, event: StreamEvent) -> None:
        """Pass on an event; waits while too many are unread."""
        ...

    def send_last(self, event: StreamEvent) -> None:
        """Pass on the final event, without waiting."""
        ...


class Origin(NamedTuple):
    """Where a request came from.

    Attributes:
        request_id: The client's id of it.
        method: Its method.
        raw_params: The client's own JSON.
    """

    request_id: RequestId
    method: str
    raw_params: bytes


class Parts(Protocol):
    """What a generation needs of the engine."""

    clock: Clock
    backend_of: Callable[[ModelSchema], Backend]

    def route(self, wanted: str | UnsetType, capability: Capability) -> ModelSchema:
        """The model for a request."""
        ...


class Generation:
    """One ``generate`` request: its attempts, its events and its one end."""

    def __init__(
        self,
        parts: Parts,
        request: GenerateRequest,
        origin: Origin,
        listener: Listener | None,
        recorder: Recorder,
    ) -> None:
        self._parts = parts
        self._request = request
        self._origin = origin
        self._listener = listener
        self._recorder = recorder
        self._clock = parts.clock
        self._started_ms = parts.clock.now_ms()
        self._first_token_ms: float | None = None
        self._accumulator = Accumulator()
        self._model: ModelSchema | None = None

    async def result(self) -> InferenceResult:
        """Run it.

        Raises:
            CarError: The one error that it ends with.
        """
        self._recorder.note("request", **request_data(self._origin))
        try:
            result = await self._run()
            await self._recorder.commit_final("completion", outcome="success", result=result)
        except (Exception, asyncio.CancelledError) as error:
            raise await self._failed(error) from error
        self._finish(Done(text=result.text, tool_calls=result.tool_calls))
        return result

    async def _run(self) -> InferenceResult:
        request = self._request
        if request.prompt is UNSET and not request.messages:
            raise invalid_params("one of `prompt` and `messages` is required", "$.prompt")
        self._model = model = self._parts.route(request.model, "generate")
        reason = "explicit model" if isinstance(request.model, str) else "best available model"
        self._recorder.note("route", model=model.id, reason=reason)
        timeout_ms = request.timeout_ms if isinstance(request.timeout_ms, int) else None
        limit = asyncio.timeout(timeout_ms / 1000 if timeout_ms else None)
        try:
            async with limit:
                await self._attempt(model, 1, timeout_ms)
        except TimeoutError:
            if not limit.expired():
                raise
            raise CarError("timeout", f"timeout_ms {timeout_ms} ran out") from None
        return self._inference_result(model)

    async def _attempt(self, model: ModelSchema, attempt: int, deadline_ms: int | None) -> None:
        trace_id = self._recorder.trace_id
        self._recorder.begin_attempt(attempt)
        await self._recorder.commit("attempt", model=model.id)
        await self._send(Attempt(attempt=attempt, trace_id=trace_id, model=model.id))
        call = GenerateCall(
            model=model,
            request=self._request,
            raw_request=self._origin.raw_params,
            parent_id=self._origin.request_id,
            trace_id=trace_id,
            attempt=attempt,
            deadline_ms=deadline_ms,
        )
        async with aclosing(self._parts.backend_of(model).generate(call)) as events:
            async for event in events:
                for outgoing in self._accumulator.push(event):
                    await self._pass_on(outgoing)
        for outgoing in self._accumulator.close():
            await self._pass_on(outgoing)

    async def _pass_on(self, event: StreamEvent) -> None:
        if self._first_token_ms is None and isinstance(
            event, TextDelta | ReasoningDelta | ToolCallStart
        ):
            self._first_token_ms = round(self._clock.now_ms() - self._started_ms, 3)
        self._recorder.delta(event)
        await self._recorder.room()
        await self._send(event)

    async def _send(self, event: StreamEvent) -> None:
        if self._listener is not None:
            await self._listener.send(event)

    def _finish(self, event: StreamEvent) -> None:
        if self._listener is not None:
            self._listener.send_last(event)

    async def _failed(self, error: BaseException) -> CarError:
        failure = failure_of(error)
        data = {"trace_id": self._recorder.trace_id}
        if self._model is not None:
            data["model"] = self._model.id
        if failure.kind == "cancelled":
            failure = failure.with_data(partial=self._partial())
        failure = failure.with_data(**data)
        self._finish(ErrorEvent(kind=failure.kind, message=failure.message))
        latency_ms = self._clock.now_ms() - self._started_ms
        await record_failure(self._recorder, failure, latency_ms)
        return failure

    def _partial(self) -> dict[str, object]:
        accumulator = self._accumulator
        return {
            "text": accumulator.text,
            "tool_calls": accumulator.tool_calls(),
            "usage": accumulator.usage,
        }

    def _inference_result(self, model: ModelSchema) -> InferenceResult:
        accumulator = self._accumulator
        tool_calls = accumulator.tool_calls()
        items = accumulator.provider_output_items
        return InferenceResult(
            text=accumulator.text,
            tool_calls=tool_calls,
            trace_id=self._recorder.trace_id,
            model_used=model.id,
            latency_ms=round(self._clock.now_ms() - self._started_ms, 3),
            time_to_first_token_ms=self._first_token_ms,
            usage=accumulator.usage,
            stop_reason=accumulator.stop_reason,
            reasoning=accumulator.reasoning or UNSET,
            provider_output_items=items or UNSET,
            client_ref=self._request.client_ref,
        )


def failure_of(error: BaseException) -> CarError:
    """The error that a request ends with, whatever was raised; a cancel ends here."""
    if isinstance(error, CarError):
        return error
    if isinstance(error, asyncio.CancelledError):
        absorb_cancel()
        return CarError("cancelled")
    logger.error("a request failed unexpectedly", exc_info=error)
    return CarError("internal", "this is a defect in car-rpc; its log on standard error says more")


def request_data(origin: Origin) -> dict[str, object]:
    """A request as the event log keeps it."""
    return {
        "request_id": origin.request_id,
        "method": origin.method,
        "params": Raw(origin.raw_params),
    }


async def record_failure(recorder: Recorder, failure: CarError, latency_ms: float) -> None:
    """Record how a request failed. A log that fails too does not change the answer."""
    error = {"code": failure.code, "message": failure.message, "data": failure.data}
    try:
        await recorder.commit_final(
            "completion",
            outcome="failed",
            kind=failure.kind,
            error=error,
            latency_ms=round(latency_ms, 3),
        )
    except CarError as problem:
        logger.warning("the event log lacks how a request failed: %s", problem)
