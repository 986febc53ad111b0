import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.engine.stream import Accumulator, error_of
from car_rpc.errors import CarError
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import (
    ContentBlockStop,
    Done,
    ErrorEvent,
    Heartbeat,
    ProviderOutputItem,
    ReasoningDelta,
    Stop,
    StreamEvent,
    StreamReset,
    TextDelta,
    ToolCallCancel,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
    UsageEvent,
)
from car_rpc.wire.inference import TokenLogprob, Usage

texts = st.text("ab 😀", max_size=3)
indexes = st.integers(0, 2)
ids = st.sampled_from(["", "c", "d", "call_1"])
counts = st.integers(0, 50) | st.just(msgspec.UNSET)
calls = st.builds(ToolCall, id=st.just("c"), name=st.just("f"), arguments=st.just({"a": 1}))
events = st.one_of(
    st.builds(TextDelta, text=texts),
    st.builds(ReasoningDelta, text=texts),
    st.builds(ToolCallStart, index=indexes, id=ids, name=st.sampled_from(["", "f", "g"])),
    st.builds(
        ToolCallDelta,
        index=indexes,
        id=ids,
        arguments_delta=st.sampled_from(['{"a":', "1}", '{"a":1}', "{}", "oops", "[]"]),
    ),
    st.builds(ToolCallCancel, index=indexes, id=ids, reason=st.just("x")),
    st.builds(ContentBlockStop, index=indexes),
    st.builds(UsageEvent, prompt_tokens=counts, completion_tokens=counts, total_tokens=counts),
    st.builds(ProviderOutputItem, item=st.integers()),
    st.builds(Stop, reason=st.just("end_turn")),
    st.builds(StreamReset, reason=st.just("again")),
    st.builds(Heartbeat),
    st.builds(Done, text=texts, tool_calls=st.lists(calls, max_size=2)),
)


class Client:
    """What a client makes of the events that reach it."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.arguments: dict[int, str] = {}
        self.ids: set[str] = set()
        self.begun = 0

    def take(self, event: StreamEvent) -> None:
        match event:
            case TextDelta():
                self.text += event.text
            case ReasoningDelta():
                self.reasoning += event.text
            case ToolCallStart():
                assert event.index == self.begun
                assert event.id not in self.ids
                assert event.name
                self.begun += 1
                self.ids.add(event.id)
                self.arguments[event.index] = ""
            case ToolCallDelta():
                self.arguments[event.index] += event.arguments_delta
            case ToolCallCancel():
                del self.arguments[event.index]
                self.ids.remove(event.id)  # it is free for another call
            case ContentBlockStop():
                json.loads(self.arguments[event.index] or "{}")
            case StreamReset():
                self.__init__()
            case _:
                assert not isinstance(event, Done | Heartbeat | ErrorEvent)


@given(st.lists(events, max_size=25))
def test_what_is_passed_on_adds_up_to_the_result(incoming: list[Any]) -> None:
    accumulator, client = Accumulator(), Client()
    for event in incoming:
        for outgoing in accumulator.push(event):
            client.take(outgoing)
        assert client.text == accumulator.text
    for outgoing in accumulator.close():
        client.take(outgoing)
    assert accumulator.stop_reason is not None
    assert client.text == accumulator.text
    assert client.reasoning == accumulator.reasoning
    arguments = [json.loads(text or "{}") for _, text in sorted(client.arguments.items())]
    assert [call.arguments for call in accumulator.tool_calls()] == arguments
    assert accumulator.close() == []


@given(st.lists(st.builds(UsageEvent, prompt_tokens=counts, cache_read_tokens=counts), max_size=6))
def test_counts_merge_by_their_maximum_in_any_order(usages: list[UsageEvent]) -> None:
    accumulator = Accumulator()
    for usage in usages:
        assert accumulator.push(usage) == [usage]
    given_counts = [u.prompt_tokens for u in usages if isinstance(u.prompt_tokens, int)]
    merged = accumulator.usage
    assert (merged.prompt_tokens if merged else None) == max(given_counts, default=None)


def test_a_total_is_made_only_of_counts_that_were_told() -> None:
    accumulator = Accumulator()
    assert accumulator.usage is None
    accumulator.push(UsageEvent(prompt_tokens=3))
    assert accumulator.usage == Usage(prompt_tokens=3)
    accumulator.push(UsageEvent(completion_tokens=4))
    assert accumulator.usage == Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7)
    accumulator.push(UsageEvent(total_tokens=9))
    assert accumulator.usage == Usage(prompt_tokens=3, completion_tokens=4, total_tokens=9)


def test_counts_of_several_attempts_add_up() -> None:
    accumulator = Accumulator()
    accumulator.push(UsageEvent(prompt_tokens=3, completion_tokens=1, context_window=99))
    accumulator.push(UsageEvent(completion_tokens=4))
    accumulator.begin_attempt()
    assert accumulator.usage.completion_tokens == 4
    accumulator.push(UsageEvent(prompt_tokens=7, completion_tokens=2, context_window=99))
    accumulator.push(UsageEvent(thinking_tokens=1))
    assert accumulator.usage == Usage(
        prompt_tokens=10,
        completion_tokens=6,
        total_tokens=16,
        context_window=99,
        thinking_tokens=1,
    )


def test_deltas_win_over_done() -> None:
    accumulator = Accumulator()
    accumulator.push(TextDelta(text="from deltas"))
    accumulator.push(ToolCallStart(index=0, id="d", name="f"))
    done = Done(text="from done", tool_calls=[ToolCall(id="e", name="g", arguments={})])
    assert accumulator.push(done) == []
    assert accumulator.text == "from deltas"
    assert [call.id for call in accumulator.tool_calls()] == ["d"]


def test_done_fills_what_the_deltas_lacked_as_events() -> None:
    accumulator = Accumulator()
    call = ToolCall(id="e", name="g", arguments={"a": [1, "é"]})
    assert accumulator.push(Done(text="hi", tool_calls=[call])) == [
        TextDelta(text="hi"),
        ToolCallStart(index=0, id="e", name="g"),
        ToolCallDelta(index=0, id="e", arguments_delta='{"a":[1,"é"]}'),
        ContentBlockStop(index=0),
    ]
    assert accumulator.tool_calls() == [call]
    assert accumulator.push(Done(text="again", tool_calls=[call])) == []


@pytest.mark.parametrize("arguments", ["oops", "[1]", '"x"', '{"a":', "1", "{}{}"])
def test_arguments_that_do_not_parse_stay_as_text_with_a_parse_error(arguments: str) -> None:
    accumulator = Accumulator()
    accumulator.push(ToolCallStart(index=0, id="c", name="f"))
    accumulator.push(ToolCallDelta(index=0, id="c", arguments_delta=arguments))
    told = accumulator.close()
    assert told == [
        ToolParseError(index=0, raw=arguments, message="the arguments are not a JSON object"),
        ToolCallCancel(index=0, id="c", reason="the arguments are not a JSON object"),
        TextDelta(text=f"f({arguments})"),
        Stop(reason="end_turn"),
    ]
    assert accumulator.tool_calls() == []
    assert accumulator.text == f"f({arguments})"


def test_what_the_backend_says_of_the_form_stays_when_an_answer_is_not_extended() -> None:
    accumulator = Accumulator()
    stop = Stop(reason="max_tokens", schema_valid=False)
    assert accumulator.push(stop) == [stop]
    accumulator.begin_attempt()  # which fails
    accumulator.push(Stop(reason="max_tokens"))
    assert accumulator.schema_valid is False


def test_a_reset_drops_all_that_belongs_to_the_dropped_attempt() -> None:
    accumulator = Accumulator()
    accumulator.push(TextDelta(text="a"))
    accumulator.push(ReasoningDelta(text="b"))
    accumulator.push(ToolCallStart(index=0, id="c", name="f"))
    accumulator.push(ProviderOutputItem(item={"of": "the first attempt"}))
    accumulator.push(Stop(reason="max_tokens", schema_valid=False))
    accumulator.push(UsageEvent(prompt_tokens=5))
    accumulator.logprobs.append(TokenLogprob(token="a", logprob=0.0, bytes=[97], top_logprobs=[]))
    assert accumulator.push(StreamReset(reason="retry")) == [StreamReset(reason="retry")]
    assert (accumulator.text, accumulator.reasoning, accumulator.tool_calls()) == ("", "", [])
    assert accumulator.provider_output_items == []
    assert accumulator.stop_reason is None
    assert accumulator.schema_valid is msgspec.UNSET
    assert accumulator.logprobs == []
    assert accumulator.usage == Usage(prompt_tokens=5), "what was used was used"


def test_events_without_content_are_not_passed_on() -> None:
    accumulator = Accumulator()
    for event in (TextDelta(text=""), ReasoningDelta(text=""), Heartbeat(), Done()):
        assert accumulator.push(event) == []


def test_an_error_event_is_raised_as_its_kind() -> None:
    with pytest.raises(CarError, match="rate limited: slow down") as caught:
        Accumulator().push(ErrorEvent(kind="rate_limited", message="slow down"))
    assert caught.value.kind == "rate_limited"
    assert error_of(ErrorEvent(kind="invented", message="m")).kind == "inference_failed"
