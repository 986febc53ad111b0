"""One ``generate`` request from its parameters to its one result.

The data flows forward once: route, attempt, events through the accumulator to the client and
to the log, result. Whatever happens on the way, the stream ends with exactly one ``done`` or
``error``, and the log holds the request before it runs and its completion before the caller
gets the result.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
from msgspec import UNSET, Raw

from car_rpc.engine.asked import Asked
from car_rpc.engine.attempts import Attempts
from car_rpc.engine.attempts import Parts as AttemptParts
from car_rpc.engine.boxes import boxes_of
from car_rpc.engine.candidates import Veto
from car_rpc.engine.checkpoint import Checkpoint
from car_rpc.engine.extension import Extension
from car_rpc.engine.output import Listener, Output
from car_rpc.engine.policing import Policing, refused
from car_rpc.engine.premises import PremisesLog
from car_rpc.engine.recording import Recorder, absorb_cancel
from car_rpc.engine.routing import MAX_LOGGED_CANDIDATES, Route
from car_rpc.engine.screening import Screen
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.wire.base import RequestId
from car_rpc.wire.events import Done, ErrorEvent
from car_rpc.wire.inference import AttemptReport, GenerateRequest, InferenceResult
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.routing import RouteDecision

logger = logging.getLogger(__name__)

#: Longest result of a request that is no ``generate`` that the event log keeps: ten thousands of
#: vectors would be no use there.
MAX_LOGGED_RESULT_BYTES = 4 * 1024 * 1024


class Origin(NamedTuple):
    """Where a request came from.

    Attributes:
        request_id: The client's id of it.
        method: Its method.
        raw_params: The client's own JSON.
        replayed_trace_id: The request that it runs again.
    """

    request_id: RequestId
    method: str
    raw_params: bytes
    replayed_trace_id: str | None = None


class Chooser(Protocol):
    """Chooses models; see :class:`car_rpc.engine.routing.Routing`."""

    def generate(self, request: GenerateRequest, trace_id: str, veto: Veto | None = None) -> Route:
        """Choose for a ``generate`` request."""
        ...

    def moves(self, chosen: Route, model: ModelSchema, failure: CarError) -> bool:
        """Whether another model may be asked after one failed."""
        ...


class Parts(AttemptParts, Protocol):
    """What a generation needs of the engine."""

    @property
    def routing(self) -> Chooser:
        """The choice of a model."""
        ...

    premises: PremisesLog
    policing: Policing


class Generation:
    """One ``generate`` request: its attempts, its events and its one end."""

    def __init__(
        self,
        parts: Parts,
        request: GenerateRequest,
        origin: Origin,
        listener: Listener | None,
        recorder: Recorder,
        checkpoint: Checkpoint | None = None,
        *,
        others_wait: bool = False,
    ) -> None:
        self._parts = parts
        self._others_wait = others_wait
        self._request = request
        self._origin = origin
        self._recorder = recorder
        self._clock = parts.clock
        self._started_ms = parts.clock.now_ms()
        self._accumulator = Accumulator()
        self._guard = parts.policing.guard(origin.method, recorder, request)
        screen = Screen(self._guard) if self._guard.screens else None
        self._output = Output(self._accumulator, recorder, listener, parts.clock, screen)
        self._checkpoint = checkpoint
        self._reports: list[AttemptReport] = []

    async def result(self) -> InferenceResult:
        """Run it.

        Raises:
            CarError: The one error that it ends with.
        """
        self._recorder.request(**request_data(self._origin))
        try:
            result = await self._run()
            self._recorder.end_deltas()
            self._output.conclude()
            for call in result.tool_calls:
                self._recorder.aside("tool_call", call=call)
            await self._recorder.commit_final("completion", outcome="success", result=result)
        except (Exception, asyncio.CancelledError) as error:
            raise await self._failed(error) from error
        self._output.finish(Done(text=result.text, tool_calls=result.tool_calls))
        return result

    async def _run(self) -> InferenceResult:
        request, routing = self._request, self._parts.routing
        route = routing.generate(request, self._recorder.trace_id, self._guard.veto)
        decision = route.decision
        recorder = self._recorder
        write = partial(recorder.shared, "routing_inputs")
        own = self._parts.premises.own(route.premises, decision.task, write)
        recorder.note("route", **route_data(decision), premises=own)
        timeout_ms = request.timeout_ms if isinstance(request.timeout_ms, int) else None
        deadline_ms = None if timeout_ms is None else self._started_ms + timeout_ms
        asked = Asked(
            request,
            self._origin.raw_params,
            self._origin.request_id,
            deadline_ms,
            route.decision.task,
            self._others_wait,
        )
        attempts = Attempts(
            self._parts,
            asked,
            self._accumulator,
            self._output,
            self._recorder,
            self._guard,
            self._reports,
        )
        if self._checkpoint is not None:
            self._recorder.note("resumed", resumed_trace_id=self._checkpoint.trace_id)
            attempts.resume(self._checkpoint.snapshot)
        extension = Extension(asked, attempts, self._accumulator, self._output)
        limit = self._limit(timeout_ms)
        try:
            async with limit:
                route.began()
                model = await attempts.run(route.models, partial(routing.moves, route))
                route.answered(model)
                await extension.run(model)
                await self._output.close()
        except TimeoutError:
            if not limit.expired():
                raise
            raise CarError("timeout", f"timeout_ms {timeout_ms} ran out") from None
        return self._inference_result(model, attempts, extension.count)

    def _limit(self, timeout_ms: int | None) -> asyncio.Timeout:
        return asyncio.timeout(timeout_ms / 1000 if timeout_ms else None)

    async def _failed(self, error: BaseException) -> CarError:
        failure = failure_of(error)
        failure = self._output.conclude(failure) or failure
        data = {"trace_id": self._recorder.trace_id}
        if self._reports:
            data["model"] = self._reports[-1].model
        if isinstance(error, asyncio.CancelledError):
            self._recorder.aside("cancel_observed")
        if failure.kind == "cancelled":
            failure = failure.with_data(partial=self._partial())
        failure = failure.with_data(**data)
        self._output.finish(ErrorEvent(kind=failure.kind, message=failure.message))
        latency_ms = self._clock.now_ms() - self._started_ms
        await record_failure(self._recorder, failure, latency_ms)
        return failure

    def _partial(self) -> dict[str, object]:
        answer = self._output.answer
        return {
            "text": answer.text,
            "tool_calls": answer.tool_calls(),
            "usage": self._accumulator.usage,
        }

    def _inference_result(
        self, model: ModelSchema, attempts: Attempts, extensions: int
    ) -> InferenceResult:
        accumulator, answer = self._accumulator, self._output.answer
        text = answer.text
        first_token_at_ms = self._output.first_token_at_ms
        return InferenceResult(
            text=text,
            tool_calls=answer.tool_calls(),
            trace_id=self._recorder.trace_id,
            model_used=model.id,
            latency_ms=round(self._clock.now_ms() - self._started_ms, 3),
            time_to_first_token_ms=None
            if first_token_at_ms is None
            else round(first_token_at_ms - self._started_ms, 3),
            usage=accumulator.usage,
            stop_reason=accumulator.stop_reason,
            schema_valid=accumulator.schema_valid if text == accumulator.text else UNSET,
            reasoning=answer.reasoning or UNSET,
            attempts=self._reports if len(self._reports) > 1 else UNSET,
            recoveries=attempts.recoveries + extensions or UNSET,
            logprobs=self._output.logprobs or UNSET,
            bounding_boxes=boxes_of(model, text) or UNSET,
            provider_output_items=self._output.items or UNSET,
            client_ref=self._request.client_ref,
            cost_usd=attempts.bill.cost_usd,
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
    data: dict[str, object] = {
        "request_id": origin.request_id,
        "method": origin.method,
        "params": Raw(origin.raw_params),
    }
    if origin.replayed_trace_id is not None:
        data["replayed_trace_id"] = origin.replayed_trace_id
    return data


def result_data(result: object) -> dict[str, object]:
    """A result as the event log keeps it: of one that is very long, the size."""
    encoded = msgspec.json.encode(result)
    if len(encoded) > MAX_LOGGED_RESULT_BYTES:
        return {"result_bytes": len(encoded)}
    return {"result": Raw(encoded)}


def route_data(decision: RouteDecision) -> dict[str, object]:
    """A decision as the event log keeps it: with the best of its candidates."""
    return {
        "model": decision.model_id,
        "reason": decision.reason,
        "fallbacks": decision.fallbacks,
        "strategy": decision.strategy,
        "task": decision.task,
        "complexity": decision.complexity,
        "predicted_quality": decision.predicted_quality,
        "propensity": decision.propensity,
        "needs_compaction": decision.needs_compaction,
        "input_tokens": decision.input_tokens,
        "output_tokens": decision.output_tokens,
        "candidates": decision.candidates[:MAX_LOGGED_CANDIDATES],
    }


async def record_failure(recorder: Recorder, failure: CarError, latency_ms: float) -> None:
    """Record how a request failed. A log that fails too does not change the answer."""
    refusal = refused(failure)
    if refusal is not None:
        recorder.note("policy", **refusal)
    error = failure.told
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
