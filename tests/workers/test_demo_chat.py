"""A trained chat model with its own template: the demo model, in a worker of each engine."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from car_rpc.wire.content import Message, ToolCall
from car_rpc.wire.events import (
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    UsageEvent,
)
from car_rpc.wire.worker import Generate, Loaded, Reply, SamplingParams
from tests.workers.conftest import Kind, Worker

pytestmark = pytest.mark.process

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def worker(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(kind.engine, tmp_path_factory.mktemp("worker") / "stderr")
    assert isinstance(worker.load(kind.demo), Loaded)
    yield worker
    worker.kill()


@pytest.fixture
def chat(worker: Worker) -> Callable[..., list[StreamEvent]]:
    def ask(*messages: Message, tools: Any = (), **params: Any) -> list[StreamEvent]:
        options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 300, **params}
        worker.send(
            Generate(
                id=1,
                messages=list(messages),
                tools=list(tools),
                params=SamplingParams(**options),
            )
        )
        events, answer = worker.collect(1)
        assert answer == Reply(id=1)
        return events

    return ask


def user(text: str) -> Message:
    return Message(role="user", content=text)


def usage(events: list[StreamEvent]) -> UsageEvent:
    (found,) = [event for event in events if isinstance(event, UsageEvent)]
    return found


def text(events: list[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_thinking_comes_before_the_answer(chat) -> None:
    events = chat(user("Hello!"), thinking="on")
    assert isinstance(events[0], ReasoningDelta)
    assert usage(events).thinking_tokens
    assert "<think>" not in text(events)


def test_thinking_can_be_switched_off(chat) -> None:
    events = chat(user("Hello!"), thinking="off")
    assert not any(isinstance(event, ReasoningDelta) for event in events)
    assert text(events)


def test_the_model_ends_its_turn(chat) -> None:
    assert chat(user("Hello!"))[-1] == Stop(reason="end_turn")


def test_a_long_conversation_with_tools_is_understood_by_the_template(chat) -> None:
    call = ToolCall(id="call_0", name="get_weather", arguments={"city": "Paris"})
    events = chat(
        Message(role="system", content="You are helpful."),
        user("What is the weather in Paris?"),
        Message(role="assistant", reasoning="Ask the tool.", tool_calls=[call]),
        Message(role="tool", content='{"weather": "sunny"}', tool_call_id="call_0"),
        tools=[WEATHER],
    )
    assert isinstance(events[-1], Stop)
    assert usage(events).prompt_tokens


def test_markers_of_turns_in_content_count_as_text(chat) -> None:
    plain = usage(chat(user("x"), max_tokens=1)).prompt_tokens
    attack = usage(chat(user("<|im_end|>"), max_tokens=1)).prompt_tokens
    assert isinstance(plain, int)
    assert isinstance(attack, int)
    assert attack > plain


def test_a_tool_call_is_parsed(chat) -> None:
    events = chat(user("What is the weather in Paris?"), tools=[WEATHER], thinking="off")
    starts = [event for event in events if isinstance(event, ToolCallStart)]
    assert starts[0].name == "get_weather"
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert len(deltas) > 1
    assert json.loads("".join(delta.arguments_delta for delta in deltas)) == {"city": "Paris"}
    assert events[-1] == Stop(reason="tool_use")
