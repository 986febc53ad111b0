"""What the event log gets of an answer, by privacy level."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from car_rpc.engine.generation import Origin
from car_rpc.engine.interruption import interrupted
from car_rpc.engine.ports import GenerateCall
from car_rpc.engine.privacy import Privacy
from car_rpc.engine.recording import DELTA_WAIT_S, Recorder
from car_rpc.errors import CarError
from car_rpc.eventlog.shapes import Secrets
from car_rpc.eventlog.writer import FLUSH_S
from car_rpc.wire.events import (
    ProviderOutputItem,
    Recovery,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)
from tests.engine.test_checkpoint import die_after, resume

# Put together here, so that no scanner takes this file for a leak.
KEY = "sk-" + "proj-Ab3dEf6hIj9lMn2pQr5t"
REDACTED = "[redacted:api_key]"
STORY = "Once upon a time there was a clever bird that had a key: "


def rows(world: Any) -> list[dict[str, Any]]:
    return [entry.data for entry in world.sink.entries if entry.type == "deltas"]


def logged_text(world: Any) -> str:
    events = [event for row in rows(world) for event in row["events"]]
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_a_split_secret_reaches_the_client_at_once_and_the_log_never(
    world: Any, play: Any
) -> None:
    pieces = ["use ", "sk-pr", "oj-Ab3dEf6hIj9", "lMn2pQr5t", " now"]
    shown: list[str] = []

    async def tell(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        for piece in pieces:
            yield TextDelta(text=piece)
            await asyncio.sleep(0)
            shown.append(world.listener.events[-1].text)

    world.backend.play = tell
    result = await world.generate()

    assert shown == pieces
    assert result.text == f"use {KEY} now"
    events = [event for row in rows(world) for event in row["events"]]
    assert [event.text for event in events[:-1]] == ["use ", REDACTED, "", "", " now"]
    (flagged,) = [row for row in rows(world) if TextDelta(text=REDACTED) in row["events"]]
    assert flagged["redacted"] is True


async def test_rows_in_which_nothing_was_replaced_say_nothing_of_it(world: Any, play: Any) -> None:
    world.backend.play = play(TextDelta(text="the ris"), TextDelta(text="k-assessment-of-it-all"))
    await world.generate()
    assert "redacted" not in rows(world)[0]
    assert logged_text(world) == "the risk-assessment-of-it-all"


@pytest.mark.parametrize("shown", [0, 1, 3, 9, 20, len(KEY) - 1])
async def test_a_secret_that_a_broken_stream_splits_is_not_in_the_log(
    world: Any, shown: int
) -> None:
    text = f"{STORY}{KEY} and more"
    place = len(STORY) + shown

    async def break_once(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        if len(world.backend.calls) == 1:
            yield TextDelta(text=text[:place])
            raise interrupted("connection_reset")
        yield TextDelta(text=text[place:])

    world.backend.play = break_once
    world.backend.continues = True
    result = await world.generate()

    assert result.text == text
    assert KEY[3:] not in logged_text(world)
    assert logged_text(world).endswith(" and more")
    order = [e.type for e in world.sink.entries if e.type in ("deltas", "attempt")]
    assert order[:3] == ["attempt", "deltas", "attempt"]


async def test_a_request_goes_on_from_redacted_rows(world: Any, play: Any) -> None:
    trace_id = await die_after(
        world, TextDelta(text=STORY), TextDelta(text=KEY[:9]), TextDelta(text=KEY[9:] + ", yes")
    )
    world.backend.continues = True
    world.backend.play = play(TextDelta(text=" indeed."))

    result = await resume(world, trace_id)

    assert result.text == f"{STORY}{REDACTED}, yes indeed."
    assert any(isinstance(event, Recovery) for event in world.listener.events)


async def test_whole_tool_calls_of_redacted_rows_are_complete(world: Any) -> None:
    arguments = f'{{"key": "{KEY}"}}'
    trace_id = await die_after(
        world,
        TextDelta(text="I look s"),  # which may begin a secret, and the call does not wait for it
        ToolCallStart(index=0, id="c", name="look"),
        ToolCallDelta(index=0, id="c", arguments_delta=arguments[:15]),
        ToolCallDelta(index=0, id="c", arguments_delta=arguments[15:]),
    )

    result = await resume(world, trace_id)

    assert [call.arguments for call in result.tool_calls] == [{"key": REDACTED}]


async def test_configured_patterns_are_replaced_in_answers(world: Any, play: Any) -> None:
    world.sink.secrets = Secrets(patterns=[re.compile(r"ACME-\d+")])
    world.engine._privacy = Privacy(secrets=world.sink.secrets)
    world.backend.play = play(TextDelta(text="it is ACM"), TextDelta(text="E-12, no"))
    await world.generate()
    assert logged_text(world) == "it is [redacted:pattern], no"


async def test_full_keeps_what_was_said_and_no_key_of_an_error(world: Any, play: Any) -> None:
    world.backend.play = play(TextDelta(text=KEY[:9]), TextDelta(text=KEY[9:]))
    await world.generate(privacy="full", prompt=KEY)
    assert logged_text(world) == KEY
    assert {entry.search for entry in world.sink.entries if entry.trace_id} == {"names"}

    world.listener.last.clear()
    world.sink.entries.clear()
    await world.failure(privacy="full", model="test/nobody:a")
    assert world.sink.entries[-1].search == "all"


async def test_events_were_searched_for_names_too_before_the_log_gets_them(
    world: Any, play: Any
) -> None:
    item = ProviderOutputItem(item={"api_key": "plain words", "note": KEY})
    world.backend.play = play(TextDelta(text="x"), item, TextDelta(text="y"))
    await world.generate()
    (row,) = [entry for entry in world.sink.entries if entry.type == "deltas"]
    assert row.search == "nowhere"
    (_, logged, *_) = msgspec.to_builtins(row.data["events"])
    assert logged["item"] == {"api_key": "***", "note": REDACTED}


async def test_metadata_are_sizes_and_hashes_that_only_the_process_can_compare(
    world: Any, play: Any
) -> None:
    world.backend.play = play(TextDelta(text="x"))

    async def hashed(salt: bytes | None) -> dict[str, Any]:
        world.sink.entries.clear()
        world.listener.last.clear()
        world.engine._privacy = Privacy(level="metadata", salt=salt)
        await world.generate()
        assert "hi" not in str(world.sink.entries[0].data["params"])
        return dict(world.sink.entries[0].data["params"])

    one, again, other = [await hashed(salt) for salt in (b"a" * 32, b"a" * 32, b"b" * 32)]
    assert one == again
    assert one["bytes"] == other["bytes"] == len(msgspec.json.encode({"prompt": "hi"}))
    assert one["hash"] != other["hash"]
    assert len(one["hash"]) == 32
    assert await hashed(None) == {"bytes": one["bytes"]}


async def test_what_a_request_wants_goes_before_what_the_process_keeps(
    world: Any, play: Any
) -> None:
    world.backend.play = play(TextDelta(text="x"))
    world.engine._privacy = Privacy(level="metadata")
    await world.generate(privacy="redacted")
    assert logged_text(world) == "x"

    await world.engine.refused(Origin(1, "generate", b"{}"), CarError("internal"))
    assert "bytes" in world.sink.entries[-2].data["params"]


async def test_nothing_comes_after_the_end_also_while_it_is_being_written(
    world: Any, play: Any
) -> None:
    commit = world.sink.commit

    async def commit_and_cancel(*entries: Any) -> None:
        await commit(*entries)
        if entries:
            world.engine.cancel_requested(7)

    world.sink.commit = commit_and_cancel
    world.backend.play = play(TextDelta(text="x"))
    await world.generate()
    assert world.sink.types[-1] == "completion"


def test_a_delta_waits_for_others_so_briefly_that_it_is_on_the_disk_within_100_ms() -> None:
    transaction_s = 0.02  # what is left for it
    assert DELTA_WAIT_S + FLUSH_S + transaction_s < 0.1


async def test_deltas_of_all_requests_go_to_the_log_at_the_same_moments(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    moments = iter([10.1 * DELTA_WAIT_S, 10.9 * DELTA_WAIT_S, 11.1 * DELTA_WAIT_S])
    planned: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: next(moments))
        patch.setattr(loop, "call_at", lambda when, _: planned.append(when))
        for _ in range(3):
            recorder = Recorder(world.sink, world.clock, "t", privacy=Privacy("full"))
            recorder.delta(TextDelta(text="x"))
    assert planned == pytest.approx([11 * DELTA_WAIT_S, 11 * DELTA_WAIT_S, 12 * DELTA_WAIT_S])


async def test_deltas_go_to_the_log_without_anything_after_them(world: Any) -> None:
    begun, stop = asyncio.Event(), asyncio.Event()

    async def tell(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="and then silence")
        begun.set()
        await stop.wait()

    world.backend.play = tell
    task = asyncio.ensure_future(world.generate())
    async with asyncio.timeout(10):
        await begun.wait()
        while not rows(world):  # noqa: ASYNC110 - the log of the test has no event to wait for
            await asyncio.sleep(0.001)
        assert logged_text(world) == "and then silence"
        stop.set()
        await task
