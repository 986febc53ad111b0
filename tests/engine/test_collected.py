"""A result that came in one piece is told as a stream of it would be."""

from hypothesis import given
from hypothesis import strategies as st

from car_rpc.engine.collected import collected_to_events
from car_rpc.engine.stream import Accumulator
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import (
    ReasoningDelta,
    Stop,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    UsageEvent,
)


def test_the_events_have_the_contracts_order() -> None:
    calls = [
        ToolCall(id="a", name="f", arguments={"x": [1, "é"]}),
        ToolCall(id="b", name="g", arguments={}),
    ]
    usage = UsageEvent(prompt_tokens=3)
    assert list(
        collected_to_events(
            stop_reason="tool_use", usage=usage, tool_calls=calls, text="hi", reasoning="hm"
        )
    ) == [
        ReasoningDelta(text="hm"),
        TextDelta(text="hi"),
        ToolCallStart(index=0, id="a", name="f"),
        ToolCallDelta(index=0, id="a", arguments_delta='{"x":[1,"é"]}'),
        ToolCallStart(index=1, id="b", name="g"),
        ToolCallDelta(index=1, id="b", arguments_delta="{}"),
        usage,
        Stop(reason="tool_use"),
    ]


def test_of_nothing_there_are_no_events() -> None:
    assert list(collected_to_events()) == []


@given(
    st.text(max_size=5),
    st.text(max_size=5),
    st.lists(st.dictionaries(st.text(max_size=3), st.integers()), max_size=3),
)
def test_a_stream_of_it_is_it_again(
    text: str, reasoning: str, arguments: list[dict[str, int]]
) -> None:
    calls = [ToolCall(id=f"c{n}", name="f", arguments=value) for n, value in enumerate(arguments)]
    accumulator = Accumulator()
    for event in collected_to_events(text=text, reasoning=reasoning, tool_calls=calls):
        accumulator.push(event)
    accumulator.close()
    assert (accumulator.text, accumulator.reasoning) == (text, reasoning)
    assert accumulator.tool_calls() == calls
