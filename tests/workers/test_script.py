"""What the steps of a script mean."""

import pytest

from car_rpc.wire.content import Message, TextBlock, ToolCall
from car_rpc.wire.events import (
    Done,
    ErrorEvent,
    Heartbeat,
    Stop,
    TextDelta,
)
from car_rpc.wire.models import ScriptedFailure, ScriptStep
from car_rpc.wire.script import (
    Action,
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

END = Emit(Stop(reason="end_turn"))


def actions(*steps: ScriptStep, text: str = "") -> list[Action]:
    return list(expand(steps, text))


def test_a_script_without_steps_still_stops() -> None:
    assert actions() == [END]


def test_an_event_may_be_repeated() -> None:
    hi = TextDelta(text="hi")
    assert actions(ScriptStep(emit=hi, repeat=2)) == [Emit(hi), Emit(hi), END]


def test_a_script_may_say_why_it_stops() -> None:
    stop = Stop(reason="max_tokens")
    assert actions(ScriptStep(emit=stop)) == [Emit(stop)]


def test_echo_repeats_word_by_word_and_keeps_white_space() -> None:
    text = "  one two\n\nthree  "
    words = ["  one", " two", "\n\nthree", "  "]
    assert actions(ScriptStep(echo=True), text=text) == [
        *(Emit(TextDelta(text=word)) for word in words),
        END,
    ]


def test_the_last_user_turn_is_echoed() -> None:
    messages = [
        Message(role="user", content="first"),
        Message(role="user", content=[TextBlock(text="a"), TextBlock(text="b")]),
        Message(role="assistant", content="no"),
    ]
    assert last_user_text(messages) == "ab"
    assert last_user_text([]) == ""


def test_sleep_and_print_go_on() -> None:
    assert actions(ScriptStep(sleep_ms=5), ScriptStep(print="x")) == [Sleep(5), Print("x"), END]


@pytest.mark.parametrize(
    ("step", "action"),
    [
        (ScriptStep(crash=True), Crash()),
        (ScriptStep(stall=True), Stall()),
        (ScriptStep(fail=ScriptedFailure(kind="timeout")), Fail(ScriptedFailure(kind="timeout"))),
        (
            ScriptStep(emit=ErrorEvent(kind="timeout", message="late")),
            Fail(ScriptedFailure(kind="timeout", message="late")),
        ),
    ],
)
def test_nothing_follows_an_end(step: ScriptStep, action: object) -> None:
    assert actions(step, ScriptStep(echo=True), text="more") == [action]


def test_done_ends_the_script_and_tells_what_the_deltas_may_lack() -> None:
    done = Done(text="full", tool_calls=[ToolCall(id="c", name="add", arguments={"a": 1})])
    hi = TextDelta(text="hi")
    assert actions(ScriptStep(emit=hi), ScriptStep(emit=done), ScriptStep(emit=hi)) == [
        Emit(hi),
        Emit(done),
        END,
    ]


def test_a_heartbeat_says_nothing() -> None:
    assert actions(ScriptStep(emit=Heartbeat())) == [END]


@pytest.mark.parametrize("step", [ScriptStep(), ScriptStep(echo=True, sleep_ms=1)])
def test_a_step_has_exactly_one_action(step: ScriptStep) -> None:
    with pytest.raises(ValueError, match="step 1 needs exactly one action"):
        check([ScriptStep(echo=True), step])
