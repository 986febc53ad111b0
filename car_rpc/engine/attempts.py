"""Which model is tried, how often, and how a broken stream goes on.

One loop serves every backend, streaming or not: retry on the same model while that is soon,
then the next candidate; and once something was streamed, the plan that saves most of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Literal, NamedTuple, Protocol, TypeAlias

from msgspec import UNSET

from car_rpc.engine.breaker import Breakers
from car_rpc.engine.continuation import Continuation, ask_to_continue
from car_rpc.engine.interruption import (
    PLAN_NAMES,
    ContinueText,
    InterruptSnapshot,
    SynthesizeToolUse,
    TruncateBeforeTool,
    WholeRestart,
    breaks_stream,
    cause_of,
    interrupted,
    passes,
    plan,
)
from car_rpc.engine.metering import Metering, work_of
from car_rpc.engine.output import Output
from car_rpc.engine.overlap import MIN_OVERLAP_CHARS
from car_rpc.engine.ports import Backend, Clock, GenerateCall
from car_rpc.engine.recording import Recorder
from car_rpc.engine.retry import MAX_KEY_CHANGES, RetryPolicy
from car_rpc.engine.spending import Bill
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.wire.base import RequestId
from car_rpc.wire.events import Attempt, Done, ReasoningDelta, Recovery, Stop, StreamReset
from car_rpc.wire.inference import AttemptReport, GenerateRequest
from car_rpc.wire.models import ModelSchema

Level: TypeAlias = Literal["none", "retry", "fallback", "resume"]

#: Longest wait for the same model while another one could be asked, in milliseconds.
SOON_MS = 2000

#: Longest wait at all, in milliseconds; beyond it the client hears how long it would be.
PATIENCE_MS = 60_000

#: What no other model is asked after: the app's own wish, or an answer that is one. A spend limit
#: is none of it: a cheaper model may fit, and a local one always does.
_FINAL = frozenset({"cancelled", "content_filtered", "policy_denied"})

#: Crashes of a worker during one request after which the request is the suspect.
_SUSPECT_AFTER_CRASHES = 2


class Parts(Protocol):
    """What attempts need of the engine."""

    clock: Clock
    backend_of: Callable[[ModelSchema], Backend]
    breakers: Breakers
    retry_policy: RetryPolicy
    metering: Metering


class Asked(NamedTuple):
    """What was asked.

    Attributes:
        request: The typed request.
        raw: The client's own JSON of it.
        request_id: The client's id of it.
        deadline_ms: When its time is up, by the clock; ``None`` for never.
        task: What models are asked for, as their profiles call it.
    """

    request: GenerateRequest
    raw: bytes
    request_id: RequestId
    deadline_ms: float | None
    task: str = "generate"


class Attempts:
    """The attempts of one request.

    Args:
        parts: The engine.
        asked: The request.
        accumulator: What its events add up to.
        output: Where they go.
        recorder: Its event log.
        reports: Gets a line for each attempt.
    """

    def __init__(
        self,
        parts: Parts,
        asked: Asked,
        accumulator: Accumulator,
        output: Output,
        recorder: Recorder,
        reports: list[AttemptReport],
    ) -> None:
        #: How often a broken stream went on.
        self.recoveries = 0
        #: What the attempts have cost.
        self.bill = Bill()
        self._parts = parts
        self._asked = asked
        self._level: Level = asked.request.recovery or "resume"
        self._accumulator = accumulator
        self._output = output
        self._recorder = recorder
        self._reports = reports
        self._continuation: Continuation | None = None
        self._resumed: InterruptSnapshot | None = None
        self._crashes = 0
        self._cause = ""
        self._reason = ""
        #: Whether the attempt at hand counts for its model's breaker.
        self._counts = False

    def resume(self, snapshot: InterruptSnapshot) -> None:
        """The first attempt goes on from what an earlier request had got."""
        self._resumed = snapshot

    async def run(self, candidates: Sequence[ModelSchema]) -> ModelSchema:
        """Ask the candidates in order; returns the model that answered.

        Raises:
            CarError: How the last one failed that was asked at all.
        """
        failure = self._unavailable(candidates)
        for position, model in enumerate(candidates):
            is_last = position == len(candidates) - 1
            if not self._admitted(model):
                continue
            try:
                await self._ask(model, is_last=is_last)
            except CarError as error:
                failure = self._told(error).with_data(model=model.id)
                if self._accumulator.streamed or failure.kind in _FINAL:
                    break
                if self._level in ("none", "retry"):
                    break
                if not is_last:
                    self._recorder.note("fallback", model=model.id, kind=error.kind)
                    self._reason = f"fallback: {error.kind}"
            else:
                return model
        raise failure

    def _told(self, failure: CarError) -> CarError:
        """A failure as it is told: with what there was, when a broken stream could not go on."""
        if not self.recoveries or "snapshot" in failure.extra or failure.kind in _FINAL:
            return failure
        snapshot = self._accumulator.snapshot()
        if breaks_stream(failure) and "suspect" not in failure.extra:
            return interrupted(self._cause, snapshot=snapshot)
        return failure.with_data(cause=self._cause, snapshot=snapshot)

    def _admitted(self, model: ModelSchema) -> bool:
        # Who wants no recovery asks this very model, whatever is known of it.
        self._counts = self._parts.breakers.of(model.id).admit(self._parts.clock.now_ms())
        return self._counts or self._level == "none"

    def _unavailable(self, candidates: Sequence[ModelSchema]) -> CarError:
        now_ms = self._parts.clock.now_ms()
        waits = [self._parts.breakers.of(model.id).wait_ms(now_ms) for model in candidates]
        return CarError("all_models_unavailable", retry_after_ms=round(min(waits)))

    async def _ask(self, model: ModelSchema, *, is_last: bool) -> None:
        """Ask one model until it has answered or there is no point any more."""
        breaker = self._parts.breakers.of(model.id)
        retries = 0
        while True:
            try:
                await self._attempt(model)
            except CarError as error:
                if self._counts:
                    breaker.failed(error, self._parts.clock.now_ms())
                failure = error
            except BaseException:
                if self._counts:
                    breaker.abandoned()
                raise
            else:
                breaker.succeeded()
                return
            if self._broken(failure):
                retries = 0
                if await self._save(failure, model):
                    return
            else:
                retries = await self._before_retry(failure, retries, is_last=is_last)
            if not self._admitted(model):
                raise failure

    def _may_change_key(self, failure: CarError) -> bool:
        """Whether the same server has another key that the request may be sent with at once."""
        return (
            "another_key" in failure.extra
            and self._level != "none"
            and not self._accumulator.streamed
            and len(self._reports) <= MAX_KEY_CHANGES
        )

    async def _before_retry(self, failure: CarError, retries: int, *, is_last: bool) -> int:
        """Wait for the next attempt on the same model.

        Returns:
            The number of retries with it. Who only takes another key does not retry.

        Raises:
            CarError: The failure, when there is to be none.
        """
        if self._may_change_key(failure):
            self._reason = f"another key: {failure.kind}"
            return retries
        if not self._may_retry(failure, retries):
            raise failure
        delay_ms = self._parts.retry_policy.delay_ms(failure, retries)
        other_model = not is_last and self._level != "retry"
        if delay_ms > (SOON_MS if other_model else PATIENCE_MS):
            raise failure
        self._reason = f"retry: {failure.kind}"
        await self._wait(delay_ms, failure)
        return retries + 1

    def _broken(self, failure: CarError) -> bool:
        """Whether a failure cut a stream that may go on, and is not itself the answer."""
        return self._accumulator.streamed and passes(failure) and breaks_stream(failure)

    def _may_retry(self, failure: CarError, retries: int) -> bool:
        if failure.kind == "worker_crashed":
            self._note_crash(failure)
        return (
            self._level != "none"
            and passes(failure)
            and retries < self._parts.retry_policy.max_retries
        )

    def _note_crash(self, failure: CarError) -> None:
        self._crashes += 1
        if self._crashes >= _SUSPECT_AFTER_CRASHES:
            raise CarError(failure.kind, failure.detail, **{**failure.extra, "suspect": True})

    async def _save(self, failure: CarError, model: ModelSchema) -> bool:
        """Go on after a stream broke; tells whether the answer is complete as it is.

        Raises:
            CarError: It may not, or not any more.
        """
        if self._level != "resume":
            raise failure
        if self._accumulator.stop_reason is not None:
            # All had been said.
            await self._output.close()
            return True
        if failure.kind == "worker_crashed":
            self._note_crash(failure)
        self._cause = cause = cause_of(failure)
        snapshot = self._accumulator.snapshot()
        self._recorder.note("interruption", cause=cause, bytes_received=snapshot.bytes_received)
        if self.recoveries >= self._parts.retry_policy.max_stream_retries:
            raise interrupted(cause, snapshot=snapshot)
        delay_ms = self._parts.retry_policy.delay_ms(failure, self.recoveries)
        self.recoveries += 1
        complete = await self._carry_out(snapshot, cause, model)
        if not complete:
            self._reason = f"recovery: {cause}"
            await self._wait(delay_ms, failure)
        return complete

    async def _carry_out(self, snapshot: InterruptSnapshot, cause: str, model: ModelSchema) -> bool:
        chosen = plan(snapshot)
        if isinstance(chosen, ContinueText | TruncateBeforeTool) and not self._joins(
            chosen.assistant_prefix, model
        ):
            chosen = WholeRestart()
        continues = isinstance(chosen, ContinueText | TruncateBeforeTool)
        name = PLAN_NAMES[type(chosen)]
        self._recorder.note("recovery", cause=cause, plan=name)
        if continues:
            await self._output.pass_on(self._accumulator.cancel_open_calls(cause))
        recovery = Recovery(cause=cause, plan=name, attempt=len(self._reports) + 1)
        await self._output.recovers(recovery, may_repeat=continues)
        if isinstance(chosen, WholeRestart):
            await self._restart(cause)
            return False
        if isinstance(chosen, SynthesizeToolUse):
            await self._output.pass_on(self._accumulator.cancel_open_calls(cause))
            await self._output.push(Stop(reason="tool_use"))
            await self._output.close()
            return True
        reasoning = snapshot.reasoning if isinstance(snapshot.reasoning, str) else ""
        self._continuation = Continuation(chosen.assistant_prefix, reasoning)
        return False

    async def _replayed(self, model: ModelSchema) -> bool:
        """Show what an earlier request had got; tells whether that is a complete answer."""
        snapshot, self._resumed = self._resumed, None
        if snapshot is None:
            return False
        if isinstance(snapshot.reasoning, str):
            await self._output.push(ReasoningDelta(text=snapshot.reasoning))
        text = snapshot.text if isinstance(snapshot.text, str) else ""
        await self._output.push(Done(text=text, tool_calls=snapshot.completed_tool_calls))
        return await self._carry_out(snapshot, "resumed_from_checkpoint", model)

    def _joins(self, text: str, model: ModelSchema) -> bool:
        """Whether what the model goes on with makes one whole with what there is.

        A model that is only asked to go on may repeat itself, which nobody could tell of very
        little, and gives an answer in a form of its own.
        """
        if self._parts.backend_of(model).continues_turns(model, self._asked.request):
            return True
        has_form = self._asked.request.response_format is not UNSET
        return len(text) >= MIN_OVERLAP_CHARS and not has_form

    async def _restart(self, cause: str) -> None:
        self._continuation = None
        await self._output.push(StreamReset(reason=cause))

    async def _attempt(self, model: ModelSchema) -> None:
        number = len(self._reports) + 1
        clock = self._parts.clock
        started_ms = clock.now_ms()
        self._recorder.begin_attempt(number)
        await self._recorder.commit("attempt", model=model.id)
        trace_id = self._recorder.trace_id
        await self._output.begin_attempt(
            Attempt(attempt=number, trace_id=trace_id, model=model.id, reason=self._reason or UNSET)
        )
        outcome = "success"
        try:
            if await self._replayed(model):
                return
            backend = self._parts.backend_of(model)
            call = await self._call(backend, model, number)
            work = work_of(call, self._asked.task)
            async with self._parts.metering.attempt(work, self.bill) as meter:
                async with aclosing(backend.generate(call)) as events:
                    async for event in events:
                        meter.take(event)
                        await meter.sent(self._output.push(event))
                await meter.sent(self._output.close())
        except BaseException as error:
            outcome = error.kind if isinstance(error, CarError) else "cancelled"
            raise
        finally:
            self._reports.append(
                AttemptReport(
                    attempt=number,
                    model=model.id,
                    outcome=outcome,
                    latency_ms=round(clock.now_ms() - started_ms, 3),
                )
            )

    async def _call(self, backend: Backend, model: ModelSchema, number: int) -> GenerateCall:
        """The attempt as its backend sees it, with the answer so far where there is one."""
        asked, continuation = self._asked, self._continuation
        request, raw = asked.request, asked.raw
        may_repeat = False
        if continuation is not None and not backend.continues_turns(model, request):
            if self._joins(continuation.text, model):
                request, raw = ask_to_continue(asked.raw, continuation.text)
                may_repeat = True
            else:
                await self._restart("this model cannot continue")
            continuation = None
        self._accumulator.begin_attempt(may_repeat=may_repeat)
        return GenerateCall(
            model=model,
            request=request,
            raw_request=raw,
            parent_id=asked.request_id,
            trace_id=self._recorder.trace_id,
            attempt=number,
            deadline_ms=self._time_left_ms(),
            continuation=continuation,
        )

    def _time_left_ms(self) -> int | None:
        deadline_ms = self._asked.deadline_ms
        if deadline_ms is None:
            return None
        return max(1, round(deadline_ms - self._parts.clock.now_ms()))

    async def _wait(self, delay_ms: float, failure: CarError) -> None:
        left_ms = self._time_left_ms()
        if left_ms is not None and delay_ms >= left_ms:
            raise failure.with_data(retry_after_ms=delay_ms)
        await self._parts.clock.sleep_ms(delay_ms)
