"""An answer that ended too early is asked on for, when the request wants that and only then."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest

from car_rpc.engine.extension import MAX_TOKENS_PROMPT
from car_rpc.engine.ports import GenerateCall
from car_rpc.errors import CarError
from car_rpc.wire.events import (
    Attempt,
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

HALF = "The quick brown fox jumps over the lazy dog"
REST = ", and then sleeps under the old oak tree."
CUT = [TextDelta(text=HALF), Stop(reason="max_tokens")]
FULL = Stop(reason="max_tokens")
THOUGHT = [ReasoningDelta(text="hm"), Stop(reason="thinking_truncated")]

Answers = list[list[StreamEvent | CarError]]


@pytest.fixture
def answers(world: Any) -> Callable[[Answers], None]:
    """Lets the backend give one answer for each attempt; the last one for all others."""

    def choose(scripts: Answers) -> None:
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


def shown(world: Any) -> str:
    text = ""
    for event in world.listener.events:
        text = "" if isinstance(event, StreamReset) else text
        text += event.text if isinstance(event, TextDelta) else ""
    return text


# The token limit


def test_the_prompt_is_the_contracts() -> None:
    assert MAX_TOKENS_PROMPT == (
        "Your response was cut off because it exceeded the output token limit. Please break your "
        "work into smaller pieces. Continue from where you left off."
    )


@pytest.mark.parametrize("asked", [{}, {"max_tokens_continuations": 0}])
async def test_an_answer_that_reached_its_limit_is_left_alone_unless_asked_for(
    world: Any, answers: Any, asked: Any
) -> None:
    answers([CUT])

    result = await world.generate(**asked)

    assert (result.text, result.stop_reason) == (HALF, "max_tokens")
    assert len(world.backend.calls) == 1
    assert result.recoveries is msgspec.UNSET


async def test_it_is_continued_and_whole_and_the_events_say_so(world: Any, answers: Any) -> None:
    answers([CUT, [TextDelta(text=REST)]])

    result = await world.generate(max_tokens_continuations=3, tools=[], model="test/one:a")

    assert result.text == shown(world) == HALF + REST
    assert (result.stop_reason, result.recoveries) == ("end_turn", 1)
    assert [report.outcome for report in result.attempts] == ["success", "success"]
    (recovery,) = of_type(world, Recovery)
    assert recovery == Recovery(cause="max_tokens", plan="continue_max_tokens", attempt=2)
    assert of_type(world, Attempt)[1].reason == "continue_max_tokens"
    asked = msgspec.json.decode(world.backend.calls[1].raw_request)
    assert asked["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": HALF},
        {"role": "user", "content": MAX_TOKENS_PROMPT},
    ]


async def test_what_the_model_repeats_is_left_out(world: Any, answers: Any) -> None:
    answers([CUT, [TextDelta(text=HALF[-30:] + REST)]])

    result = await world.generate(max_tokens_continuations=1)

    assert result.text == shown(world) == HALF + REST
    assert of_type(world, Recovery)[0].overlap_removed == 30


async def test_a_backend_that_can_goes_on_from_the_exact_beginning(
    world: Any, answers: Any
) -> None:
    world.backend.continues = True
    answers([[ReasoningDelta(text="hm"), TextDelta(text="One"), FULL], [TextDelta(text=" two")]])

    assert (await world.generate(max_tokens_continuations=1)).text == "One two"
    assert world.backend.calls[1].continuation == ("One", "hm", 0)
    assert world.backend.calls[1].raw_request == world.backend.calls[0].raw_request


async def test_what_earlier_attempts_counted_of_the_beginning_is_told(
    world: Any, answers: Any
) -> None:
    world.backend.continues = True
    usage = UsageEvent(prompt_tokens=1, completion_tokens=2)
    broken = CarError("overloaded", retryable=True)
    answers(
        [
            [TextDelta(text="One"), broken],
            [TextDelta(text=" two"), usage, FULL],
            [TextDelta(text=" three"), broken],
            [TextDelta(text=" four"), usage, FULL],
            [TextDelta(text=" five"), usage],
        ]
    )

    result = await world.generate(max_tokens_continuations=2)

    assert result.text == "One two three four five"
    assert [call.continuation for call in world.backend.calls] == [
        None,
        ("One", "", 0),
        ("One two", "", 7),
        ("One two three", "", 7),
        ("One two three four", "", 18),
    ]
    assert result.usage.completion_tokens == 6


async def test_nothing_is_counted_of_an_answer_that_started_again(world: Any, answers: Any) -> None:
    world.backend.continues = True
    usage = UsageEvent(prompt_tokens=1, completion_tokens=2)
    thought = [TextDelta(text="x"), usage, StreamReset(reason="anew"), TextDelta(text="One")]
    answers([[*thought, CarError("overloaded", retryable=True)], [TextDelta(text=" two")]])

    assert (await world.generate()).text == "One two"
    assert world.backend.calls[1].continuation == ("One", "", 0)


async def test_it_is_continued_no_more_often_than_allowed(world: Any, answers: Any) -> None:
    answers([CUT, [TextDelta(text=" again and again"), FULL]])

    result = await world.generate(max_tokens_continuations=2)

    assert result.text == HALF + " again and again" * 2
    assert (result.stop_reason, result.recoveries) == ("max_tokens", 2)
    assert len(world.backend.calls) == 3


async def test_a_call_that_the_limit_cut_is_withdrawn_and_the_text_goes_on(
    world: Any, answers: Any
) -> None:
    call = ToolCallStart(index=0, id="c", name="f")
    part = ToolCallDelta(index=0, id="c", arguments_delta='{"a"')
    rest = ToolCallDelta(index=0, id="d", arguments_delta='{"a":1}')
    answers(
        [[TextDelta(text=HALF), call, part, FULL], [ToolCallStart(index=0, id="d", name="f"), rest]]
    )

    result = await world.generate(max_tokens_continuations=1)

    assert of_type(world, ToolCallCancel) == [ToolCallCancel(index=0, id="c", reason="max_tokens")]
    assert (result.text, result.stop_reason) == (HALF, "tool_use")
    assert [call.arguments for call in result.tool_calls] == [{"a": 1}]


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        pytest.param([TextDelta(text="short"), FULL], {}, id="nobody-could-tell-a-repetition"),
        pytest.param(CUT, {"response_format": {"type": "json_object"}}, id="in-a-form"),
        pytest.param(
            [TextDelta(text=HALF), ToolCallStart(index=0, id="c", name="f"),
             ToolCallDelta(index=0, id="c", arguments_delta="{}"), FULL],
            {},
            id="behind-a-whole-call",
        ),
        pytest.param([ToolCallStart(index=0, id="c", name="f"), FULL], {}, id="nothing-was-said"),
        pytest.param([TextDelta(text=HALF), Stop(reason="end_turn")], {}, id="complete"),
    ],
)  # fmt: skip
async def test_what_could_not_be_joined_is_not_continued(
    world: Any, answers: Any, answer: Any, asked: Any
) -> None:
    answers([answer])

    await world.generate(max_tokens_continuations=2, **asked)

    assert len(world.backend.calls) == 1


@pytest.mark.parametrize(
    "failure",
    [
        CarError("unauthorized", "no"),
        CarError("context_overflow", "x"),
        CarError("content_filtered"),
    ],
    ids=lambda failure: failure.kind,
)
async def test_an_answer_that_cannot_be_continued_stays_as_it_was(
    world: Any, answers: Any, failure: CarError
) -> None:
    answers([CUT, [failure]])

    result = await world.generate(max_tokens_continuations=2)

    assert (result.text, result.stop_reason) == (HALF, "max_tokens")
    assert [report.outcome for report in result.attempts] == ["success", failure.kind]
    assert of_type(world, Stop)[-1] == FULL


async def test_a_continuation_that_breaks_is_recovered_like_any_stream(
    world: Any, answers: Any
) -> None:
    broken = CarError("provider_error", "connection reset")
    answers([CUT, [TextDelta(text=REST[:20]), broken], [TextDelta(text=REST[20:])]])

    result = await world.generate(max_tokens_continuations=1)

    assert result.text == shown(world) == HALF + REST
    assert [event.plan for event in of_type(world, Recovery)] == [
        "continue_max_tokens",
        "continue_text",
    ]
    assert result.recoveries == 2


async def test_a_continuation_that_breaks_for_good_keeps_what_came(
    world: Any, answers: Any
) -> None:
    call = ToolCallStart(index=0, id="c", name="f")
    answers([CUT, [TextDelta(text=REST), call, CarError("inference_failed", "no")]])

    result = await world.generate(max_tokens_continuations=1)

    assert (result.text, result.stop_reason, result.tool_calls) == (HALF + REST, "max_tokens", [])
    assert [event.id for event in of_type(world, ToolCallCancel)] == ["c"]


async def test_the_apps_own_cancel_of_a_continuation_is_a_cancel(world: Any, answers: Any) -> None:
    answers([CUT, [CarError("cancelled")]])

    assert (await world.failure(max_tokens_continuations=1)).kind == "cancelled"


async def test_more_continuations_than_sense_are_refused() -> None:
    from car_rpc.wire.inference import GenerateRequest

    for number in (-1, 17, 1.5):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"max_tokens_continuations": number}, GenerateRequest)


# Thinking


async def test_a_model_that_only_thought_is_left_alone_unless_asked_for(
    world: Any, answers: Any
) -> None:
    answers([THOUGHT])

    result = await world.generate()

    assert (result.text, result.stop_reason) == ("", "thinking_truncated")
    assert len(world.backend.calls) == 1


@pytest.mark.parametrize("reason", ["max_tokens", "thinking_truncated"])
async def test_a_model_that_only_thought_is_asked_once_more_without(
    world: Any, answers: Any, reason: Any
) -> None:
    answers([[ReasoningDelta(text="hm"), Stop(reason=reason)], [TextDelta(text="Yes.")]])

    result = await world.generate(thinking_recovery=True, params={"max_tokens": 5, "x": 1})

    assert (result.text, result.stop_reason, result.recoveries) == ("Yes.", "end_turn", 1)
    assert result.reasoning is msgspec.UNSET
    assert of_type(world, Recovery) == [
        Recovery(cause="thinking_truncated", plan="retry_without_thinking", attempt=2)
    ]
    call = world.backend.calls[1]
    assert msgspec.json.decode(call.raw_request)["params"] == {
        "max_tokens": 5,
        "x": 1,
        "thinking": "off",
    }
    assert call.request.params.thinking == "off"


async def test_when_that_says_nothing_either_the_answer_says_why(world: Any, answers: Any) -> None:
    answers([THOUGHT, [FULL]])

    result = await world.generate(thinking_recovery=True)

    assert (result.text, result.stop_reason) == ("", "thinking_truncated")
    assert len(world.backend.calls) == 2
    assert of_type(world, Stop)[-1] == Stop(reason="thinking_truncated")


async def test_when_that_fails_the_answer_is_as_it_was(world: Any, answers: Any) -> None:
    answers([THOUGHT, [CarError("unauthorized", "no")]])

    result = await world.generate(thinking_recovery=True)

    assert (result.text, result.stop_reason) == ("", "thinking_truncated")


@pytest.mark.parametrize(
    ("answer", "params"),
    [
        pytest.param(THOUGHT, {"thinking": "on"}, id="it-was-to-think"),
        pytest.param([FULL], {}, id="it-did-not-think"),
        pytest.param([ReasoningDelta(text="hm"), *CUT], {}, id="it-said-something"),
        pytest.param([ReasoningDelta(text="hm")], {}, id="it-had-no-more-to-say"),
    ],
)
async def test_otherwise_nothing_is_asked_again(
    world: Any, answers: Any, answer: Any, params: Any
) -> None:
    answers([answer])

    await world.generate(thinking_recovery=True, params=params)

    assert len(world.backend.calls) == 1


async def test_an_answer_without_thinking_may_be_continued_in_turn(
    world: Any, answers: Any
) -> None:
    answers([THOUGHT, CUT, [TextDelta(text=REST)]])

    result = await world.generate(thinking_recovery=True, max_tokens_continuations=1)

    assert (result.text, result.recoveries) == (HALF + REST, 2)
    assert world.backend.calls[2].request.params.thinking == "off"
