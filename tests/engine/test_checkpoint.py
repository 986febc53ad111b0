"""A request whose process died is gone on with from what the event log holds of it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from car_rpc.engine.ports import GenerateCall
from car_rpc.errors import CarError
from car_rpc.wire.events import (
    Attempt,
    ReasoningDelta,
    Recovery,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)

BEGUN = "Once upon a time there was a clever bird"


async def die_after(world: Any, *events: StreamEvent, **fields: Any) -> str:
    """Runs a request up to these events; then the process is gone, and the log stays."""
    reached = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        for event in events:
            yield event
        reached.set()
        await asyncio.Event().wait()

    world.backend.play = play
    task = asyncio.ensure_future(world.generate(**fields))
    await reached.wait()
    task.cancel()
    with pytest.raises(CarError):
        await task
    (trace_id,) = {entry.trace_id for entry in world.sink.entries if entry.trace_id}
    world.sink.entries = [e for e in world.sink.entries if e.type != "completion"]
    world.sink.committed = len(world.sink.entries)
    world.listener.last.clear()
    world.listener.events.clear()
    world.backend.calls.clear()
    return str(trace_id)


async def resume(world: Any, trace_id: str, **fields: Any) -> Any:
    from car_rpc.engine.generation import Origin
    from car_rpc.wire.inference import GenerateRequest

    raw = msgspec.json.encode({"resume_trace_id": trace_id, **fields})
    request = msgspec.json.decode(raw, type=GenerateRequest)
    request, raw, checkpoint = await world.engine.resumed(request, raw)
    origin = Origin(8, "generate", raw)
    return await world.engine.generate(request, origin, world.listener, checkpoint)


async def test_the_text_is_shown_again_and_goes_on(world: Any, play: Any) -> None:
    trace_id = await die_after(world, TextDelta(text=BEGUN), params={"temperature": 0})
    world.backend.play = play(TextDelta(text=" named Kira."))

    result = await resume(world, trace_id)

    assert result.text == f"{BEGUN} named Kira."
    attempt, text, recovery, more, _ = world.listener.events
    assert isinstance(attempt, Attempt)
    assert text == TextDelta(text=BEGUN)
    assert isinstance(recovery, Recovery)
    assert recovery.cause == "resumed_from_checkpoint"
    assert more == TextDelta(text=" named Kira.")
    asked = msgspec.json.decode(world.backend.calls[0].raw_request)
    assert asked["params"] == {"temperature": 0}
    assert asked["messages"][1] == {"role": "assistant", "content": BEGUN}
    assert "resume_trace_id" not in asked


async def test_a_backend_that_can_gets_the_beginning_itself(world: Any, play: Any) -> None:
    trace_id = await die_after(world, ReasoningDelta(text="hm"), TextDelta(text="One"))
    world.backend.continues = True
    world.backend.play = play(TextDelta(text=" two"))

    assert (await resume(world, trace_id)).text == "One two"
    assert world.backend.calls[0].continuation == ("One", "hm", 0)


async def test_whole_tool_calls_are_the_answer_without_a_request(world: Any) -> None:
    trace_id = await die_after(
        world,
        ToolCallStart(index=0, id="c", name="look"),
        ToolCallDelta(index=0, id="c", arguments_delta='{"q": 1}'),
    )

    result = await resume(world, trace_id)

    assert [call.arguments for call in result.tool_calls] == [{"q": 1}]
    assert result.stop_reason == "tool_use"
    assert world.backend.calls == []


async def test_a_request_that_had_nothing_yet_starts_from_the_beginning(
    world: Any, play: Any
) -> None:
    trace_id = await die_after(world)
    world.backend.play = play(TextDelta(text="all"))

    assert (await resume(world, trace_id)).text == "all"


async def test_what_is_asked_now_wins_over_what_was_asked_then(world: Any, play: Any) -> None:
    trace_id = await die_after(world, TextDelta(text=BEGUN), params={"temperature": 0})
    world.backend.play = play(TextDelta(text="."))

    await resume(world, trace_id, params={"temperature": 1})

    asked = msgspec.json.decode(world.backend.calls[0].raw_request)
    assert asked["params"] == {"temperature": 1}


async def test_a_resumed_request_can_be_resumed(world: Any, play: Any) -> None:
    first = await die_after(world, TextDelta(text=BEGUN))
    reached = asyncio.Event()

    async def die_again(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text=" named")
        reached.set()
        await asyncio.Event().wait()

    world.backend.play = die_again
    task = asyncio.ensure_future(resume(world, first))
    await reached.wait()
    task.cancel()
    with pytest.raises(CarError) as cancelled:
        await task
    world.listener.last.clear()
    second = cancelled.value.data["trace_id"]
    world.backend.play = play(TextDelta(text=" Kira."))

    assert (await resume(world, second)).text == f"{BEGUN} named Kira."


async def test_a_request_that_has_its_result_is_not_resumed(world: Any, play: Any) -> None:
    world.backend.play = play(TextDelta(text="x"))
    result = await world.generate()
    world.listener.last.clear()

    with pytest.raises(CarError) as caught:
        await resume(world, result.trace_id)
    assert caught.value.kind == "conflict"


async def test_an_unknown_trace_is_not_found(world: Any) -> None:
    with pytest.raises(CarError) as caught:
        await resume(world, "tr_none")
    assert caught.value.kind == "not_found"


async def test_of_metadata_nothing_can_be_resumed(world: Any) -> None:
    trace_id = await die_after(world, TextDelta(text=BEGUN), privacy="metadata")

    with pytest.raises(CarError) as caught:
        await resume(world, trace_id)
    assert caught.value.kind == "not_replayable"


async def test_a_request_that_still_runs_is_not_resumed(world: Any) -> None:
    reached = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text=BEGUN)
        reached.set()
        await asyncio.Event().wait()

    world.backend.play = play
    task = asyncio.ensure_future(world.generate())
    await reached.wait()

    with pytest.raises(CarError) as caught:
        await resume(world, "tr_1")
    assert caught.value.kind == "conflict"
    task.cancel()
    with pytest.raises(CarError):
        await task


async def test_all_that_was_asked_then_holds_but_for_what_is_the_requests_own(
    world: Any, play: Any
) -> None:
    trace_id = await die_after(
        world, TextDelta(text=BEGUN), timeout_ms=5000, conversation_id="talk", client_ref="old"
    )
    world.backend.play = play(TextDelta(text="."))

    result = await resume(world, trace_id)

    assert world.backend.calls[0].deadline_ms == 5000
    assert world.sink.entries[-1].conversation_id == "talk"
    assert result.client_ref is msgspec.UNSET
