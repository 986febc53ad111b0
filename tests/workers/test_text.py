"""Stop strings, segments and answers: what comes out does not depend on how text came in."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.wire.events import (
    ContentBlockStop,
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
    UsageEvent,
)
from car_rpc.workers.text.answer import Answer
from car_rpc.workers.text.segment import Segmenter
from car_rpc.workers.text.stop import StopMatcher

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'

# Pieces that the formats are made of, broken ones included, next to arbitrary text.
PIECES = st.sampled_from(
    [
        "<think>", "</think>", "<tool_call>", "</tool_call>", CALL, "<", "</", "<think", ">", "\n",
        "\n\n", " ", "hello", '{"name": "x"}', '{"name":', "stop", "st", "op", "é🙂", "\ufffd",
    ]
)  # fmt: skip
OUTPUTS = st.lists(PIECES | st.text(max_size=4), max_size=14).map("".join)


@st.composite
def chunked(draw: st.DrawFn, whole: Any) -> list[Any]:
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    edges = [0, *cuts, len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(edges)]


def merged(events: Iterable[StreamEvent]) -> list[StreamEvent]:
    """The same events with neighbouring deltas joined."""
    joined: list[StreamEvent] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(text=last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            joined[-1] = ReasoningDelta(text=last.text + event.text)
        elif isinstance(event, ToolCallDelta) and isinstance(last, ToolCallDelta):
            arguments = last.arguments_delta + event.arguments_delta
            joined[-1] = msgspec.structs.replace(event, arguments_delta=arguments)
        else:
            joined.append(event)
    return joined


TOOLS = [{"type": "function", "function": {"name": "add"}}]


def segments(*pieces: str, tools: bool = True, in_reasoning: bool = False) -> list[StreamEvent]:
    segmenter = Segmenter(tools=TOOLS if tools else [], in_reasoning=in_reasoning)
    events = [event for piece in pieces for event in segmenter.feed(piece)]
    return merged([*events, *segmenter.finish()])


def call_events(index: int = 0, arguments: str = '{"a": 1}') -> list[StreamEvent]:
    call_id = f"call_{index}"
    return [
        ToolCallStart(index=index, id=call_id, name="add"),
        ToolCallDelta(index=index, id=call_id, arguments_delta=arguments),
        ContentBlockStop(index=index),
    ]


def stopped(stops: list[str], *pieces: str) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = "".join(matcher.feed(piece) for piece in pieces)
    return shown + matcher.flush(), matcher.matched


# ------------------------------------------------------------------------------ stop strings


def test_a_stop_string_split_over_pieces_is_never_shown() -> None:
    assert stopped(["END"], "one E", "N", "D two") == ("one ", "END")


def test_text_that_only_began_a_stop_string_is_shown() -> None:
    assert stopped(["END"], "one EN", "tire") == ("one ENtire", None)


def test_held_text_is_shown_at_the_end() -> None:
    assert stopped(["END"], "one EN") == ("one EN", None)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["aab"])
    assert matcher.feed("xaaa") == "xa"


def test_the_stop_string_that_ends_first_wins() -> None:
    assert stopped(["bcd", "c"], "abcd") == ("ab", "c")


def test_of_stop_strings_that_end_together_the_longest_is_hidden() -> None:
    assert stopped(["c", "bc"], "abc") == ("a", "bc")


def test_nothing_is_shown_after_a_stop_string() -> None:
    assert stopped(["."], "a.", "b") == ("a", ".")


@given(st.data(), st.text("ab<\n", max_size=30), st.lists(st.text("ab<\n", min_size=1), max_size=4))
def test_stopping_does_not_depend_on_the_pieces(
    data: st.DataObject, text: str, stops: list[str]
) -> None:
    shown, matched = stopped(stops, *data.draw(chunked(text)))
    assert (shown, matched) == stopped(stops, text)
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown + (matched or ""))


# ---------------------------------------------------------------------------------- segments


def test_plain_text_stays_as_it_is() -> None:
    assert segments("  Hello\n", "world\n\n") == [TextDelta(text="  Hello\nworld\n\n")]


def test_text_is_shown_at_once() -> None:
    assert list(Segmenter(tools=TOOLS).feed("Hello")) == [TextDelta(text="Hello")]


def test_reasoning_comes_first_and_loses_its_newlines() -> None:
    assert segments("<think>\nhm\nso\n</think>\n\nYes") == [
        ReasoningDelta(text="hm\nso"),
        TextDelta(text="Yes"),
    ]


def test_an_empty_reasoning_block_says_nothing() -> None:
    assert segments("<think>\n\n</think>\n\nYes") == [TextDelta(text="Yes")]


def test_a_prompt_may_have_opened_the_reasoning() -> None:
    assert segments("\nhm</think>Yes", in_reasoning=True) == [
        ReasoningDelta(text="hm"),
        TextDelta(text="Yes"),
    ]


def test_reasoning_that_never_closes_is_still_reasoning() -> None:
    assert segments("<think>hm</thi") == [ReasoningDelta(text="hm</thi")]


@pytest.mark.parametrize("pieces", [("Use <think> tags",), ("Use ", "<think>", " tags")])
def test_a_think_tag_inside_the_answer_is_text(pieces: tuple[str, ...]) -> None:
    assert segments(*pieces) == [TextDelta(text="Use <think> tags")]


def test_a_call_after_text_drops_the_newlines_around_it() -> None:
    assert segments(f"Let me see.\n\n{CALL}\n") == [TextDelta(text="Let me see."), *call_events()]


def test_several_calls_count_from_zero() -> None:
    assert segments(f"{CALL}\n{CALL}") == [*call_events(0), *call_events(1)]


def test_a_call_may_follow_reasoning() -> None:
    assert segments(f"<think>\nhm\n</think>\n\n{CALL}") == [
        ReasoningDelta(text="hm"),
        *call_events(),
    ]


def test_a_call_without_its_closing_tag_counts_when_it_parses() -> None:
    assert segments(CALL.removesuffix("</tool_call>")) == call_events()


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "add", "parameters": {"a": 1}}',
        '{"name": "add", "arguments": "{\\"a\\": 1}"}',
    ],
)
def test_arguments_may_come_in_other_forms(body: str) -> None:
    assert segments(f"<tool_call>{body}</tool_call>") == call_events()


def test_a_call_may_have_no_arguments() -> None:
    assert segments('<tool_call>{"name": "add"}</tool_call>') == call_events(arguments="{}")


@pytest.mark.parametrize(
    "body",
    ['{"name": "add"', "[1]", '{"arguments": {}}', '{"name": "add", "arguments": 3}', "[" * 9999],
)
def test_a_call_that_does_not_parse_stays_in_the_text(body: str) -> None:
    raw = f"<tool_call>{body}</tool_call>"
    text, error, rest = segments(f"see\n{raw}\nmore")
    assert text == TextDelta(text=f"see\n{raw}")
    assert isinstance(error, ToolParseError)
    assert error.raw == raw
    assert error.message
    assert rest == TextDelta(text="\nmore")


def test_without_tools_a_call_is_text() -> None:
    assert segments(CALL, tools=False) == [TextDelta(text=CALL)]


@given(st.data(), OUTPUTS, st.booleans(), st.booleans())
def test_segments_do_not_depend_on_the_pieces(
    data: st.DataObject, text: str, tools: bool, in_reasoning: bool
) -> None:
    pieces = data.draw(chunked(text))
    assert segments(*pieces, tools=tools, in_reasoning=in_reasoning) == segments(
        text, tools=tools, in_reasoning=in_reasoning
    )


@given(st.text("ab <\n", max_size=20), st.text("ab <\n", min_size=1, max_size=20))
def test_text_around_a_call_is_kept_but_for_newlines(before: str, after: str) -> None:
    events = segments(before + CALL + after)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    before = before.rstrip("\n") if before.strip() else ""
    assert text == before + after.lstrip("\n")


# ----------------------------------------------------------------------------------- answers


def play(answer: Answer, *pieces: bytes, limited: bool = False) -> list[StreamEvent]:
    events = [event for piece in pieces for event in answer.feed(piece)]
    return merged([*events, *answer.finish(limited=limited, prompt_tokens=7, context_window=100)])


def reason(answer: Answer, *pieces: bytes, limited: bool = False) -> str:
    stop = play(answer, *pieces, limited=limited)[-1]
    assert isinstance(stop, Stop)
    return stop.reason


def test_an_answer_ends_with_its_counts_and_the_reason() -> None:
    assert play(Answer(), b"Hi", b" there") == [
        TextDelta(text="Hi there"),
        UsageEvent(prompt_tokens=7, completion_tokens=2, total_tokens=9, context_window=100),
        Stop(reason="end_turn"),
    ]


def test_reasoning_tokens_are_counted() -> None:
    usage = play(Answer(), b"<think>", b"a", b"b", b"</think>", b"c")[-2]
    assert isinstance(usage, UsageEvent)
    assert (usage.completion_tokens, usage.thinking_tokens) == (5, 4)


def test_a_character_split_over_tokens_comes_out_whole() -> None:
    answer = Answer()
    assert answer.feed("🙂".encode()[:2]) == []
    assert answer.feed("🙂".encode()[2:]) == [TextDelta(text="🙂")]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert play(Answer(), b"a\xff", b"b\xf0")[0] == TextDelta(text="a\ufffdb\ufffd")


def test_a_stop_string_ends_the_answer() -> None:
    answer = Answer(stops=["END"])
    assert reason(answer, b"a E", b"ND b") == "stop_sequence"
    assert answer.stopped


def test_stop_strings_do_not_apply_to_reasoning() -> None:
    answer = Answer(stops=["hm"])
    assert play(answer, b"<think>hm</think>ok")[:2] == [
        ReasoningDelta(text="hm"),
        TextDelta(text="ok"),
    ]
    assert not answer.stopped


def test_a_call_is_the_reason_to_stop() -> None:
    assert reason(Answer(tools=TOOLS), CALL.encode()) == "tool_use"


def test_a_call_that_a_stop_string_hid_is_no_reason() -> None:
    assert reason(Answer(tools=TOOLS, stops=["."]), b"ok." + CALL.encode()) == "stop_sequence"


def test_a_limit_is_the_reason_to_stop() -> None:
    assert reason(Answer(), b"abc", limited=True) == "max_tokens"


def test_a_limit_inside_reasoning_is_told_apart() -> None:
    assert reason(Answer(), b"<think>hm", limited=True) == "thinking_truncated"


def test_a_limit_after_reasoning_is_an_ordinary_one() -> None:
    assert reason(Answer(), b"<think>hm</think>", limited=True) == "max_tokens"


def test_reasoning_may_use_up_its_budget() -> None:
    answer = Answer(reasoning_budget=2)
    answer.feed(b"<think>")
    assert not answer.out_of_budget
    answer.feed(b"a")
    assert answer.out_of_budget
    answer.feed(b"</think>")
    assert not answer.out_of_budget


@given(st.data(), OUTPUTS, st.lists(st.sampled_from(["stop", "\n", "hell", "é", "<"]), max_size=2))
def test_an_answer_does_not_depend_on_its_tokens(
    data: st.DataObject, text: str, stops: list[str]
) -> None:
    whole = play(Answer(tools=TOOLS, stops=stops), text.encode())
    pieces = data.draw(chunked(text.encode()))
    parts = play(Answer(tools=TOOLS, stops=stops), *pieces)
    assert [e for e in parts if not isinstance(e, UsageEvent)] == [
        e for e in whole if not isinstance(e, UsageEvent)
    ]


@given(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9)))
def test_arguments_survive_whatever_they_hold(arguments: dict[str, object]) -> None:
    body = json.dumps({"name": "add", "arguments": arguments})
    _, delta, _ = segments(f"<tool_call>{body}</tool_call>")
    assert isinstance(delta, ToolCallDelta)
    assert json.loads(delta.arguments_delta) == arguments
