"""The next request of a conversation says something of the answer before it, or nothing."""

from typing import Any

import msgspec
import pytest

from car_rpc.outcomes.signals import MAX_CONVERSATIONS, Conversations, Sign
from car_rpc.wire.inference import GenerateRequest, InferenceResult

ASKED = "What is the tallest tower?"
CALL = {"id": "call_0", "name": "look", "arguments": {}}
OTHER = {"id": "call_1", "name": "look", "arguments": {}}


def asked(**fields: Any) -> GenerateRequest:
    return msgspec.convert({"conversation_id": "talk", **fields}, GenerateRequest)


def answered(*calls: dict[str, Any]) -> InferenceResult:
    known = {"text": "A.", "tool_calls": calls, "trace_id": "tr_1", "model_used": "a/b:c"}
    known |= {"latency_ms": 1.0, "time_to_first_token_ms": None, "usage": None}
    return msgspec.convert(known, InferenceResult)


def said(request: GenerateRequest, *calls: dict[str, Any]) -> Sign | None:
    conversations = Conversations()
    conversations.answered(asked(prompt=ASKED), answered(*calls))
    return conversations.began(request)


def result_of(call: dict[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call["id"], "content": "42"}


@pytest.mark.parametrize(
    "request_of_it",
    [
        asked(prompt=ASKED),
        asked(messages=[{"role": "user", "content": ASKED}]),
        asked(prompt="No, that is a mountain."),
        asked(prompt="That's wrong"),
        asked(prompt="Not what I meant: towers"),
        asked(prompt="try again, please"),
    ],
)
def test_an_answer_that_is_asked_for_again_or_contradicted_was_of_no_use(
    request_of_it: GenerateRequest,
) -> None:
    assert said(request_of_it) == Sign("tr_1", 0.25)


@pytest.mark.parametrize(
    "prompt", ["And the second tallest?", "No idea. Thanks!", "Nothing wrong with that", ""]
)
def test_any_other_question_says_nothing(prompt: str) -> None:
    assert said(asked(prompt=prompt)) is None


def test_an_answer_whose_tool_calls_all_have_results_was_of_use() -> None:
    history = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ""}]
    results = [result_of(CALL), result_of(OTHER)]
    whole = asked(messages=[*history, *results])
    assert said(whole, CALL, OTHER) == Sign("tr_1", 0.75)
    assert said(asked(messages=[*history, results[0]]), CALL, OTHER) is None
    block = {"type": "tool_result", "tool_use_id": "call_0", "content": "42"}
    blocks = asked(messages=[*history, {"role": "user", "content": [block]}])
    assert said(blocks, CALL) == Sign("tr_1", 0.75)


def test_an_answer_is_judged_once_and_only_in_its_own_conversation() -> None:
    conversations = Conversations()
    conversations.answered(asked(prompt=ASKED), answered())
    assert conversations.began(asked(prompt=ASKED, conversation_id="other")) is None
    assert conversations.began(GenerateRequest(prompt=ASKED)) is None
    assert conversations.began(asked(prompt=ASKED)) is not None
    assert conversations.began(asked(prompt=ASKED)) is None


def test_only_so_many_conversations_are_remembered() -> None:
    conversations = Conversations()
    for number in range(MAX_CONVERSATIONS + 1):
        request = asked(prompt=ASKED, conversation_id=str(number))
        conversations.answered(request, answered())
    assert conversations.began(asked(prompt=ASKED, conversation_id="0")) is None
    assert conversations.began(asked(prompt=ASKED, conversation_id="1")) is not None
