"""What every backend must do, so that the engine can treat them all alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from car_rpc.engine.ports import Backend, GenerateCall, Recording
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.testing.doubles import scripted_call
from car_rpc.wire.events import Attempt, ErrorEvent, Recovery, StreamEvent, StreamReset, TextDelta
from car_rpc.wire.models import ModelSchema

#: How long any one step may take, in seconds; a healthy backend needs a fraction of it.
STEP_TIMEOUT_S = 30.0

#: Requests at once.
CONCURRENT = 4


async def check_backend(
    backend: Backend, model: ModelSchema, endless: ModelSchema | None = None, **request: Any
) -> None:
    """Put a backend through everything that the engine relies on.

    Args:
        backend: The backend.
        model: A model that answers the request with some text and then ends.
        endless: A model that goes on until it is stopped; ``model`` itself when ``None``.
        request: Fields of the ``generate`` requests that are sent.

    Raises:
        AssertionError: It broke a rule; the text says which.
        TimeoutError: A step did not end.
    """
    call = scripted_call(model, **request)
    await _availability_is_told_at_once(backend, model)
    text = await _a_stream_is_well_formed_and_ends(backend, call)
    _check(bool(text), "the model must answer with some text, or nothing is proved")
    await _requests_run_side_by_side(backend, call)
    await _closing_stops_the_work(backend, scripted_call(endless or model, **request))
    await _cancelling_stops_the_work(backend, scripted_call(endless or model, **request))
    await _a_stream_is_well_formed_and_ends(backend, call)  # nothing of that has hurt it
    await _failures_are_car_errors(backend, model)


def _check(condition: bool, rule: str) -> None:
    if not condition:
        raise AssertionError(rule)


async def _availability_is_told_at_once(backend: Backend, model: ModelSchema) -> None:
    first = backend.availability(model)
    _check(first.available, "the model must be available for this suite")
    _check(first == backend.availability(model), "looking at a model must change nothing")


async def _collect(events: AsyncGenerator[StreamEvent, None]) -> tuple[Accumulator, str]:
    accumulator, text = Accumulator(), ""
    async with asyncio.timeout(STEP_TIMEOUT_S), aclosing(events):
        async for event in events:
            _check(
                not isinstance(event, Attempt | Recovery | StreamReset | ErrorEvent),
                f"{type(event).__name__} is the engine's to send; a failure is raised",
            )
            passed_on = accumulator.push(event)
            text += "".join(event.text for event in passed_on if isinstance(event, TextDelta))
    return accumulator, text


async def _a_stream_is_well_formed_and_ends(backend: Backend, call: GenerateCall) -> str:
    accumulator, text = await _collect(backend.generate(call))
    _check(text == accumulator.text, "the deltas must add up to the text")
    return text


async def _requests_run_side_by_side(backend: Backend, call: GenerateCall) -> None:
    answers = await asyncio.gather(
        *(_a_stream_is_well_formed_and_ends(backend, call) for _ in range(CONCURRENT))
    )
    _check(all(answers), "every one of several requests must get its answer")


async def _closing_stops_the_work(backend: Backend, call: GenerateCall) -> None:
    events = backend.generate(call)
    async with asyncio.timeout(STEP_TIMEOUT_S):
        await anext(events)
        await events.aclose()
    _check(await anext(events, None) is None, "a closed stream must have no more events")


async def _cancelling_stops_the_work(backend: Backend, call: GenerateCall) -> None:
    started = asyncio.Event()

    async def consume() -> None:
        async with aclosing(backend.generate(call)) as events:
            async for _ in events:
                started.set()

    task = asyncio.create_task(consume())
    async with asyncio.timeout(STEP_TIMEOUT_S):
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
    # A stream that had ended by itself when the cancel came has won the race.
    _check(task.cancelled() or task.exception() is None, "a cancel must come out as it went in")


async def _failures_are_car_errors(backend: Backend, model: ModelSchema) -> None:
    recording = Recording(audio=b"", path="", language=None, prompt=None, timestamps=False)
    for work in (
        partial(backend.embed, model, ["a"]),
        partial(backend.tokenize, model, "a"),
        partial(backend.transcribe, model, recording),
    ):
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await work()
        except CarError as error:
            _check(bool(error.detail), "a refusal must say why")
