"""Which recorded request answers the next one."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.cassette.interaction import Asked, Interaction
from car_rpc.cassette.tape import Tape
from car_rpc.errors import CarError
from tests.cassette.conftest import Recorder, result

prompts = st.lists(st.sampled_from("abcd"), max_size=12)


@cache
def said(prompt: str, answer: str) -> Interaction:
    return Recorder()("generate", {"prompt": prompt}, result(answer))


@cache
def wanted(prompt: str) -> Asked:
    return Recorder().asked("generate", {"prompt": prompt})


def tape_of(prompts: Sequence[str], mode: Any) -> Tape:
    recorded = [said(each, str(number)) for number, each in enumerate(prompts)]
    return Tape(recorded, mode, "c.jsonl")


def answers(tape: Tape, asked: Sequence[str]) -> list[Any]:
    """The number of the recorded request that answers each one; -1 for an error."""
    found: list[Any] = []
    for prompt in asked:
        try:
            taken = tape.take(wanted(prompt))
        except CarError as error:
            found.append(-1 if error.kind == "not_found" else error)
        else:
            found.append(None if taken is None else int(taken.recorded.answered().result["text"]))
    return found


def prompts_of(tape: Tape) -> list[Any]:
    return [each.recorded.params["prompt"] for each in tape.interactions]


def expected(recorded: Sequence[str], asked: Sequence[str], missing: Any) -> list[Any]:
    """The rule, in short: the n-th request like another gets its n-th answer, or the last."""
    found: list[Any] = []
    for index, prompt in enumerate(asked):
        like = [n for n, each in enumerate(recorded) if each == prompt]
        found.append(like[min(asked[:index].count(prompt), len(like) - 1)] if like else missing)
    return found


@given(prompts, prompts)
def test_equal_requests_are_answered_in_their_order_and_then_by_the_last(
    recorded: list[str], asked: list[str]
) -> None:
    assert answers(tape_of(recorded, "replay"), asked) == expected(recorded, asked, -1)
    assert answers(tape_of(recorded, "auto"), asked) == expected(recorded, asked, None)


@given(prompts, prompts)
def test_strict_answers_only_the_next_request(recorded: list[str], asked: list[str]) -> None:
    tape = tape_of(recorded, "strict")
    rest = [*enumerate(recorded)]
    for prompt in asked:
        is_next = bool(rest) and rest[0][1] == prompt
        assert answers(tape, [prompt]) == [rest.pop(0)[0] if is_next else -1]
    assert tape.unused == [f"{number + 1} `generate`" for number, _ in rest]


@given(prompts, st.lists(st.sampled_from("abcdxyz"), max_size=12))
def test_what_is_new_goes_behind_what_answered_before_it(
    recorded: list[str], asked: list[str]
) -> None:
    tape = tape_of(recorded, "auto")
    for prompt in asked:
        if answers(tape, [prompt]) == [None]:
            tape.place().interaction = said(prompt, "new")
    found = prompts_of(tape)
    new = [prompt for prompt in asked if prompt not in recorded]
    assert [prompt for prompt in found if prompt in recorded] == recorded
    assert sorted(prompt for prompt in found if prompt not in recorded) == sorted(new)
    assert tape.has_grown is bool(new)


def test_asked_in_the_recorded_order_what_is_new_stands_where_it_was_asked() -> None:
    tape = tape_of("ac", "auto")
    for prompt in "xaybcz":
        if answers(tape, [prompt]) == [None]:
            tape.place().interaction = said(prompt, "new")
    assert prompts_of(tape) == [*"xaybcz"]


def test_a_request_that_was_never_answered_is_not_on_the_tape() -> None:
    tape = tape_of("a", "auto")
    tape.place()
    assert len(tape.interactions) == 1
    assert not tape.has_grown


def failure(tape: Tape, method: str, params: object) -> CarError:
    with pytest.raises(CarError) as caught:
        tape.take(Recorder().asked(method, params))
    return caught.value


def test_the_error_says_how_the_nearest_request_differs(record: Any) -> None:
    recorded = [
        record("generate", {"prompt": "Tell me a story.", "model": "a"}, result("Once")),
        record("generate", {"prompt": "What is the capital of France?", "model": "a"}, result()),
        record("embed", {"texts": ["What is the capital of Spain?"]}, {}),
    ]
    asked = {"prompt": "What is the capital of Spain?", "model": "a", "client_ref": "x"}
    tape = Tape(recorded, "replay", "c.jsonl")
    error = failure(tape, "generate", asked)
    assert (error.kind, error.retryable, tape.missed) == ("not_found", False, 1)
    assert error.message == (
        "not found: the cassette c.jsonl has no `generate` like this one, which differs from its"
        " request 2 in `$.prompt`; --cassette-mode record records all anew, auto what is missing"
    )
    assert msgspec.to_builtins(error.data) == {
        "kind": "not_found",
        "retryable": False,
        "cassette": "c.jsonl",
        "number": 2,
        "diff": [
            {
                "path": "$.prompt",
                "recorded": "What is the capital of France?",
                "got": "What is the capital of Spain?",
            }
        ],
    }


def test_where_nothing_is_near_there_is_no_diff(record: Any) -> None:
    tape = Tape([record("models.list", {}, {"models": []})], "replay", "c.jsonl")
    error = failure(tape, "generate", {"prompt": "a"})
    assert "the cassette c.jsonl has no `generate`; " in error.message
    assert (error.data["diff"], "number" in error.data) == ([], False)


def test_strict_says_what_it_expected(record: Any) -> None:
    tape = Tape([record("models.list", {}, {"models": []})], "strict", "c.jsonl")
    error = failure(tape, "generate", {"prompt": "a"})
    assert msgspec.to_builtins(error.data["diff"]) == [
        {"path": "method", "recorded": "models.list", "got": "generate"}
    ]
    assert "differs from its request 1, `models.list`, in `method`" in error.message
    error = failure(tape, "models.list", {"capability": "embed"})
    assert msgspec.to_builtins(error.data["diff"]) == [{"path": "$.capability", "got": "embed"}]
    assert tape.take(record.asked("models.list", {})) is not None
    error = failure(tape, "models.list", {})
    assert "has no more requests, and this `models.list` is one too many" in error.message
    assert (tape.missed, tape.unused) == (3, [])


def test_a_secret_in_a_request_is_not_in_the_diff(record: Any) -> None:
    key = "sk-" + "a1B2" * 10
    tape = Tape([record("generate", {"prompt": "a"}, result())], "replay", "c.jsonl")
    error = failure(tape, "generate", {"prompt": f"my key is {key}"})
    assert key not in msgspec.json.encode(error.data).decode()
