"""Rules that hold for every type of the wire, and the meaning of scripts."""

import inspect
from typing import Any, get_args

import msgspec
import pytest

from car_rpc import wire
from car_rpc.errors import KINDS, CarError, invalid_params, unsupported_mode
from car_rpc.testing import scripted_model
from car_rpc.wire import content, events, inference, lifecycle, log, models, runner
from car_rpc.wire.base import MAX_SAFE_INTEGER, WireStruct, decode_object
from car_rpc.wire.content import ImageBlock, Message, TextBlock, UrlSource
from car_rpc.wire.events import RUNNER_EVENT_TYPES, RunnerEvent
from car_rpc.wire.inference import GenerateParams, GenerateRequest
from car_rpc.wire.methods import METHODS
from car_rpc.wire.models import FakeSource, ModelSchema, ScriptStep
from car_rpc.wire.script import (
    Crash,
    Emit,
    Fail,
    Print,
    Sleep,
    Stall,
    check,
    expand,
    last_user_text,
)

MODULES = [content, events, inference, lifecycle, log, models, runner]
STRUCTS = [
    value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, WireStruct) and value is not WireStruct
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.__name__)
def test_every_type_is_immutable_keyword_only_and_documented(struct: Any) -> None:
    assert struct.__struct_config__.frozen
    assert struct.__doc__
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(struct).parameters.values())


def test_the_list_of_runner_events_is_that_of_the_union() -> None:
    tags = {struct.__struct_config__.tag for struct in get_args(RunnerEvent)}
    assert tags == RUNNER_EVENT_TYPES
    assert wire.__doc__


def test_the_method_table_is_consistent() -> None:
    for name, row in METHODS.items():
        assert issubclass(row.params, WireStruct), name
        assert row.result is None or issubclass(row.result, WireStruct), name
        assert row.stream is None or METHODS[row.stream].kind != "request", name


@pytest.mark.parametrize("field", ["max_tokens", "top_k", "budget_tokens"])
def test_numbers_that_other_languages_cannot_hold_are_refused(field: str) -> None:
    for value in (MAX_SAFE_INTEGER + 1, 10**30):
        raw = b'{"%b":%d}' % (field.encode(), value)
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(raw, type=GenerateParams)
    raw = b'{"%b":%d}' % (field.encode(), MAX_SAFE_INTEGER)
    assert getattr(msgspec.json.decode(raw, type=GenerateParams), field) == MAX_SAFE_INTEGER


def test_what_the_client_did_not_set_stays_absent() -> None:
    request = msgspec.json.decode(b'{"prompt":"x","params":{"seed":"12"}}', type=GenerateRequest)
    assert msgspec.json.decode(msgspec.json.encode(request.params)) == {"seed": "12"}


@pytest.mark.parametrize("model_id", ["a/b:c", "hub/org/name:q4_k_m", "a/b.c-d:e"])
def test_ids_of_models_have_a_provider_a_name_and_a_variant(model_id: str) -> None:
    model = {"id": model_id, "source": {"type": "delegated"}, "capabilities": ["generate"]}
    assert msgspec.convert(model, ModelSchema).id == model_id


@pytest.mark.parametrize(
    "model_id",
    [
        "a",
        "a/b",
        "a:b",
        "a/b:c:d",
        "/b:c",
        "a/:c",
        "a/b:",
        "a b/c:d",
        "",
        "a/b:c\n",
        "a/b:c\n\n",
        "\na/b:c",
    ],
)
def test_other_ids_are_refused(model_id: str) -> None:
    model = {"id": model_id, "source": {"type": "delegated"}, "capabilities": ["generate"]}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(model, ModelSchema)


@pytest.mark.parametrize("seed", ["12\n", "", "1.5", "9" * 21])
def test_a_seed_is_a_number_also_as_a_text(seed: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"seed": seed}, GenerateParams)


# Errors


def test_every_kind_has_a_code_a_display_text_and_a_meaning() -> None:
    for kind, row in KINDS.items():
        assert CarError(kind, "x").code == row.code != 0, kind
        assert row.display, kind
        assert row.meaning.endswith("."), kind
    shared = [row.code for row in KINDS.values() if row.code > 0]
    assert len(set(shared)) == len(shared), "our own codes are one to one"


def test_an_error_carries_its_kind_and_its_own_members() -> None:
    error = CarError("rate_limited", "slow down", retry_after_ms=5)
    assert error.data == {"kind": "rate_limited", "retryable": True, "retry_after_ms": 5}
    more = error.with_data(retry_after_ms=9, trace_id="t")
    assert more.data["retry_after_ms"] == 5, "what is there already stays"
    assert more.data["trace_id"] == "t"
    assert str(more) == "rate limited: slow down"
    with pytest.raises(KeyError):
        CarError("invented")


def test_two_errors_have_their_own_form() -> None:
    assert invalid_params("no", "$.a").data["path"] == "$.a"
    error = unsupported_mode("embed", "fake", "why")
    assert error.message == "mode embed not implemented on backend fake: why"


# Scripts


def actions(*steps: dict[str, Any], text: str = "") -> list[Any]:
    source = scripted_model("a/b:c", steps).source
    assert isinstance(source, FakeSource)
    check(source.script)
    return list(expand(source.script, text))


def emitted(*steps: dict[str, Any], text: str = "") -> list[Any]:
    return [action.event for action in actions(*steps, text=text) if isinstance(action, Emit)]


def test_an_echo_is_the_last_user_text_word_by_word() -> None:
    events = emitted({"echo": True}, text=" one  two\n")
    assert [e.text for e in events[:-1]] == [" one", "  two", "\n"]
    assert events[-1] == events_stop()


def events_stop() -> Any:
    from car_rpc.wire.events import Stop

    return Stop(reason="end_turn")


def test_a_script_ends_with_one_stop() -> None:
    stop = {"emit": {"type": "stop", "reason": "max_tokens"}}
    assert [e.reason for e in emitted(stop)] == ["max_tokens"]
    assert emitted() == [events_stop()]


def test_every_step_becomes_its_action() -> None:
    delta = {"type": "text_delta", "text": "x"}
    played = actions(
        {"emit": delta, "repeat": 2},
        {"emit": {"type": "heartbeat"}},
        {"sleep_ms": 5},
        {"print": "p"},
        {"crash": True},
        {"echo": True},
    )
    assert [type(action) for action in played] == [Emit, Emit, Sleep, Print, Crash]


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ({"fail": {"kind": "rate_limited"}}, "rate_limited"),
        ({"emit": {"type": "error", "kind": "timeout"}}, "timeout"),
    ],
)
def test_a_failure_ends_the_script(step: dict[str, Any], kind: str) -> None:
    (failure,) = actions(step, {"echo": True})
    assert isinstance(failure, Fail)
    assert failure.failure.kind == kind
    assert isinstance(actions({"stall": True}, {"echo": True})[-1], Stall)


def test_done_ends_the_script() -> None:
    done = {"emit": {"type": "done", "text": "all"}}
    kinds = [type(event).__name__ for event in emitted({"echo": True}, done, {"echo": True})]
    assert kinds == [*["TextDelta"] * (len(kinds) - 2), "Done", "Stop"]


@pytest.mark.parametrize(
    ("step", "found"),
    [(ScriptStep(), "none"), (ScriptStep(echo=True, sleep_ms=1), "echo and sleep_ms")],
)
def test_a_step_does_one_thing(step: ScriptStep, found: str) -> None:
    with pytest.raises(ValueError, match=f"step 1 needs exactly one action, found {found}"):
        check([ScriptStep(echo=True), step])


def test_the_last_user_turn_is_what_an_echo_repeats() -> None:
    image = ImageBlock(source=UrlSource(url="http://x"))
    blocks = [TextBlock(text="a"), image, TextBlock(text="b")]
    turns = [Message(role="user", content="first"), Message(role="assistant", content="no")]
    assert last_user_text(turns) == "first"
    assert last_user_text([*turns, Message(role="user", content=blocks)]) == "ab"
    assert last_user_text(turns[1:]) == ""


@pytest.mark.parametrize("number", ["1e400", "1.50", "0.1234567890123456789", "-0.0", "1E2"])
def test_what_is_patched_and_passed_on_keeps_its_numbers(number: str) -> None:
    text = f'{{"a":[{number}]}}'.encode()

    assert msgspec.json.encode(decode_object(text)) == text


def test_numbers_of_our_own_are_numbers_again() -> None:
    assert decode_object(msgspec.json.encode({"a": 12.375})) == {"a": 12.375}
