"""What every attempt on a model goes through, whatever it is for.

A local model has to be free for it, and what it may cost is reserved; then it is timed, its tokens
are counted, it is charged, and the model is judged by how it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeAlias

from msgspec import UNSET

from car_rpc.engine.asked import Asked
from car_rpc.engine.permits import Admission, Permit
from car_rpc.engine.ports import Clock, GenerateCall, Outcomes
from car_rpc.engine.recording import Recorder
from car_rpc.engine.spending import Bill, Ended, Spending
from car_rpc.errors import CarError
from car_rpc.outcomes.profiles import SUCCESS, AttemptEnd
from car_rpc.outcomes.signals import Sign
from car_rpc.router.estimate import (
    BYTES_PER_TOKEN,
    DEFAULT_OUTPUT_TOKENS,
    input_tokens,
    output_tokens,
)
from car_rpc.spend.prices import Tokens
from car_rpc.spend.store import Reservation
from car_rpc.wire.events import (
    ReasoningDelta,
    RunnerEvent,
    StreamEvent,
    TextDelta,
    ToolCallStart,
    UsageEvent,
)
from car_rpc.wire.inference import Workload
from car_rpc.wire.models import ModelSchema


def anything(_nano_usd: int | None) -> None:
    """It may cost anything."""


#: Tokens that money is put aside for at once while an answer goes on beyond the estimate.
GROWTH_TOKENS = 256

#: Puts aside money for some more tokens.
Afford: TypeAlias = Callable[[Reservation, int], Awaitable[Reservation]]


class Work(NamedTuple):
    """An attempt on a model.

    Attributes:
        model: The model.
        task: What it is asked for; names a row of its profile.
        trace_id: The request.
        expected: The tokens that it may take.
        attempt: Number of the attempt, from 1.
        deadline_ms: When its time is up, by the clock; ``None`` for never.
        workload: Who waits for it.
        afford: Takes what the request may cost with it, in billionths of a dollar, or ``None``
            when nobody knows; raises what is told instead of it.
        is_open_ended: Whether nobody bounded the answer, so that it may take more.
    """

    model: ModelSchema
    task: str
    trace_id: str
    expected: Tokens = Tokens(0, 0)
    attempt: int = 1
    deadline_ms: float | None = None
    workload: Workload = "interactive"
    afford: Callable[[int | None], None] = anything
    is_open_ended: bool = False


def work_of(call: GenerateCall, asked: Asked) -> Work:
    """An attempt of a ``generate`` request."""
    request = call.request
    return Work(
        model=call.model,
        task=asked.task,
        trace_id=call.trace_id,
        expected=Tokens(input_tokens(request), output_tokens(request)),
        attempt=call.attempt,
        deadline_ms=asked.deadline_ms,
        workload=request.params.workload or "interactive",
        is_open_ended=not isinstance(request.params.max_tokens, int),
    )


class Meter:
    """What one attempt has used so far.

    Args:
        clock: Time.
        permit: Its leave to run.
        reservation: What was put aside for it, if anything.
        afford: Puts aside money for some more tokens; ``None`` where the answer cannot grow
            beyond what was put aside.
    """

    def __init__(
        self, clock: Clock, permit: Permit, reservation: Reservation | None, afford: Afford | None
    ) -> None:
        #: What was put aside for it, if anything.
        self.reservation = reservation
        self._clock = clock
        self._permit = permit
        self._afford = afford
        self._bytes = 0
        self._allowed = DEFAULT_OUTPUT_TOKENS
        self._started_ms = clock.now_ms()
        self._usage: dict[str, int] = {}
        #: Whether anything came.
        self.streamed = False
        #: Milliseconds until the first token.
        self.ttft_ms: float | None = None
        #: Whether the model has to say something next, and not the client to take something.
        self.model_is_due = True

    @property
    def latency_ms(self) -> float:
        """Milliseconds since the attempt began."""
        return self._clock.now_ms() - self._started_ms

    @property
    def tokens(self) -> Tokens | None:
        """What it took; ``None`` when the backend has not said."""
        prompt, completion = self.count("prompt_tokens"), self.count("completion_tokens")
        if prompt is None or completion is None:
            return None
        read, written = self.count("cache_read_tokens"), self.count("cache_creation_tokens")
        return Tokens(prompt, completion, read or 0, written or 0)

    @property
    def usage(self) -> dict[str, int]:
        """What the backend has said of it, by the names of :class:`UsageEvent`."""
        return dict(self._usage)

    def count(self, name: str) -> int | None:
        """A count of :class:`UsageEvent`, or ``None`` when the backend has not said."""
        return self._usage.get(name)

    async def sent(self, sending: Awaitable[None]) -> None:
        """Wait until the client has taken something; see :meth:`Permit.lend_while`."""
        self.model_is_due = False
        await self._permit.lend_while(sending)
        self.model_is_due = True

    def take(self, event: StreamEvent | RunnerEvent) -> bool:
        """Count an event of the backend; tells whether :meth:`grow` is to be called."""
        self.streamed = True
        if isinstance(event, UsageEvent):
            for field in event.__struct_fields__:
                value = getattr(event, field)
                if value is not UNSET:
                    self._usage[field] = max(value, self._usage.get(field, 0))
        elif self.ttft_ms is None and isinstance(event, TextDelta | ReasoningDelta | ToolCallStart):
            self.ttft_ms = self.latency_ms
        if self._afford is None or isinstance(event, UsageEvent):
            return False
        text = getattr(event, "text", None) or getattr(event, "arguments_delta", None) or ""
        self._bytes += len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
        said = self.count("completion_tokens") or 0
        return max(said, self._bytes // BYTES_PER_TOKEN) > self._allowed

    async def grow(self) -> None:
        """Put aside money for more of an answer that nobody bounded.

        Raises:
            CarError: ``spend_limit_exceeded``: it may not go on.
        """
        if self._afford is not None and self.reservation is not None:
            self.reservation = await self._afford(self.reservation, GROWTH_TOKENS)
        self._allowed += GROWTH_TOKENS


class Metering:
    """Meters attempts.

    Args:
        clock: Time.
        outcomes: Learns from how they end.
        spending: Their money.
        admission: Lets work on local models begin.
    """

    def __init__(
        self, clock: Clock, outcomes: Outcomes, spending: Spending, admission: Admission
    ) -> None:
        self._clock = clock
        self._outcomes = outcomes
        self._spending = spending
        self._admission = admission

    @asynccontextmanager
    async def attempt(self, work: Work, bill: Bill, recorder: Recorder) -> AsyncGenerator[Meter]:
        """Meter what happens inside; the meter wants to be told of the backend's events.

        Args:
            work: The attempt.
            bill: The request's, where its cost is put down.
            recorder: The request's event log.

        Raises:
            CarError: ``overloaded``, ``spend_limit_exceeded`` or ``io_error`` before anything
                happens.
        """
        async with self._admission.permit(work.model, work.workload) as permit:
            reservation = await self._spending.reserve(
                work.model, work.expected, bill, self._time_ms(work), work.afford, recorder
            )

            async def afford(so_far: Reservation, tokens: int) -> Reservation:
                return await self._spending.extend(work.model, so_far, tokens, bill)

            may_grow = work.is_open_ended and reservation is not None
            meter = Meter(self._clock, permit, reservation, afford if may_grow else None)
            outcome, is_the_models = SUCCESS, True
            try:
                yield meter
            except BaseException as error:
                outcome = self._kind(error, work, meter)
                # Where another key is tried next, this one failed and not the model.
                is_the_models = "another_key" not in getattr(error, "extra", ())
                raise
            finally:
                ended = Ended(outcome, meter.tokens, meter.streamed)
                cost = self._spending.cost(work.model, meter.reservation, ended)
                if is_the_models:
                    self._outcomes.attempt_ended(_end(work, meter, outcome, cost))
                if meter.usage:
                    recorder.aside("usage", **meter.usage)
                await self._spending.settle(meter.reservation, cost, bill, recorder)

    def _time_ms(self, work: Work) -> float | None:
        return None if work.deadline_ms is None else work.deadline_ms - self._clock.now_ms()

    def _kind(self, error: BaseException, work: Work, meter: Meter) -> str:
        if isinstance(error, CarError):
            return error.kind
        if not isinstance(error, asyncio.CancelledError):
            return "internal"
        # A model that used up all the time has failed.
        left_ms = self._time_ms(work)
        is_late = left_ms is not None and left_ms <= 0 and meter.model_is_due
        return "timeout" if is_late else "cancelled"


class NothingLearned:
    """Outcomes that nobody keeps, for an engine without a state directory."""

    def attempt_ended(self, end: AttemptEnd) -> None:
        """Forget it."""

    def implied(self, sign: Sign) -> None:
        """Forget it."""


def _end(work: Work, meter: Meter, outcome: str, cost: int | None) -> AttemptEnd:
    return AttemptEnd(
        trace_id=work.trace_id,
        attempt=work.attempt,
        model_id=work.model.id,
        task=work.task,
        outcome=outcome,
        latency_ms=meter.latency_ms,
        ttft_ms=meter.ttft_ms,
        input_tokens=meter.count("prompt_tokens"),
        output_tokens=meter.count("completion_tokens"),
        cost_nano_usd=cost,
    )
