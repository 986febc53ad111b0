"""Attempts on models whose answer comes whole: vectors, scores, a transcript.

The same loop as that of streams (:mod:`car_rpc.engine.attempts`), with nothing to be saved in
between: retry on the same model while that is soon, then the next candidate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from msgspec import UNSET

from car_rpc.engine.attempts import FINAL, Parts
from car_rpc.engine.metering import Meter, Work
from car_rpc.engine.patience import Patience
from car_rpc.engine.policing import Guard
from car_rpc.engine.recording import Recorder
from car_rpc.engine.spending import Bill
from car_rpc.errors import CarError
from car_rpc.spend.prices import Tokens
from car_rpc.wire.events import Attempt
from car_rpc.wire.models import ModelSchema

T = TypeVar("T")

#: Asks one model, and is told whether no other one is left.
Ask: TypeAlias = Callable[[ModelSchema, bool], Awaitable[T]]

_UNKNOWN = Tokens(0, 0)


class Whole:
    """The attempts of one request.

    Args:
        parts: The engine.
        recorder: Its event log.
        guard: The policies over it.
        task: What models are asked for, as their profiles call it.
    """

    def __init__(self, parts: Parts, recorder: Recorder, guard: Guard, task: str) -> None:
        self._parts = parts
        self._recorder = recorder
        self._guard = guard
        self._task = task
        self._patience = Patience("resume", parts.retry_policy)
        self._bill = Bill()
        self._attempts = 0
        self._reason = ""

    async def first(self, candidates: Sequence[ModelSchema], ask: Ask[T]) -> T:
        """The answer of the first of at least one candidates that gives one.

        None is asked before the log holds the request and how it was routed.

        Raises:
            CarError: How the last one failed that was asked at all; ``io_error`` of the log.
        """
        await self._recorder.written()
        failure: CarError | None = None
        for position, model in enumerate(candidates):
            is_last = position == len(candidates) - 1
            try:
                await self._guard.admit(model)
                return await ask(model, is_last)
            except CarError as error:
                if error.kind == "all_models_unavailable":  # it was not even asked
                    continue
                failure = error.with_data(model=model.id)
                if failure.kind in FINAL:
                    break
                if not is_last:
                    self._recorder.note("fallback", model=model.id, kind=error.kind)
                    self._reason = f"fallback: {error.kind}"
        raise failure or self._parts.breakers.unavailable(
            [model.id for model in candidates], self._parts.clock.now_ms()
        )

    async def answer(
        self,
        model: ModelSchema,
        work: Callable[[Meter], Awaitable[T]],
        expected: Tokens = _UNKNOWN,
        *,
        is_last: bool,
    ) -> T:
        """Ask one model until it has answered or there is no point any more.

        Args:
            model: The model.
            work: Asks it once; the meter wants to be told of the tokens.
            expected: The tokens that it may take.
            is_last: Whether no other model is left.

        Raises:
            CarError: How the last attempt failed; ``all_models_unavailable`` when the model's
                circuit breaker lets none through.
        """
        breaker, clock = self._parts.breakers.of(model.id), self._parts.clock
        failure = self._parts.breakers.unavailable([model.id], clock.now_ms())
        retries = 0
        while (permit := breaker.admit(clock.now_ms())) is not None:
            try:
                result = await self._attempt(model, work, expected)
            except CarError as error:
                permit.failed(error, clock.now_ms())
                failure = error
            except BaseException:
                permit.failed(CarError("cancelled"), clock.now_ms())
                raise
            else:
                permit.succeeded()
                return result
            if self._patience.changes_key(failure, self._attempts):
                self._reason = f"another key: {failure.kind}"
                continue
            delay_ms = self._patience.delay_ms(failure, retries, is_last=is_last)
            self._reason = f"retry: {failure.kind}"
            await clock.sleep_ms(delay_ms)
            retries += 1
        raise failure

    async def _attempt(
        self, model: ModelSchema, work: Callable[[Meter], Awaitable[T]], expected: Tokens
    ) -> T:
        self._attempts += 1
        trace_id = self._recorder.trace_id
        self._recorder.attempt(
            Attempt(
                attempt=self._attempts,
                trace_id=trace_id,
                model=model.id,
                reason=self._reason or UNSET,
            )
        )
        metered = Work(model, self._task, trace_id, expected, self._attempts)
        metering = self._parts.metering
        async with self._guard.metered(metering, metered, self._bill, self._recorder) as meter:
            return await work(meter)
