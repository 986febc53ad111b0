"""Which model is tried, how often, and how a broken stream goes on.

One loop serves every backend, streaming or not: retry on the same model while that is soon,
then the next candidate; and once something was streamed, the plan that saves most of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeAlias

from msgspec import UNSET

from car_rpc.engine.asked import Asked
from car_rpc.engine.breaker import Breakers, Permit
from car_rpc.engine.collected import collected_to_events
from car_rpc.engine.continuation import Continuation, ask_to_continue
from car_rpc.engine.interruption import (
    CONTINUE_PROMPT,
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
    unsaved,
)
from car_rpc.engine.leave import Leave
from car_rpc.engine.metering import Meter, Metering, work_of
from car_rpc.engine.output import Output
from car_rpc.engine.overlap import MIN_OVERLAP_CHARS
from car_rpc.engine.patience import Patience
from car_rpc.engine.policing import Guard
from car_rpc.engine.ports import Backend, Clock, GenerateCall
from car_rpc.engine.preparation import prepared
from car_rpc.engine.recording import Recorder
from car_rpc.engine.retry import RetryPolicy
from car_rpc.engine.spending import Bill
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.wire.events import Attempt, Recovery, Stop, StreamReset
from car_rpc.wire.inference import AttemptReport
from car_rpc.wire.models import ModelSchema

#: Whether another model may be asked after this one failed so.
Moves: TypeAlias = Callable[[ModelSchema, CarError], bool]

_ALWAYS: Moves = lambda _model, _failure: True  # noqa: E731 - the default of one parameter

#: What no other model is asked after: the app's own wish, or an answer that is one. A spend limit
#: is none of it: a cheaper model may fit, and a local one always does.
FINAL = frozenset({"cancelled", "content_filtered", "policy_denied"})


class Parts(Protocol):
    """What attempts need of the engine."""

    clock: Clock
    backend_of: Callable[[ModelSchema], Backend]
    breakers: Breakers
    retry_policy: RetryPolicy
    metering: Metering


class Attempts:
    """The attempts of one request.

    Args:
        parts: The engine.
        asked: The request.
        accumulator: What its events add up to.
        output: Where they go.
        recorder: Its event log.
        guard: The policies over it.
        reports: Gets a line for each attempt.
    """

    def __init__(
        self,
        parts: Parts,
        asked: Asked,
        accumulator: Accumulator,
        output: Output,
        recorder: Recorder,
        guard: Guard,
        reports: list[AttemptReport],
    ) -> None:
        #: How often a broken stream went on.
        self.recoveries = 0
        #: What the attempts have cost.
        self.bill = Bill()
        self._parts = parts
        self._asked = asked
        level, others_wait = asked.request.recovery or "resume", asked.others_wait
        self._patience = Patience(level, parts.retry_policy, others_wait=others_wait)
        # Who wants no recovery asks this very model, whatever is known of it.
        insists = self._patience.level == "none"
        self._leave = Leave(parts.breakers, parts.clock, recorder, insists=insists)
        self._accumulator = accumulator
        self._output = output
        self._recorder = recorder
        self._guard = guard
        self._reports = reports
        self._continuation: Continuation | None = None
        self._prompt = CONTINUE_PROMPT
        self._resumed: InterruptSnapshot | None = None
        #: Which models can, as far as the log knows.
        self._can_continue: dict[str, bool] = {}
        self._cause = ""
        self._reason = ""
        #: That of the attempt at hand, once its model was asked.
        self._meter: Meter | None = None

    @property
    def next_number(self) -> int:
        """Number of the attempt that would come next, from 1."""
        return len(self._reports) + 1

    def resume(self, snapshot: InterruptSnapshot) -> None:
        """The first attempt goes on from what an earlier request had got."""
        self._resumed = snapshot

    def start_again(self, asked: Asked, *, reason: str) -> None:
        """The next attempt is asked this instead."""
        self._asked, self._continuation, self._reason = asked, None, reason

    def go_on(self, so_far: Continuation, prompt: str, *, reason: str) -> None:
        """The next attempt goes on with an answer; the prompt is for who cannot simply do that."""
        self._continuation, self._prompt, self._reason = so_far, prompt, reason

    async def run(self, candidates: Sequence[ModelSchema], moves: Moves = _ALWAYS) -> ModelSchema:
        """Ask the candidates in order; returns the model that answered.

        Args:
            candidates: The models, best first.
            moves: Whether the next one may be asked after a failure of one; always by default.

        Raises:
            CarError: How the last one failed that was asked at all.
        """
        failure: CarError | None = None
        for position, model in enumerate(candidates):
            is_last = position == len(candidates) - 1
            permit = self._leave.permit(model)
            if permit is None:
                continue
            try:
                await self._ask(model, permit, is_last=is_last)
            except CarError as error:
                failure = self._told(error).with_data(model=model.id)
                if self._accumulator.streamed or failure.kind in FINAL:
                    break
                if not (self._patience.asks_other_models and moves(model, error)):
                    break
                if not is_last:
                    self._recorder.note("fallback", model=model.id, kind=error.kind)
                    self._reason = f"fallback: {error.kind}"
            else:
                return model
        raise failure or self._parts.breakers.unavailable(
            [model.id for model in candidates], self._parts.clock.now_ms()
        )

    def can_continue(self, text: str, model: ModelSchema) -> bool:
        """Whether what the model goes on with makes one whole with what there is.

        A model that is only asked to go on may repeat itself, which nobody could tell of very
        little, and gives an answer in a form of its own.
        """
        if not self.may_say_more(model):
            return False
        if self._continues(model):
            return True
        has_form = self._asked.request.response_format is not UNSET
        return len(text) >= MIN_OVERLAP_CHARS and not has_form

    def _continues(self, model: ModelSchema) -> bool:
        """Whether the model can go on from the beginning of an answer, exactly."""
        backend = self._parts.backend_of(model)
        can = backend.continues_turns(model, self._asked.request)
        if self._can_continue.get(model.id) is not can:
            self._can_continue[model.id] = can
            self._recorder.aside("continues", model=model.id, can=can)
        return can

    def may_say_more(self, model: ModelSchema) -> bool:
        """Whether policies leave the answer any tokens."""
        left = self._guard.tokens_left(model)
        return left is None or left > 0

    def _told(self, failure: CarError) -> CarError:
        """A failure as it is told: with what there was, when a broken stream could not go on."""
        if not self.recoveries or "snapshot" in failure.extra or failure.kind in FINAL:
            return failure
        return unsaved(failure, self._cause, self._accumulator.snapshot())

    async def _ask(self, model: ModelSchema, permit: Permit, *, is_last: bool) -> None:
        """Ask one model until it has answered or there is no point any more."""
        retries = 0
        while True:
            try:
                await self._attempt(model)
            except CarError as error:
                self._leave.judge(model, permit, error)
                failure = error
            except BaseException:
                self._leave.judge(model, permit, self._stop())
                raise
            else:
                self._leave.judge(model, permit, None)
                return
            if self._broken(failure):
                retries = 0
                if await self._save(failure, model):
                    return
            else:
                retries = await self._before_retry(failure, retries, is_last=is_last)
            renewed = self._leave.permit(model)
            if renewed is None:
                raise failure
            permit = renewed

    def _stop(self) -> CarError:
        """What it means that an attempt was stopped from outside.

        A model that used up all the time has failed. One whose client did not read has not.
        """
        if not self._asked.is_late(self._parts.clock.now_ms()):
            return CarError("cancelled")
        return CarError("timeout", retryable=self._meter is not None and self._meter.model_is_due)

    async def _before_retry(self, failure: CarError, retries: int, *, is_last: bool) -> int:
        """Wait for the next attempt on the same model.

        Returns:
            The number of retries with it. Who only takes another key does not retry.

        Raises:
            CarError: The failure, when there is to be none.
        """
        anew = not self._accumulator.streamed
        if anew and self._patience.changes_key(failure, len(self._reports)):
            self._reason = f"another key: {failure.kind}"
            return retries
        delay_ms = self._patience.delay_ms(failure, retries, is_last=is_last)
        self._reason = f"retry: {failure.kind}"
        await self._wait(delay_ms, failure)
        return retries + 1

    def _broken(self, failure: CarError) -> bool:
        """Whether a failure cut a stream that may go on, and is not itself the answer."""
        return self._accumulator.streamed and passes(failure) and breaks_stream(failure)

    async def _save(self, failure: CarError, model: ModelSchema) -> bool:
        """Go on after a stream broke; tells whether the answer is complete as it is.

        Raises:
            CarError: It may not, or not any more.
        """
        if self._patience.level != "resume":
            raise failure
        if self._accumulator.stop_reason is not None:
            return True  # all had been said
        self._patience.note_crash(failure)
        self._cause = cause = cause_of(failure)
        snapshot = self._accumulator.snapshot()
        self._recorder.note("interruption", cause=cause, bytes_received=snapshot.bytes_received)
        if self.recoveries >= self._patience.policy.max_stream_retries:
            raise interrupted(cause, snapshot=snapshot)
        delay_ms = self._patience.policy.delay_ms(failure, self.recoveries)
        self.recoveries += 1
        complete = self._carry_out(snapshot, cause, model)
        if not complete:
            self._reason = f"recovery: {cause}"
            await self._wait(delay_ms, failure)
        return complete

    def _carry_out(self, snapshot: InterruptSnapshot, cause: str, model: ModelSchema) -> bool:
        chosen = plan(snapshot)
        if isinstance(chosen, ContinueText | TruncateBeforeTool) and not self.can_continue(
            chosen.assistant_prefix, model
        ):
            chosen = WholeRestart()
        continues = isinstance(chosen, ContinueText | TruncateBeforeTool)
        name = PLAN_NAMES[type(chosen)]
        self._recorder.note("recovery", cause=cause, plan=name)
        if continues:
            self._output.pass_on(self._accumulator.cancel_open_calls(cause))
        recovery = Recovery(cause=cause, plan=name, attempt=self.next_number)
        self._output.recovers(recovery, may_repeat=continues)
        if isinstance(chosen, WholeRestart):
            self._restart(cause)
            return False
        if isinstance(chosen, SynthesizeToolUse):
            self._output.pass_on(self._accumulator.cancel_open_calls(cause))
            self._output.push(Stop(reason="tool_use"))
            return True
        reasoning = snapshot.reasoning if isinstance(snapshot.reasoning, str) else ""
        self._continuation = Continuation(chosen.assistant_prefix, reasoning)
        self._prompt = CONTINUE_PROMPT
        return False

    def _replayed(self, model: ModelSchema) -> bool:
        """Show what an earlier request had got; tells whether that is a complete answer."""
        snapshot, self._resumed = self._resumed, None
        if snapshot is None:
            return False
        for event in collected_to_events(
            reasoning=snapshot.reasoning or "",
            text=snapshot.text or "",
            tool_calls=snapshot.completed_tool_calls,
        ):
            self._output.push(event)
        return self._carry_out(snapshot, "resumed_from_checkpoint", model)

    def _restart(self, cause: str) -> None:
        self._continuation = None
        self._output.push(StreamReset(reason=cause))

    async def _attempt(self, model: ModelSchema) -> None:
        number = self.next_number
        self._meter = None
        await self._guard.admit(model)
        clock = self._parts.clock
        started_ms = clock.now_ms()
        trace_id, reason = self._recorder.trace_id, self._reason or UNSET
        attempt = Attempt(attempt=number, trace_id=trace_id, model=model.id, reason=reason)
        await self._output.begin_attempt(attempt, model)
        outcome = "success"
        try:
            if self._replayed(model):
                return
            backend = self._parts.backend_of(model)
            call = self._call(backend, model, number)
            work, metering = work_of(call, self._asked), self._parts.metering
            async with (
                self._guard.metered(metering, work, self.bill, self._recorder) as meter,
                aclosing(backend.generate(call)) as events,
            ):
                self._meter = meter
                async for event in events:
                    if meter.take(event):
                        await meter.grow()
                    if not self._output.push(event):
                        await meter.sent(self._output.room())
        except BaseException as error:
            outcome = error.kind if isinstance(error, CarError) else self._stop().kind
            if isinstance(error, CarError):
                self._recorder.failure(error)
            raise
        finally:
            latency_ms = round(clock.now_ms() - started_ms, 3)
            self._reports.append(
                AttemptReport(
                    attempt=number, model=model.id, outcome=outcome, latency_ms=latency_ms
                )
            )

    def _call(self, backend: Backend, model: ModelSchema, number: int) -> GenerateCall:
        """The attempt as its backend sees it, with the answer so far where there is one."""
        asked, continuation = self._asked, self._continuation
        may_repeat = False
        if continuation is not None and not self._continues(model):
            if self.can_continue(continuation.text, model):
                asked = ask_to_continue(asked, continuation.text, self._prompt)
                may_repeat = True
            else:
                self._restart("this model cannot continue")
            continuation = None
        self._accumulator.begin_attempt(may_repeat=may_repeat)
        if continuation is not None:
            counted_chars = self._accumulator.counted_chars
            continuation = continuation._replace(counted_chars=counted_chars)
        told = prepared(self._guard.capped(asked, model), model)
        return GenerateCall(
            model=model,
            request=told.request,
            raw_request=told.raw,
            parent_id=asked.request_id,
            trace_id=self._recorder.trace_id,
            attempt=number,
            deadline_ms=told.time_left_ms(self._parts.clock.now_ms()),
            continuation=continuation,
            note=self._recorder.aside,
            hear_logprobs=self._accumulator.logprobs.extend,
        )

    async def _wait(self, delay_ms: float, failure: CarError) -> None:
        left_ms = self._asked.time_left_ms(self._parts.clock.now_ms())
        if left_ms is not None and delay_ms >= left_ms:
            raise failure.with_data(retry_after_ms=delay_ms)
        await self._parts.clock.sleep_ms(delay_ms)
