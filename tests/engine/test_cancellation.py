"""Wherever a request is cancelled, it ends once, leaves nothing behind and frees its place."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from car_rpc.engine.ports import GenerateCall
from car_rpc.errors import CarError
from car_rpc.eventlog.recorded import recorded
from car_rpc.testing import scripted_model
from car_rpc.wire.events import (
    Attempt,
    Done,
    ErrorEvent,
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)

TEXT = [TextDelta(text="The quick brown fox jumps over "), TextDelta(text="the lazy dog")]
CALL = [
    ToolCallStart(index=0, id="c", name="f"),
    ToolCallDelta(index=0, id="c", arguments_delta='{"a"'),
]
BUSY = CarError("provider_error", "connection reset")
REFUSED = CarError("unauthorized", "no")

Scripts = list[list[StreamEvent | CarError]]

#: What each attempt gets, and what the request asks for.
STORIES: dict[str, tuple[Scripts, dict[str, Any]]] = {
    "an-answer": ([[*TEXT, Stop(reason="end_turn")]], {}),
    "a-retry": ([[BUSY], [BUSY], [*TEXT]], {}),
    "a-fallback": ([[REFUSED], [*TEXT]], {}),
    "no-model-left": ([[REFUSED], [REFUSED]], {}),
    "a-continuation": ([[*TEXT, BUSY], [TEXT[1], TextDelta(text=".")]], {}),
    "a-call-cut": ([[*TEXT, *CALL, BUSY], [TextDelta(text=".")]], {}),
    "calls-kept": ([[*CALL, ToolCallDelta(index=0, id="c", arguments_delta=":1}"), BUSY]], {}),
    "a-restart": ([[*CALL, BUSY], [BUSY], [*TEXT]], {}),
    "given-up": ([[*TEXT, BUSY]], {}),
    "an-extension": (
        [[*TEXT, Stop(reason="max_tokens")], [TextDelta(text="!"), BUSY], [TextDelta(text="?")]],
        {"max_tokens_continuations": 2},
    ),
    "no-more-thinking": (
        [[ReasoningDelta(text="hm"), Stop(reason="thinking_truncated")], [BUSY], [*TEXT]],
        {"thinking_recovery": True},
    ),
}


@pytest.fixture
def told(world: Any, request: pytest.FixtureRequest) -> Any:
    """A world of two models, the first of which is on probation, and a story to live through."""
    scripts, asked = STORIES[request.param]
    world.registry.register(scripted_model("test/three:a", []))

    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        for event in scripts[min(call.attempt, len(scripts)) - 1]:
            await asyncio.sleep(0)
            if isinstance(event, CarError):
                raise event
            yield event

    world.backend.play = play
    world.asked = asked
    return world


def put_on_probation(world: Any) -> None:
    breaker = world.engine.breakers.of("test/one:a")
    if breaker.state != "open":
        world.clock.advance(60_000)
    while breaker.state != "open":
        breaker.admit(world.clock.now_ms()).failed(BUSY, world.clock.now_ms())
    world.clock.advance(30_000)


def start_afresh(world: Any) -> None:
    world.listener.last.clear()
    world.listener.events.clear()
    world.sink.entries.clear()
    world.backend.calls.clear()
    world.sink.committed = world.backend.closed = 0
    put_on_probation(world)


@pytest.mark.parametrize("told", STORIES, indirect=True)
async def test_a_cancel_at_every_step_ends_the_request_once_and_leaves_nothing(told: Any) -> None:
    tasks_before = asyncio.all_tasks()
    ends: set[str] = set()
    for steps in range(1, 1000):
        start_afresh(told)
        task = asyncio.ensure_future(told.generate(**told.asked))
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        ends.add(await how_it_ended(told, task))
        assert asyncio.all_tasks() == tasks_before
    assert "cancelled" in ends
    await asyncio.gather(task, return_exceptions=True)


async def how_it_ended(world: Any, task: "asyncio.Task[Any]") -> str:
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    (last,) = world.listener.last
    kind = "done"
    if isinstance(outcome, CarError):
        kind = outcome.kind
        assert isinstance(last, ErrorEvent)
        assert last.kind == kind
    else:
        assert isinstance(last, Done)
        assert (last.text, last.tool_calls) == (outcome.text, outcome.tool_calls)
    assert world.sink.committed_types.count("completion") == 1
    assert world.sink.types[-1] == "completion"
    assert world.backend.closed == len(world.backend.calls), "every attempt was closed"
    told = [event.attempt for event in world.listener.events if isinstance(event, Attempt)]
    assert told == [*range(1, len(told) + 1)]
    await assert_the_log_has_what_was_told(world, outcome)
    now_ms = world.clock.now_ms()
    for model in ("test/one:a", "test/three:a"):
        breaker = world.engine.breakers.of(model)
        assert breaker.state == "open" or breaker.available(now_ms), "the place of a probe is free"
    return kind


async def assert_the_log_has_what_was_told(world: Any, outcome: Any) -> None:
    trace_id = world.sink.entries[0].trace_id
    found = recorded(trace_id, await world.sink.story(trace_id))
    told = [*world.listener.events, *world.listener.last]
    encode = msgspec.json.encode
    assert [encode(each.event) for each in found.events] == [encode(each) for each in told]
    result, error = found.answered()
    if isinstance(outcome, CarError):
        outcome = {"code": outcome.code, "message": outcome.message, "data": outcome.data}
    assert encode(error or result) == encode(outcome)
