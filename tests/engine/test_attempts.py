"""Which model is asked, how often, with which waits, and how a broken stream becomes one text."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest

from car_rpc.engine.breaker import Breaker
from car_rpc.engine.interruption import CONTINUE_PROMPT, cause_of
from car_rpc.engine.ports import GenerateCall
from car_rpc.engine.retry import MAX_KEY_CHANGES
from car_rpc.errors import CarError
from car_rpc.testing import scripted_model
from car_rpc.wire.events import (
    Attempt,
    Done,
    ErrorEvent,
    ProviderOutputItem,
    ReasoningDelta,
    Recovery,
    Stop,
    StreamEvent,
    StreamReset,
    TextDelta,
    ToolCallCancel,
    ToolCallDelta,
    ToolCallStart,
    UsageEvent,
)

TEXT = "The quick brown fox jumps over the lazy dog, and then sleeps under the old oak tree."
BUSY = CarError("provider_error", "busy")

Attempts = list[list[StreamEvent | CarError]]


def words(text: str) -> list[StreamEvent]:
    return [TextDelta(text=text[start : start + 7]) for start in range(0, len(text), 7)]


def open_breaker(world: Any) -> Breaker:
    """Lets the first model fail until it is left alone; returns its breaker."""
    breaker = world.engine.breakers.of("test/one:a")
    while breaker.state != "open":
        breaker.admit(world.clock.now_ms()).failed(BUSY, world.clock.now_ms())
    return breaker


def shown(events: list[StreamEvent]) -> str:
    """What a client that follows the rules shows at the end."""
    text = ""
    for event in events:
        if isinstance(event, StreamReset):
            text = ""
        elif isinstance(event, TextDelta):
            text += event.text
    return text


@pytest.fixture
def attempts(world: Any) -> Callable[[Attempts], None]:
    """Lets the backend play one list of events for each attempt; the last one for all others."""

    def choose(scripts: Attempts) -> None:
        async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
            for event in scripts[min(call.attempt, len(scripts)) - 1]:
                await asyncio.sleep(0)
                if isinstance(event, CarError):
                    raise event
                yield event

        world.backend.play = play

    return choose


def of_type(world: Any, kind: type) -> list[Any]:
    return [event for event in world.listener.events if isinstance(event, kind)]


# Before anything was streamed


async def test_a_transient_failure_is_tried_again_after_exactly_the_contracts_waits(
    world: Any, attempts: Any
) -> None:
    attempts([[BUSY], [BUSY], [TextDelta(text="ok")]])

    result = await world.generate()

    assert (result.text, world.clock.slept_ms) == ("ok", [500, 1000])
    assert [report.outcome for report in result.attempts] == [
        "provider_error",
        "provider_error",
        "success",
    ]
    assert [event.attempt for event in of_type(world, Attempt)] == [1, 2, 3]


async def test_another_key_is_tried_at_once_and_is_no_retry(world: Any, attempts: Any) -> None:
    limited = CarError("rate_limited", "slow down", retry_after_ms=90_000, another_key=True)
    refused = CarError("unauthorized", "bad key", status=401, another_key=True)
    attempts([[limited], [refused], [BUSY], [BUSY], [TextDelta(text="ok")]])

    result = await world.generate()

    assert (result.text, world.clock.slept_ms) == ("ok", [500, 1000])
    assert [event.reason for event in of_type(world, Attempt)[1:]] == [
        "another key: rate_limited",
        "another key: unauthorized",
        "retry: provider_error",
        "retry: provider_error",
    ]
    assert len(result.attempts) == 5


async def test_a_failed_key_says_nothing_about_the_model(world: Any, attempts: Any) -> None:
    attempts([[CarError("rate_limited", "slow down", another_key=True)]])
    await world.failure()
    assert world.engine.breakers.of("test/one:a").state == "closed"


async def test_keys_that_keep_failing_end_the_request(world: Any, attempts: Any) -> None:
    attempts([[CarError("unauthorized", "bad key", another_key=True)]])
    failure = await world.failure()
    assert (failure.kind, len(world.backend.calls)) == ("unauthorized", MAX_KEY_CHANGES + 1)


@pytest.mark.parametrize("recovery", ["none", "retry"])
async def test_who_wants_one_attempt_gets_one_key(world: Any, attempts: Any, recovery: str) -> None:
    attempts([[CarError("unauthorized", "bad key", another_key=True)], [TextDelta(text="ok")]])
    if recovery == "none":
        assert (await world.failure(recovery=recovery)).kind == "unauthorized"
    else:
        assert (await world.generate(recovery=recovery)).text == "ok"


async def test_a_key_that_is_refused_in_the_middle_is_the_answer(world: Any, attempts: Any) -> None:
    refused = CarError("unauthorized", "expired", another_key=True)
    attempts([[TextDelta(text=TEXT), refused], [TextDelta(text="never")]])
    assert (await world.failure()).kind == "unauthorized"
    assert len(world.backend.calls) == 1


async def test_retries_end_and_the_last_failure_is_told(world: Any, attempts: Any) -> None:
    attempts([[BUSY]])

    failure = await world.failure()

    assert (failure.kind, len(world.backend.calls)) == ("provider_error", 3)


@pytest.mark.parametrize(
    "kind", ["unauthorized", "invalid_request", "context_overflow", "content_filtered"]
)
async def test_what_would_fail_again_is_not_tried_again(
    world: Any, attempts: Any, kind: str
) -> None:
    attempts([[CarError(kind, "no")]])

    assert (await world.failure()).kind == kind
    assert len(world.backend.calls) == 1


async def test_recovery_none_means_one_attempt(world: Any, attempts: Any) -> None:
    attempts([[BUSY]])

    assert (await world.failure(recovery="none")).kind == "provider_error"
    assert len(world.backend.calls) == 1


async def test_a_wait_beyond_the_time_left_fails_at_once_and_says_how_long(
    world: Any, attempts: Any
) -> None:
    attempts([[CarError("rate_limited", "later", retry_after_ms=90_000)]])

    failure = await world.failure(timeout_ms=60_000)

    assert (failure.kind, failure.data["retry_after_ms"]) == ("rate_limited", 90_000)
    assert world.clock.slept_ms == []


async def test_each_attempt_is_told_the_time_that_is_left(world: Any, attempts: Any) -> None:
    attempts([[BUSY], [TextDelta(text="ok")]])

    await world.generate(timeout_ms=60_000)

    assert [call.deadline_ms for call in world.backend.calls] == [60_000, 59_500]


# The next candidate


@pytest.fixture
def two_models(world: Any) -> Any:
    """A registry with a second model to fall back to."""
    world.registry.register(scripted_model("test/three:a", []))
    return world


@pytest.mark.parametrize("kind", ["unauthorized", "model_load_failed"])
async def test_a_permanent_failure_goes_to_the_next_model_at_once(
    two_models: Any, attempts: Any, kind: str
) -> None:
    attempts([[CarError(kind, "not now")], [TextDelta(text="ok")]])

    result = await two_models.generate()

    assert (result.text, result.model_used) == ("ok", "test/three:a")
    assert two_models.clock.slept_ms == []
    assert [event.model for event in of_type(two_models, Attempt)] == ["test/one:a", "test/three:a"]
    assert "fallback" in two_models.sink.types


async def test_a_long_wait_goes_to_the_next_model_instead(two_models: Any, attempts: Any) -> None:
    attempts([[CarError("rate_limited", "later", retry_after_ms=9000)], [TextDelta(text="ok")]])

    assert (await two_models.generate()).model_used == "test/three:a"
    assert two_models.clock.slept_ms == []


async def test_a_short_wait_stays_with_the_model(two_models: Any, attempts: Any) -> None:
    attempts([[BUSY], [TextDelta(text="ok")]])

    assert (await two_models.generate()).model_used == "test/one:a"


async def test_a_refusal_stops_the_chain(two_models: Any, attempts: Any) -> None:
    attempts([[CarError("content_filtered", "no")], [TextDelta(text="ok")]])

    assert (await two_models.failure()).kind == "content_filtered"
    assert len(two_models.backend.calls) == 1


async def test_recovery_retry_stays_with_the_model(two_models: Any, attempts: Any) -> None:
    attempts([[CarError("unauthorized", "no")]])

    assert (await two_models.failure(recovery="retry")).kind == "unauthorized"
    assert len(two_models.backend.calls) == 1


async def test_a_model_whose_breaker_is_open_is_passed_over(two_models: Any, attempts: Any) -> None:
    open_breaker(two_models)
    attempts([[TextDelta(text="ok")]])

    assert (await two_models.generate()).model_used == "test/three:a"


async def test_with_all_breakers_open_nothing_is_asked(world: Any, attempts: Any) -> None:
    open_breaker(world)

    world.clock.advance(10_000)
    failure = await world.failure()

    assert (failure.kind, failure.data["retry_after_ms"]) == ("all_models_unavailable", 20_000)
    assert world.backend.calls == []


async def test_who_wants_no_recovery_asks_even_behind_an_open_breaker(
    world: Any, attempts: Any
) -> None:
    open_breaker(world)
    attempts([[TextDelta(text="ok")]])

    assert (await world.generate(recovery="none")).text == "ok"


async def test_a_cancelled_probe_frees_its_place(world: Any) -> None:
    breaker = open_breaker(world)
    world.clock.advance(30_000)
    started = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        started.set()
        await asyncio.Event().wait()
        yield TextDelta(text="")

    world.backend.play = play
    task = asyncio.ensure_future(world.generate())
    await started.wait()
    task.cancel()
    with pytest.raises(CarError, match="cancelled"):
        await task

    assert breaker.available(world.clock.now_ms())


# After something was streamed


async def test_a_text_that_broke_is_continued_and_whole(world: Any, attempts: Any) -> None:
    attempts([[*words(TEXT[:49]), BUSY], words(TEXT[49:])])

    result = await world.generate()

    assert result.text == shown(world.listener.events) == TEXT
    assert result.recoveries == 1
    asked = msgspec.json.decode(world.backend.calls[1].raw_request)
    assert asked["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": TEXT[:49]},
        {"role": "user", "content": CONTINUE_PROMPT},
    ]
    assert "prompt" not in asked
    (recovery,) = of_type(world, Recovery)
    assert (recovery.plan, recovery.attempt) == ("continue_text", 2)
    assert recovery.overlap_removed is msgspec.UNSET


async def test_tokens_of_a_continued_answer_add_up(world: Any, attempts: Any) -> None:
    first, second = (
        UsageEvent(prompt_tokens=5, completion_tokens=8),
        UsageEvent(prompt_tokens=30, completion_tokens=4),
    )
    attempts([[*words(TEXT[:49]), first, BUSY], [*words(TEXT[49:]), second]])

    usage = (await world.generate()).usage

    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (35, 12, 47)


async def test_what_the_continuation_repeats_is_left_out_and_counted(
    world: Any, attempts: Any
) -> None:
    attempts([[*words(TEXT[:49]), BUSY], words(TEXT[9:])])

    result = await world.generate()

    assert result.text == shown(world.listener.events) == TEXT
    assert of_type(world, Recovery)[0].overlap_removed == 40


async def test_a_backend_that_can_goes_on_from_the_exact_prefix(world: Any, attempts: Any) -> None:
    world.backend.continues = True
    attempts([[ReasoningDelta(text="hm"), TextDelta(text="The"), BUSY], [TextDelta(text=" end")]])

    result = await world.generate()

    assert result.text == "The end"
    continuation = world.backend.calls[1].continuation
    assert (continuation.text, continuation.reasoning) == ("The", "hm")
    assert msgspec.json.decode(world.backend.calls[1].raw_request) == {"prompt": "hi"}


async def test_a_text_too_short_to_tell_what_is_repeated_starts_again(
    world: Any, attempts: Any
) -> None:
    attempts([[TextDelta(text="a"), BUSY], [TextDelta(text="aardvark")]])

    result = await world.generate()

    assert result.text == shown(world.listener.events) == "aardvark"
    assert of_type(world, StreamReset)


async def test_reasoning_alone_starts_again(world: Any, attempts: Any) -> None:
    attempts([[ReasoningDelta(text="hm"), BUSY], [TextDelta(text="ok")]])

    result = await world.generate()

    assert (result.text, result.reasoning) == ("ok", msgspec.UNSET)
    assert of_type(world, Recovery)[0].plan == "whole_restart"


CUT_CALL: list[StreamEvent] = [
    ToolCallStart(index=0, id="c1", name="look"),
    ToolCallDelta(index=0, id="c1", arguments_delta='{"q": '),
]
WHOLE_CALL: list[StreamEvent] = [
    ToolCallStart(index=0, id="c1", name="look"),
    ToolCallDelta(index=0, id="c1", arguments_delta='{"q": 1}'),
]


async def test_a_call_that_was_cut_is_withdrawn_and_the_text_goes_on(
    world: Any, attempts: Any
) -> None:
    attempts([[*words(TEXT), *CUT_CALL, BUSY], [TextDelta(text=" So."), *WHOLE_CALL]])

    result = await world.generate()

    assert result.text == f"{TEXT} So."
    assert [(call.id, call.arguments) for call in result.tool_calls] == [("c1", {"q": 1})]
    assert of_type(world, ToolCallCancel) == [
        ToolCallCancel(index=0, id="c1", reason="connection_reset")
    ]
    assert of_type(world, ToolCallStart)[-1].index == 1


async def test_whole_calls_end_the_answer_without_another_request(
    world: Any, attempts: Any
) -> None:
    second_cut = [
        ToolCallStart(index=1, id="c2", name="find"),
        ToolCallDelta(index=1, id="c2", arguments_delta='{"q": '),
    ]
    attempts([[*words("Look:"), *WHOLE_CALL, *second_cut, BUSY]])

    result = await world.generate()

    assert (result.text, result.stop_reason) == ("Look:", "tool_use")
    assert [call.id for call in result.tool_calls] == ["c1"]
    assert [event.id for event in of_type(world, ToolCallCancel)] == ["c2"]
    assert len(world.backend.calls) == 1


async def test_a_stream_that_keeps_breaking_ends_with_what_there_was(
    world: Any, attempts: Any
) -> None:
    attempts([[*words(TEXT[:49]), BUSY], [*words(" more"), BUSY]])

    failure = await world.failure()

    assert (failure.kind, len(world.backend.calls)) == ("stream_interrupted", 3)
    assert failure.message == "stream interrupted (connection reset)"
    assert failure.data["snapshot"].text == f"{TEXT[:49]} more more"
    assert isinstance(world.listener.last[0], ErrorEvent)


@pytest.mark.parametrize("recovery", ["none", "retry", "fallback"])
async def test_without_resume_a_broken_stream_is_the_failure_that_broke_it(
    world: Any, attempts: Any, recovery: str
) -> None:
    attempts([[*words(TEXT), BUSY]])

    assert (await world.failure(recovery=recovery)).kind == "provider_error"
    assert len(world.backend.calls) == 1


@pytest.mark.parametrize("kind", ["unauthorized", "content_filtered", "cancelled"])
async def test_a_failure_that_breaks_nothing_is_the_answer_even_in_the_middle(
    world: Any, attempts: Any, kind: str
) -> None:
    attempts([[*words(TEXT), CarError(kind, "no")]])

    assert (await world.failure()).kind == kind
    assert len(world.backend.calls) == 1


async def test_no_other_model_goes_on_with_an_answer_that_failed_for_good(
    two_models: Any, attempts: Any
) -> None:
    attempts([[*words(TEXT), CarError("unauthorized", "no")], words("mixed")])

    assert (await two_models.failure()).kind == "unauthorized"
    assert len(two_models.backend.calls) == 1


async def test_what_the_app_says_is_permanent_is_not_continued(world: Any, attempts: Any) -> None:
    attempts([[*words(TEXT), CarError("runner_failed", "no", retryable=False)]])

    assert (await world.failure()).kind == "runner_failed"
    assert len(world.backend.calls) == 1


async def test_another_model_continues_what_the_first_cannot(
    two_models: Any, attempts: Any
) -> None:
    down = CarError("unauthorized", "no")
    attempts([[*words(TEXT[:49]), BUSY], [down], words(TEXT[49:])])

    result = await two_models.generate()

    assert (result.text, result.model_used) == (TEXT, "test/three:a")


async def test_a_call_that_had_only_begun_is_withdrawn(world: Any, attempts: Any) -> None:
    begun = ToolCallStart(index=0, id="c1", name="rm")
    attempts([[*words(TEXT), begun, BUSY], [TextDelta(text=" So."), *WHOLE_CALL]])

    result = await world.generate()

    assert [call.arguments for call in result.tool_calls] == [{"q": 1}]
    assert [event.id for event in of_type(world, ToolCallCancel)] == ["c1"]


async def test_an_answer_of_a_form_starts_again_where_it_cannot_go_on_exactly(
    world: Any, attempts: Any
) -> None:
    begun, whole = '{"city": "Berlin", "country": "Germ', '{"city": "Berlin"}'
    attempts([[*words(begun), BUSY], words(whole)])

    result = await world.generate(response_format={"type": "json_object"})

    assert result.text == shown(world.listener.events) == whole


async def test_an_ending_that_says_all_again_adds_nothing(world: Any, attempts: Any) -> None:
    attempts([[*words(TEXT), BUSY], [TextDelta(text=TEXT[-40:]), Done(text=TEXT[-40:])]])

    assert (await world.generate()).text == TEXT


async def test_an_answer_that_had_its_stop_was_complete(world: Any, attempts: Any) -> None:
    attempts([[*words(TEXT), Stop(reason="max_tokens"), BUSY]])

    result = await world.generate()

    assert (result.text, result.stop_reason) == (TEXT, "max_tokens")
    assert len(world.backend.calls) == 1


async def test_an_attempt_that_gave_nothing_leaves_no_items(world: Any, attempts: Any) -> None:
    attempts(
        [[ProviderOutputItem(item=1), BUSY], [ProviderOutputItem(item=2), TextDelta(text="ok")]]
    )

    assert (await world.generate()).provider_output_items == [2]


async def test_when_it_cannot_go_on_the_failure_says_what_there_was(
    world: Any, attempts: Any
) -> None:
    attempts([[*words(TEXT), BUSY], [BUSY]])

    failure = await world.failure()

    assert (failure.kind, failure.data["cause"]) == ("stream_interrupted", "connection_reset")
    assert failure.data["snapshot"].text == TEXT


async def test_what_is_repeated_is_counted_behind_reasoning_and_after_a_failed_try(
    world: Any, attempts: Any
) -> None:
    again: list[StreamEvent | CarError] = [ReasoningDelta(text="hm"), *words(TEXT[9:])]
    attempts([[*words(TEXT[:49]), *CUT_CALL, BUSY], [BUSY], again])

    result = await world.generate()

    assert result.text == shown(world.listener.events) == TEXT
    (recovery,) = of_type(world, Recovery)
    assert (recovery.overlap_removed, recovery.attempt) == (40, 3)


async def test_text_that_was_held_back_comes_before_the_stop(world: Any, attempts: Any) -> None:
    held = TEXT[-40:-20]
    attempts([[*words(TEXT), BUSY], [TextDelta(text=held), Stop(reason="end_turn")]])

    result = await world.generate()

    assert result.text == f"{TEXT}{held}"
    assert world.listener.events[-1] == Stop(reason="end_turn")


async def test_a_wait_beyond_all_patience_is_left_to_the_client(world: Any, attempts: Any) -> None:
    attempts([[CarError("rate_limited", "later", retry_after_ms=86_400_000)]])

    assert (await world.failure()).data["retry_after_ms"] == 86_400_000
    assert world.clock.slept_ms == []


async def test_images_stay_with_what_the_user_said(world: Any, attempts: Any) -> None:
    world.registry.register(scripted_model("test/sees:a", [], ["generate", "vision"]))
    attempts([[*words(TEXT), BUSY], [TextDelta(text=".")]])
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}

    await world.generate(model="test/sees:a", images=[image])

    asked = msgspec.json.decode(world.backend.calls[1].raw_request)
    assert asked["messages"][0]["content"] == [image, {"type": "text", "text": "hi"}]
    assert "images" not in asked


async def test_a_request_that_runs_at_two_crashes_is_the_suspect(world: Any, attempts: Any) -> None:
    attempts([[*words(TEXT), CarError("worker_crashed", "gone")]])

    failure = await world.failure()

    assert (failure.kind, failure.data["suspect"]) == ("worker_crashed", True)
    assert len(world.backend.calls) == 2


async def test_a_silent_stream_is_opened_again_soon(world: Any, attempts: Any) -> None:
    stall = CarError("timeout", "nothing came for 60000 ms", cause="idle_stall")
    attempts([[*words(TEXT[:49]), stall], words(TEXT[49:])])

    assert (await world.generate()).text == TEXT
    assert world.clock.slept_ms == [200]


async def test_an_answer_told_only_at_the_end_is_continued_too(world: Any, attempts: Any) -> None:
    attempts([[*words(TEXT[:49]), BUSY], [Done(text=TEXT[49:])]])

    result = await world.generate()

    assert result.text == shown(world.listener.events) == TEXT


WAYS_TO_BREAK = [
    CarError("provider_error", "connection reset"),
    CarError("stream_interrupted", "goaway", cause="goaway"),
    CarError("stream_interrupted", "idle stall", cause="idle_stall"),
    CarError("overloaded", "upstream HTTP 503"),
    CarError("timeout", "silent"),
    CarError("worker_crashed", "gone"),
    CarError("runner_failed", "gone"),
]
TEXTS = [
    TEXT,
    "Über den Wölken müß die Freiheit wohl gränzenlos sein, 日本語で 😀 sagt man das anders.",
]


@pytest.mark.parametrize("failure", WAYS_TO_BREAK, ids=lambda failure: failure.message)
@pytest.mark.parametrize("repeats", [0, 40])
@pytest.mark.parametrize("text", TEXTS, ids=["plain", "wide"])
async def test_wherever_and_however_a_stream_breaks_the_text_is_whole(
    world: Any, text: str, repeats: int, failure: CarError
) -> None:
    """An upstream that starts again when it is asked from the start, and continues otherwise."""
    cut = 0

    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        messages = msgspec.json.decode(call.raw_request).get("messages") or []
        told = messages[1]["content"] if messages else ""
        begin = max(0, len(told) - repeats)
        for event in words(text[begin : cut if call.attempt == 1 else None]):
            yield event
        if call.attempt == 1:
            raise failure

    world.backend.play = play
    for cut in range(len(text) + 1):  # noqa: B007 - the upstream reads it
        world.listener.events.clear()
        world.listener.last.clear()
        result = await world.generate()

        assert result.text == shown(world.listener.events) == text


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (CarError("provider_error", "HTTP/2 GOAWAY received"), "goaway"),
        (CarError("provider_error", "Connection: close"), "goaway"),
        (CarError("provider_error", "ECONNRESET"), "connection_reset"),
        (CarError("provider_error", "upstream HTTP 502"), "provider_503"),
        (CarError("provider_error", "whatever"), "connection_reset"),
        (CarError("timeout", "silent"), "idle_stall"),
        (CarError("worker_crashed", "x"), "worker_crashed"),
        (CarError("stream_interrupted", "x", cause="goaway"), "goaway"),
    ],
)
def test_causes_have_the_contracts_names(failure: CarError, cause: str) -> None:
    assert cause_of(failure) == cause


# A model that uses up all the time


async def silent(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
    await asyncio.Event().wait()
    yield TextDelta(text="")


async def out_of_time(world: Any) -> CarError:
    """A request whose time runs out: the loop's at once, and the clock's with it."""
    world.listener.last.clear()
    world.listener.events.clear()
    task = asyncio.ensure_future(world.failure(timeout_ms=1))
    await asyncio.sleep(0)
    world.clock.advance(1)
    return await task


async def test_a_model_whose_requests_only_run_out_of_time_is_left_alone(world: Any) -> None:
    world.backend.play = silent
    for _ in range(5):
        assert (await out_of_time(world)).kind == "timeout"

    world.listener.last.clear()
    assert (await world.failure()).kind == "all_models_unavailable"


async def test_a_client_that_does_not_read_is_not_its_models_fault(
    world: Any, attempts: Any
) -> None:
    attempts([[TextDelta(text="ok")]])

    async def never() -> None:
        if world.listener.events:  # the attempt itself was told
            await asyncio.Event().wait()

    world.listener.room = never
    for _ in range(5):
        assert (await out_of_time(world)).kind == "timeout"

    assert world.engine.breakers.of("test/one:a").state == "closed"


async def test_the_weight_of_client_errors_can_be_chosen(world: Any, attempts: Any) -> None:
    from car_rpc.engine.breaker import BreakerPolicy
    from car_rpc.engine.engine import Engine

    world.engine = Engine(
        world.registry,
        lambda _: world.backend,
        world.sink,
        world.clock,
        world.ids,
        breaker_policy=BreakerPolicy(weight_4xx=2),
    )
    attempts([[CarError("unauthorized", "no key", status=401)]])
    for _ in range(3):
        assert (await world.failure()).kind == "unauthorized"
        world.listener.last.clear()

    assert (await world.failure()).kind == "all_models_unavailable"
