"""What the log tells of a request besides its deltas. The fixture checks that stories are good."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from car_rpc.engine.breaker import BreakerPolicy
from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.ports import GenerateCall
from car_rpc.errors import CarError
from car_rpc.wire.events import (
    ContentBlockStop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    UsageEvent,
)

CALL = [
    ToolCallStart(index=0, id="c1", name="look"),
    ToolCallDelta(index=0, id="c1", arguments_delta='{"at": "the sky"}'),
    ContentBlockStop(index=0),
]


def of(world: Any, event_type: str) -> list[Any]:
    return [entry.data for entry in world.sink.entries if entry.type == event_type]


async def test_each_tool_call_of_the_answer_is_an_event(world: Any, play: Any) -> None:
    world.backend.play = play(*CALL)
    result = await world.generate()
    assert of(world, "tool_call") == [{"call": call} for call in result.tool_calls]
    assert result.tool_calls[0].arguments == {"at": "the sky"}


async def test_of_a_private_tool_call_only_its_size_is_kept(world: Any, play: Any) -> None:
    world.backend.play = play(*CALL)
    await world.generate(privacy="metadata")
    assert [*of(world, "tool_call")[0]["call"]] == ["bytes"]
    assert "the sky" not in str(world.sink.entries)


async def test_the_first_token_and_the_usage_are_told_also_without_content(world: Any) -> None:
    async def tell(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        world.clock.advance(30)
        yield TextDelta(text="hi")
        world.clock.advance(70)
        yield TextDelta(text=" there")
        yield UsageEvent(prompt_tokens=4, completion_tokens=2)

    world.backend.play = tell
    await world.generate(privacy="metadata")
    assert of(world, "first_token") == [{"after_ms": 30.0}]
    assert of(world, "usage") == [{"prompt_tokens": 4, "completion_tokens": 2}]


async def test_a_later_attempt_says_why(world: Any) -> None:
    async def fail_once(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        if call.attempt == 1:
            raise CarError("overloaded")
        yield TextDelta(text="hi")

    world.backend.play = fail_once
    await world.generate()
    assert [data.get("reason") for data in of(world, "attempt")] == [None, "retry: overloaded"]


async def test_a_breaker_that_changes_is_told_by_the_request_that_changed_it(world: Any) -> None:
    policy = BreakerPolicy(failure_threshold=2, cooldown_ms=600_000)
    world.engine = Engine(
        world.registry, lambda _: world.backend, world.sink, world.clock, world.ids,
        breaker_policy=policy,
    )  # fmt: skip
    works = False

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        if not works:
            raise CarError("provider_error", "down", status=500)
        yield TextDelta(text="hi")

    world.backend.play = play
    await world.failure(model="test/one:a")
    works = True
    world.listener.last.clear()
    world.clock.advance(600_000)
    await world.generate(model="test/one:a")
    told = [e for e in world.sink.entries if e.type == "breaker"]
    assert [(e.data["state"], e.trace_id) for e in told] == [
        ("open", "tr_1"),
        ("half_open", "tr_2"),
        ("closed", "tr_2"),
    ]


@pytest.mark.parametrize("method", ["generate", "models.register"])
async def test_a_cancel_is_told_when_it_is_wanted_and_when_the_work_has_stopped(
    world: Any, method: str
) -> None:
    begun, stop = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await stop.wait()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="hi")
        await wait()

    world.backend.play = play
    work = (
        world.generate()
        if method == "generate"
        else world.engine.recorded(Origin(7, method, b"{}"), wait)
    )
    task = asyncio.ensure_future(work)
    async with asyncio.timeout(5):
        await begun.wait()
        world.engine.cancel_requested(8)  # another one
        world.engine.cancel_requested(7)
        task.cancel()
        await asyncio.sleep(0)
        assert of(world, "cancel_requested") == [{}]
        assert of(world, "cancel_observed") == []
        stop.set()
        with pytest.raises(CarError) as caught:
            await task
    assert caught.value.kind == "cancelled"
    assert world.sink.types[-2:] == ["cancel_observed", "completion"] or method == "generate"
    assert of(world, "cancel_observed") == [{}]
    world.engine.cancel_requested(7)  # too late
    assert len(of(world, "cancel_requested")) == 1
