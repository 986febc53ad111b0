"""Servers that go on from the exact beginning of an answer."""

from typing import Any

import pytest

from car_rpc.backends.openai_compat.prefill import Beginning
from car_rpc.engine.continuation import Continuation
from car_rpc.wire.events import TextDelta

BODY = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}


def added(beginning: Beginning, *pieces: str) -> str:
    return "".join(beginning.joined(TextDelta(text=piece)).text for piece in pieces)


def last_turn(body: dict[str, Any]) -> Any:
    assert body["messages"][:-1] == BODY["messages"]
    return body["messages"][-1]


@pytest.mark.parametrize(
    ("prefill", "turn", "more"),
    [
        ("assistant_turn", {}, {}),
        (
            "continue_final_message",
            {},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        ("prefix", {"prefix": True}, {}),
    ],
)
def test_each_kind_of_server_is_told_in_its_own_way(prefill: Any, turn: Any, more: Any) -> None:
    body = Beginning(Continuation("One two", "")).added_to(BODY, prefill)
    assert last_turn(body) == {"role": "assistant", "content": "One two", **turn}
    assert body == {**BODY, "messages": body["messages"], **more}


def test_an_answer_that_begins_is_asked_for_as_it_is() -> None:
    assert Beginning(None).added_to(BODY, "continue_final_message") == BODY
    assert added(Beginning(None), " a") == " a"


def test_a_model_that_has_thought_is_not_to_think_again() -> None:
    body = Beginning(Continuation("One", "hm")).added_to(BODY, "assistant_turn")
    assert last_turn(body) == {"role": "assistant", "content": "One", "reasoning_content": "hm"}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One \n", [" \n", "two"]),
        ("One \n", [" ", "\ntwo"]),
        ("One \n", [" \ntwo"]),
        ("One \n", ["two"]),
        ("One\n", ["\n", "\ntwo"]),
        (" \n", [" \n", "One"]),
    ],
)
def test_white_space_at_the_end_is_not_sent_and_not_said_twice(
    text: str, pieces: list[str]
) -> None:
    beginning = Beginning(Continuation(text, ""))
    body = beginning.added_to(BODY, "prefix")
    if text.strip():
        assert last_turn(body)["content"] == text.rstrip()
    else:
        assert body == BODY
    assert text + added(beginning, *pieces) == {"One\n": "One\n\ntwo", " \n": " \nOne"}.get(
        text, "One \ntwo"
    )
