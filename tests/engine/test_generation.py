import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from car_rpc.engine.arguments import MAX_ARGUMENTS_DEPTH
from car_rpc.engine.generation import Origin
from car_rpc.engine.ports import GenerateCall
from car_rpc.engine.recording import MAX_EVENTS_PER_ROW
from car_rpc.errors import CarError
from car_rpc.protocol.depth import deeper_than
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
    UsageEvent,
)
from car_rpc.wire.inference import GenerateRequest, TokenLogprob

STORY = ["request", "route", "attempt", "first_token", "usage", "deltas", "completion"]
HELLO = [TextDelta(text="hel"), TextDelta(text="lo"), UsageEvent(prompt_tokens=2)]


async def test_an_answer_is_its_deltas_and_ends_with_one_done(world: Any, play: Any) -> None:
    world.backend.play = play(*HELLO, Stop(reason="max_tokens"))
    result = await world.generate(client_ref="mine")
    assert (result.text, result.model_used, result.trace_id) == ("hello", "test/one:a", "tr_1")
    assert (result.stop_reason, result.client_ref) == ("max_tokens", "mine")
    assert result.usage is not None
    assert result.usage.prompt_tokens == 2
    assert world.listener.events == [
        Attempt(attempt=1, trace_id="tr_1", model="test/one:a"),
        *HELLO,
        Stop(reason="max_tokens"),
    ]
    assert world.listener.last == [Done(text="hello")]
    assert world.backend.closed == 1


async def test_how_likely_the_tokens_were_is_a_part_of_the_result_alone(world: Any) -> None:
    told = [TokenLogprob(token=text, logprob=-1.0, bytes=[], top_logprobs=[]) for text in "ab"]

    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        for each in told:
            call.hear_logprobs([each])
            yield TextDelta(text=each.token)

    world.backend.play = play
    assert (await world.generate()).logprobs == told
    types = [type(event) for event in world.listener.events]
    assert types == [Attempt, TextDelta, TextDelta, Stop]


@pytest.mark.parametrize(
    ("capabilities", "text", "labels"),
    [
        (["generate", "grounding"], '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]', ["cat"]),
        (["generate", "grounding"], "There is no cat.", None),
        (["generate", "vision"], '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]', None),
    ],
)
async def test_boxes_are_read_from_the_answer_of_a_model_that_grounds(
    world: Any, play: Any, capabilities: Any, text: str, labels: list[str] | None
) -> None:
    world.registry.register(scripted_model("me/eye:1", [], capabilities))
    world.backend.play = play(TextDelta(text=text))
    result = await world.generate(model="me/eye:1")
    assert result.text == text
    boxes = result.bounding_boxes
    assert (None if boxes is msgspec.UNSET else [box.label for box in boxes]) == labels


async def test_the_log_tells_the_story_in_order_and_each_part_is_safe_in_time(
    world: Any, play: Any
) -> None:
    world.backend.play = play(*HELLO)
    result = await world.generate(conversation_id="talk")
    assert world.sink.types == STORY
    assert world.backend.story_at_call == ["request", "route"]
    assert world.listener.story_at_end == world.sink.types
    told = [entry for entry in world.sink.entries if entry.trace_id]
    request, route, attempt, first_token, usage, deltas, completion = told
    assert first_token.data == {"after_ms": 0.0}
    assert usage.data == {"prompt_tokens": 2}
    assert request.data["params"] == msgspec.Raw(b'{"prompt":"hi","conversation_id":"talk"}')
    assert (request.data["request_id"], request.data["method"]) == (7, "generate")
    assert (route.data["model"], route.data["fallbacks"]) == ("test/one:a", [])
    assert route.data["reason"] == "the only candidate for generate"
    assert (request.attempt, attempt.attempt, deltas.attempt) == (None, 1, 1)
    assert deltas.data["events"] == [*HELLO, Stop(reason="end_turn")]
    assert completion.data == {"outcome": "success", "result": result}
    assert {entry.trace_id for entry in told} == {"tr_1"}
    assert {entry.conversation_id for entry in told} == {"talk"}


async def test_the_backend_gets_the_clients_own_json_and_the_time_limit(
    world: Any, play: Any
) -> None:
    world.backend.play = play(TextDelta(text="x"))
    await world.generate(timeout_ms=60_000, unknown={"kept": 1})
    (call,) = world.backend.calls
    assert msgspec.json.decode(call.raw_request)["unknown"] == {"kept": 1}
    assert (call.parent_id, call.trace_id, call.attempt, call.deadline_ms) == (7, "tr_1", 1, 60_000)


async def test_many_deltas_share_rows_of_bounded_size(world: Any, play: Any) -> None:
    world.backend.play = play(*[TextDelta(text="x")] * (MAX_EVENTS_PER_ROW + 1))
    await world.generate()
    rows = [entry.data["events"] for entry in world.sink.entries if entry.type == "deltas"]
    assert sum(map(len, rows)) == MAX_EVENTS_PER_ROW + 2  # and the stop
    assert max(map(len, rows)) <= MAX_EVENTS_PER_ROW
    assert len(rows) >= 2


async def test_times_are_measured_from_the_receipt_of_the_request(world: Any) -> None:
    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        world.clock.advance(20)
        yield UsageEvent(prompt_tokens=1)
        world.clock.advance(5)
        yield ReasoningDelta(text="hm")
        world.clock.advance(75)
        yield TextDelta(text="x")

    world.backend.play = play
    result = await world.generate()
    assert (result.time_to_first_token_ms, result.latency_ms) == (25, 100)
    assert result.reasoning == "hm"


async def test_an_answer_without_text_has_no_time_to_its_first_token(world: Any) -> None:
    result = await world.generate()
    assert result.time_to_first_token_ms is None
    assert result.usage is None
    assert result.stop_reason == "end_turn"


async def test_tool_calls_are_the_reason_to_stop_when_none_is_told(world: Any, play: Any) -> None:
    world.backend.play = play(
        ToolCallStart(index=0, id="c", name="f"),
        ToolCallDelta(index=0, id="c", arguments_delta='{"a":1}'),
    )
    result = await world.generate()
    assert result.stop_reason == "tool_use"
    assert [(c.name, c.arguments) for c in result.tool_calls] == [("f", {"a": 1})]
    assert world.listener.last == [Done(text="", tool_calls=result.tool_calls)]


async def test_a_tool_call_that_does_not_parse_reaches_the_client_as_text(
    world: Any, play: Any
) -> None:
    world.backend.play = play(
        ToolCallStart(index=0, id="c", name="f"),
        ToolCallDelta(index=0, id="c", arguments_delta="oops"),
    )
    result = await world.generate()
    assert (result.text, result.tool_calls, result.stop_reason) == ("f(oops)", [], "end_turn")
    kinds = [type(event).__name__ for event in world.listener.events[3:]]
    assert kinds == ["ToolParseError", "ToolCallCancel", "TextDelta", "Stop"]


async def test_without_a_listener_nothing_but_the_events_is_missing(world: Any, play: Any) -> None:
    world.backend.play = play(*HELLO)
    world.listener = None
    assert (await world.generate()).text == "hello"
    assert world.sink.types == STORY


async def test_of_a_private_request_only_sizes_and_outcomes_are_kept(world: Any, play: Any) -> None:
    world.backend.play = play(TextDelta(text="secret answer"), ErrorEvent(message="secret fault"))
    failure = await world.failure(prompt="secret question", privacy="metadata")
    assert failure.message == "inference failed: secret fault"
    assert "secret" not in str(world.sink.entries)
    story = [each for each in STORY if each not in ("usage", "completion")]
    assert world.sink.types == [*story, "failure", "completion"]
    assert world.sink.entries[-1].data["kind"] == "inference_failed"
    assert world.sink.entries[0].data["params"]["bytes"] > 0


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model": "test/nobody:a"}, "model_not_found"),
        ({"model": "test/two:a"}, "unsupported_mode"),
    ],
)
async def test_a_request_that_finds_no_model_fails_and_is_logged(
    world: Any, fields: dict[str, Any], kind: str
) -> None:
    failure = await world.failure(**fields)
    assert failure.kind == kind
    assert failure.data["trace_id"] == "tr_1"
    assert world.listener.events == []
    assert world.listener.last == [ErrorEvent(kind=kind, message=failure.message)]
    assert world.sink.committed_types == ["request", "completion"]


async def test_a_request_needs_a_prompt_or_messages(world: Any) -> None:
    for request in (GenerateRequest(), GenerateRequest(messages=[])):
        with pytest.raises(CarError) as caught:
            await world.engine.generate(request, Origin(1, "generate", b"{}"), None)
        assert (caught.value.kind, caught.value.data["path"]) == ("invalid_params", "$.prompt")


async def test_without_an_available_model_the_request_fails(world: Any) -> None:
    world.backend.available = False
    assert (await world.failure()).kind == "model_not_found"


async def test_a_failure_of_the_backend_ends_the_stream_with_its_kind(
    world: Any, play: Any
) -> None:
    world.backend.play = play(*HELLO, ErrorEvent(kind="rate_limited", message="later"))
    world.clock.advance(1)
    failure = await world.failure(recovery="none")
    assert failure.data == {
        "kind": "rate_limited",
        "retryable": True,
        "trace_id": "tr_1",
        "model": "test/one:a",
    }
    assert world.listener.last == [ErrorEvent(kind="rate_limited", message="rate limited: later")]
    completion = world.sink.entries[-1]
    assert completion.data["outcome"] == "failed"
    assert completion.data["error"]["data"] == failure.data
    assert world.sink.committed_types[-1] == "completion"
    assert world.backend.closed == 1


@pytest.mark.parametrize("error", [RuntimeError("secret /path"), TimeoutError("secret"), KeyError])
async def test_a_foreign_exception_is_internal_and_keeps_its_text(
    world: Any, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="a")
        raise error

    world.backend.play = play
    failure = await world.failure()
    assert failure.kind == "internal"
    told = str(failure) + str(failure.data) + str(world.listener.last) + str(world.sink.entries)
    assert "secret" not in told
    assert "a request failed unexpectedly" in caplog.text


async def test_a_time_limit_ends_the_request_and_is_no_defect(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="a")
        await asyncio.Event().wait()

    world.backend.play = play
    with caplog.at_level(logging.WARNING):
        failure = await world.failure(timeout_ms=20)
    assert failure.kind == "timeout"
    assert failure.message == "timeout: timeout_ms 20 ran out"
    assert world.listener.last == [ErrorEvent(kind="timeout", message=failure.message)]
    assert world.backend.closed == 1
    assert caplog.records == []


async def test_a_log_that_fails_at_the_start_fails_the_request_before_it_runs(world: Any) -> None:
    world.sink.failure = CarError("io_error", "the disk is full")
    failure = await world.failure()
    assert (failure.kind, failure.data["trace_id"]) == ("io_error", "tr_1")
    assert world.backend.calls == []
    assert world.listener.last == [ErrorEvent(kind="io_error", message=failure.message)]


async def test_a_request_whose_own_words_the_log_has_lost_does_not_run(world: Any) -> None:
    append = world.sink.append

    def full_for_long_ones(entry: Any) -> None:
        if entry.type == "request":
            world.sink.lost += 1  # as a write of its own, before anybody waits for one
        append(entry)

    world.sink.append = full_for_long_ones
    failure = await world.failure()
    assert failure.kind == "io_error"
    assert "attempt" not in world.sink.types
    assert world.backend.calls == []


async def test_a_log_that_fails_at_the_end_still_ends_the_stream_once(
    world: Any, play: Any
) -> None:
    async def fill_the_disk(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="a")
        world.sink.failure = CarError("io_error", "the disk is full")

    world.backend.play = fill_the_disk
    failure = await world.failure()
    assert (failure.kind, failure.data["trace_id"]) == ("io_error", "tr_1")
    assert world.listener.last == [ErrorEvent(kind="io_error", message=failure.message)]


async def test_a_log_that_fails_does_not_hide_why_the_request_failed(world: Any) -> None:
    async def fill_the_disk(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        world.sink.failure = CarError("io_error", "the disk is full")
        raise CarError("rate_limited", "later")
        yield

    world.backend.play = fill_the_disk
    failure = await world.failure(recovery="none")
    assert failure.kind == "rate_limited"
    assert world.listener.last == [ErrorEvent(kind="rate_limited", message=failure.message)]


async def test_a_cancel_at_any_point_gives_one_end_and_one_answer(world: Any, play: Any) -> None:
    outcomes: set[str] = set()
    for turns in range(200):
        world.listener.last.clear()
        world.listener.events.clear()
        world.sink.entries.clear()
        world.sink.committed = 0
        world.backend.play = play(*HELLO)
        task = asyncio.ensure_future(world.generate())
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        outcomes.add(await outcome_of_cancel(world, task, ran=turns > 0))
    assert outcomes == {"never started", "cancelled", "done"}


async def outcome_of_cancel(world: Any, task: "asyncio.Task[Any]", *, ran: bool) -> str:
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, asyncio.CancelledError):
        assert not ran, "a request that began must be answered"
        return "never started"
    assert world.sink.committed_types.count("completion") == 1
    assert task.cancelling() == 0, "a cancel that was answered is over"
    told = world.sink.entries[-1].data["outcome"]
    if isinstance(outcome, CarError):
        assert (outcome.kind, told) == ("cancelled", "failed")
        text = "".join(e.text for e in world.listener.events if isinstance(e, TextDelta))
        assert outcome.data["partial"]["text"].startswith(text)
        assert outcome.data["partial"]["tool_calls"] == []
        assert world.listener.last == [ErrorEvent(kind="cancelled", message="cancelled")]
        return "cancelled"
    assert (outcome.text, told) == ("hello", "success")
    assert world.listener.last == [Done(text="hello")]
    return "done"


async def test_what_is_cancelled_twice_is_answered_once(world: Any) -> None:
    started = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="a")
        started.set()
        await asyncio.Event().wait()

    world.backend.play = play
    task = asyncio.ensure_future(world.generate())
    async with asyncio.timeout(5):
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(CarError) as caught:
            await task
    assert caught.value.data["partial"]["text"] == "a"
    assert len(world.listener.last) == 1


def deep(levels: int) -> list[StreamEvent]:
    """A tool call whose arguments nest that deep."""
    arguments = '{"a":' * levels + "1" + "}" * levels
    return [
        ToolCallStart(index=0, id="c", name="f"),
        ToolCallDelta(index=0, id="c", arguments_delta=arguments),
    ]


@pytest.mark.parametrize("levels", [MAX_ARGUMENTS_DEPTH + 1, 127, 900, 960, 980, 1000, 5000])
async def test_a_tool_call_that_nests_too_deep_for_any_reader_becomes_text(
    world: Any, play: Any, levels: int
) -> None:
    world.backend.play = play(*deep(levels))
    result = await world.generate()
    assert (result.tool_calls, result.text.count("{")) == ([], levels)
    kinds = [type(event).__name__ for event in world.listener.events[3:]]
    assert kinds == ["ToolParseError", "ToolCallCancel", "TextDelta", "Stop"]
    assert world.sink.committed_types[-1] == "completion"
    assert not deeper_than(msgspec.json.encode(world.listener.last), 128)


async def test_a_tool_call_that_nests_as_deep_as_it_may_is_one(world: Any, play: Any) -> None:
    world.backend.play = play(*deep(MAX_ARGUMENTS_DEPTH))
    (call,) = (await world.generate()).tool_calls
    assert msgspec.json.encode(call.arguments).count(b"{") == MAX_ARGUMENTS_DEPTH


@pytest.mark.parametrize("levels", [127, 900, 960, 980, 5000])
async def test_a_cancel_behind_a_tool_call_that_nests_too_deep_is_a_cancel(
    world: Any, levels: int
) -> None:
    reached = asyncio.Event()

    async def part(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        for event in deep(levels):
            yield event
        reached.set()
        await asyncio.Event().wait()

    world.backend.play = part
    task = asyncio.create_task(world.failure())
    async with asyncio.timeout(10):
        await reached.wait()
        task.cancel()
        failure = await task
    assert failure.kind == "cancelled"
    assert failure.data["partial"]["tool_calls"] == []
    (last,) = world.listener.last
    assert isinstance(last, ErrorEvent)
    assert last.kind == "cancelled"
    assert world.sink.committed_types.count("completion") == 1
    assert world.sink.entries[-1].data["kind"] == "cancelled"
