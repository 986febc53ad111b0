"""Policies on the way out: nothing of what they refuse or replace is told, to anybody."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.engine.generation import Origin
from car_rpc.engine.policing import NobodyToAsk, Policing
from car_rpc.engine.ports import GenerateCall, Recording, Transcript
from car_rpc.engine.screening import Screen
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.eventlog.story import problems
from car_rpc.policy.rules import Rules
from car_rpc.testing import FakeClock, scripted_model
from car_rpc.wire.events import (
    ContentBlockStop,
    Done,
    ErrorEvent,
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
)
from car_rpc.wire.inference import TokenLogprob
from car_rpc.wire.policy import PolicyRule
from car_rpc.wire.speech import Word

SECRET = "sk-abcdef"
NO_SECRETS = {"action": "redact", "patterns": ["sk-[a-z]{6}"], "replacement": "[key]"}
NO_SHELL = {"action": "deny", "match": {"tools": ["shell"], "tool_arguments": {"/cmd": "^rm"}}}
HALF = "The quick brown fox jumps over the lazy dog. "


@pytest.fixture
def police(world: Any) -> Callable[..., None]:
    def choose(*rules: dict[str, Any]) -> None:
        made = made_of(*rules)
        world.engine.policing.rules = lambda: made

    return choose


def made_of(*rules: dict[str, Any]) -> Rules:
    named = [{"id": f"r{number}", **rule} for number, rule in enumerate(rules)]
    return Rules(msgspec.convert(named, list[PolicyRule]))


def answers(world: Any, *scripts: Sequence[StreamEvent | CarError]) -> None:
    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        for event in scripts[min(call.attempt, len(scripts)) - 1]:
            await asyncio.sleep(0)
            if isinstance(event, CarError):
                raise event
            yield event

    world.backend.play = play


def texts(*pieces: str) -> list[StreamEvent]:
    return [TextDelta(text=piece) for piece in pieces]


def call(name: str, *arguments: str, index: int = 0, ends: bool = True) -> list[StreamEvent]:
    return [
        ToolCallStart(index=index, id=f"c{index}", name=name),
        *(ToolCallDelta(index=index, id=f"c{index}", arguments_delta=each) for each in arguments),
        *([ContentBlockStop(index=index)] if ends else []),
    ]


def told(world: Any, kind: type = TextDelta) -> str:
    text = ""
    for event in world.listener.events:
        text = "" if isinstance(event, StreamReset) else text
        text += event.text if isinstance(event, kind) else ""
    return text


def everything(world: Any) -> str:
    """All that the client and the log got, but what the client had asked."""
    events = [*world.listener.events, *world.listener.last]
    logged = [entry.data for entry in world.sink.entries if entry.type != "request"]
    return msgspec.json.encode([events, logged]).decode()


def decisions(world: Any) -> list[tuple[str, str]]:
    data = [entry.data for entry in world.sink.entries if entry.type == "policy"]
    return [(each["rule_id"], each["decision"]) for each in data]


# Content


async def test_what_is_replaced_reaches_nobody_however_it_is_cut(world: Any, police: Any) -> None:
    police(NO_SECRETS)
    pieces = ["the key is s", "k", "-abc", "def, and that ", "is s"]
    answers(
        world, [ReasoningDelta(text="use sk-"), ReasoningDelta(text="abcdef!"), *texts(*pieces)]
    )
    result = await world.generate()
    assert result.text == told(world) == "the key is [key], and that is s"
    assert result.reasoning == told(world, ReasoningDelta) == "use [key]!"
    assert world.listener.last == [Done(text=result.text, tool_calls=[])]
    assert "abc" not in everything(world)
    counts = [entry.data["count"] for entry in world.sink.entries if entry.type == "policy"]
    assert counts == [1, 1]
    assert not list(problems(await world.sink.story(result.trace_id)))


async def test_what_is_refused_ends_the_answer_before_it(world: Any, police: Any) -> None:
    police({"action": "deny", "patterns": [SECRET], "reason": "no keys"})
    answers(world, [*texts("it is sk-abc", "def", "ghi", "never told")])
    error = await world.failure()
    assert (error.kind, error.extra["reason"]) == ("policy_denied", "no keys")
    assert error.extra["subject"]["content"] == "text"
    assert told(world) == "it is "
    assert isinstance(world.listener.last[0], ErrorEvent)
    assert "abc" not in everything(world)
    assert world.backend.closed == 1
    assert decisions(world) == [("r0", "denied")]


async def test_a_match_over_a_break_is_found_too(world: Any, police: Any) -> None:
    police(NO_SECRETS)
    broken = CarError("stream_interrupted", "unexpected_eof")
    answers(world, [*texts(HALF, "It is sk-abc"), broken], [*texts(HALF, "It is sk-abc", "def.")])
    result = await world.generate()
    assert result.text == told(world) == HALF + "It is [key]."
    assert "sk-" not in everything(world)


async def test_a_match_over_a_continuation_is_found_too(world: Any, police: Any) -> None:
    police(NO_SECRETS)
    world.backend.continues = True
    answers(
        world,
        [*texts("It is sk-abc"), Stop(reason="max_tokens")],
        [*texts("def."), Stop(reason="end_turn")],
    )
    result = await world.generate(max_tokens_continuations=1)
    assert result.text == told(world) == "It is [key]."
    assert "sk-" not in everything(world)
    stops = [event.reason for event in world.listener.events if isinstance(event, Stop)]
    assert stops[-1] == result.stop_reason == "end_turn"


async def test_a_failure_tells_what_was_told_and_no_more(world: Any, police: Any) -> None:
    police(NO_SECRETS)
    broken = CarError("stream_interrupted", "unexpected_eof")
    answers(world, [*texts(HALF, f"{SECRET} and then s"), broken], [broken])
    error = await world.failure()
    assert error.extra["snapshot"].text == told(world) == HALF + "[key] and then "


async def test_a_cancel_tells_what_was_told_and_no_more(world: Any, police: Any) -> None:
    police(NO_SECRETS)
    reached = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text=f"{SECRET} and sk-")
        reached.set()
        await asyncio.Event().wait()

    world.backend.play = play
    task = asyncio.create_task(world.failure())
    await reached.wait()
    task.cancel()
    error = await task
    assert error.extra["partial"]["text"] == "[key] and "


async def test_what_is_held_back_comes_before_the_stop(world: Any, police: Any) -> None:
    police(NO_SECRETS)
    answers(world, [*texts("yes"), Stop(reason="end_turn")])
    await world.generate()
    assert world.listener.events[-2:] == [TextDelta(text="s"), Stop(reason="end_turn")]


async def test_a_reset_forgets_what_is_held_back(world: Any, police: Any) -> None:
    police(NO_SECRETS)
    answers(world, [*texts("sk-abc"), StreamReset(reason="again"), *texts("def")])
    assert (await world.generate()).text == told(world) == "def"


async def test_a_provider_s_own_items_and_calls_that_are_none_are_cleaned(
    world: Any, police: Any
) -> None:
    police(NO_SECRETS)
    answers(
        world,
        [
            ProviderOutputItem(item={"type": "m", "parts": [{"text": SECRET, "n": 7}]}),
            *call("keep", '{"key": "sk-abc', ends=False),
            ToolParseError(index=1, raw=f"<{SECRET}>", message="bad"),
        ],
    )
    result = await world.generate()
    assert result.provider_output_items == [{"type": "m", "parts": [{"text": "[key]", "n": 7}]}]
    assert "abcdef" not in everything(world)


async def test_rules_are_about_the_models_that_they_name(world: Any, police: Any) -> None:
    police({**NO_SECRETS, "match": {"models": ["acme/*"]}})
    answers(world, texts(SECRET))
    assert (await world.generate()).text == SECRET


# Tool calls


async def test_a_call_that_may_happen_is_told_once_it_is_whole(world: Any, police: Any) -> None:
    police(NO_SHELL)
    events = call("shell", '{"cmd":', ' "ls"}')
    answers(world, [*texts("let me see"), *events])
    result = await world.generate()
    calls = [e for e in world.listener.events if isinstance(e, ToolCallStart | ToolCallDelta)]
    assert calls == events[:-1]
    assert [each.arguments for each in result.tool_calls] == [{"cmd": "ls"}]


async def test_a_call_that_is_refused_is_withdrawn_and_was_never_told(
    world: Any, police: Any
) -> None:
    police({**NO_SHELL, "reason": "nothing is deleted"})
    answers(world, [*texts("so "), *call("shell", '{"cmd": "rm', ' -rf /"}'), *texts("never")])
    error = await world.failure()
    assert error.extra["subject"] == {
        "method": "generate", "model": "test/one:a", "tool": "shell",
    }  # fmt: skip
    detail = "rule 'r0' refuses the tool 'shell': nothing is deleted"
    assert world.listener.events[1:] == [
        TextDelta(text="so "), ToolCallCancel(index=0, id="c0", reason=detail),
    ]  # fmt: skip
    assert world.listener.last[0].kind == "policy_denied"
    assert "rm" not in everything(world)
    assert "never" not in everything(world)


async def test_calls_keep_their_order_and_text_does_not_wait(world: Any, police: Any) -> None:
    police(NO_SHELL)
    answers(
        world,
        [
            *call("shell", '{"cmd":', ends=False),
            *call("other", "{}", index=1),
            *texts("meanwhile"),
            ToolCallDelta(index=0, id="c0", arguments_delta='"ls"}'),
            ContentBlockStop(index=0),
        ],
    )
    result = await world.generate()
    starts = [e.index for e in world.listener.events if isinstance(e, ToolCallStart)]
    first = next(e for e in world.listener.events[1:])
    assert first == TextDelta(text="meanwhile")
    assert starts == [0, 1]
    assert [each.name for each in result.tool_calls] == ["shell", "other"]


@pytest.mark.parametrize("stop", [[Stop(reason="tool_use")], []])
async def test_arguments_that_come_after_the_end_are_judged_as_well(
    world: Any, police: Any, stop: list[StreamEvent]
) -> None:
    police(NO_SHELL)
    late = ToolCallDelta(index=0, id="c0", arguments_delta='{"cmd": "rm x"}')
    answers(world, [*call("shell", ends=False), *stop, late])
    assert (await world.failure()).kind == "policy_denied"
    assert "rm x" not in everything(world)


async def test_a_call_that_a_break_cut_is_never_told(world: Any, police: Any) -> None:
    police(NO_SHELL)
    broken = CarError("stream_interrupted", "unexpected_eof")
    answers(
        world,
        [*texts(HALF), *call("shell", '{"cmd": "r', ends=False), broken],
        [*texts(HALF, "done")],
    )
    result = await world.generate()
    assert result.tool_calls == []
    assert '"r' not in "".join(
        e.arguments_delta for e in world.listener.events if isinstance(e, ToolCallDelta)
    )


async def test_secrets_in_arguments_are_replaced_in_stream_and_result(
    world: Any, police: Any
) -> None:
    police(NO_SECRETS)
    answers(world, call("send", '{"to": "x", "n": 1, "body": ["sk-', 'abcdef"]}'))
    result = await world.generate()
    arguments = "".join(
        e.arguments_delta for e in world.listener.events if isinstance(e, ToolCallDelta)
    )
    assert msgspec.json.decode(arguments) == result.tool_calls[0].arguments
    assert result.tool_calls[0].arguments == {"to": "x", "n": 1, "body": ["[key]"]}
    assert "abcdef" not in everything(world)


async def test_tokens_that_spell_what_is_replaced_are_not_told(world: Any, police: Any) -> None:
    police(NO_SECRETS)

    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        told = TokenLogprob(token="sk-abcdef", logprob=-1.0, bytes=[], top_logprobs=[])
        call.hear_logprobs([told])
        yield TextDelta(text="sk-abcdef")

    world.backend.play = play
    assert (await world.generate()).logprobs is msgspec.UNSET
    assert "abcdef" not in everything(world)


async def test_a_call_that_needs_approval_and_gets_none_is_refused(world: Any, police: Any) -> None:
    police({"action": "require_approval", "match": {"tools": ["*"]}})
    answers(world, call("shell", "{}"))
    assert (await world.failure()).kind == "policy_denied"


# What comes as a whole


async def test_a_transcript_is_cleaned_and_keeps_only_words_that_say_no_more(
    world: Any, police: Any
) -> None:
    world.registry.register(
        msgspec.structs.replace(
            scripted_model("me/ears:1", []), capabilities=["generate", "speech_to_text"]
        )
    )

    async def transcribe(*_: Any) -> Transcript:
        words = [Word(word=each, start_ms=0, end_ms=1) for each in ("my", "pin", "1234")]
        return Transcript("my pin 1234", "en", words)

    world.backend.transcribe = transcribe

    async def heard() -> Any:
        recording = Recording(b"", "", None, None, timestamps=True)
        return await world.engine.transcribe("me/ears:1", recording, Origin(1, "transcribe", b"{}"))

    assert len((await heard()).words) == 3
    police({"action": "redact", "patterns": [r"pin \d{4}"], "match": {"methods": ["transcribe"]}})
    said = await heard()
    assert (said.text, said.words) == ("my [redacted]", [])
    assert "1234" not in everything(world)[-200:]
    police({"action": "deny", "patterns": [r"\d{4}"]})
    with pytest.raises(CarError, match="refuses the text of me/ears:1"):
        await heard()


# Any answer

pieces = st.lists(
    st.one_of(
        st.text("sk-abc x", max_size=6).map(lambda text: TextDelta(text=text)),
        st.text("sk-abc x", max_size=6).map(lambda text: ReasoningDelta(text=text)),
        st.sampled_from([Stop(reason="end_turn"), StreamReset(reason="again")]),
        st.integers(0, 1).flatmap(
            lambda index: st.sampled_from(
                [
                    ToolCallStart(index=index, id=f"c{index}", name="shell"),
                    ToolCallDelta(index=index, id=f"c{index}", arguments_delta='{"cmd": "'),
                    ToolCallDelta(index=index, id=f"c{index}", arguments_delta='rm sk-abc"}'),
                    ToolCallDelta(index=index, id=f"c{index}", arguments_delta='ls"}'),
                    ContentBlockStop(index=index),
                    ToolCallCancel(index=index, id=f"c{index}", reason="why"),
                ]
            )
        ),
    ),
    max_size=16,
)


def added_up(said: list[StreamEvent]) -> tuple[str, str, list[Any]]:
    """Text, reasoning and the arguments of the calls, as a client makes them of a stream."""
    text: dict[type, str] = {}
    arguments: dict[int, str] = {}
    for event in said:
        if isinstance(event, StreamReset):
            text, arguments = {}, {}
        elif isinstance(event, TextDelta | ReasoningDelta):
            text[type(event)] = text.get(type(event), "") + event.text
        elif isinstance(event, ToolCallStart):
            arguments[event.index] = ""
        elif isinstance(event, ToolCallDelta):
            arguments[event.index] += event.arguments_delta
        elif isinstance(event, ToolCallCancel):
            arguments.pop(event.index, None)
    calls = [msgspec.json.decode(each or "{}") for each in arguments.values()]
    return text.get(TextDelta, ""), text.get(ReasoningDelta, ""), calls


@given(pieces)
def test_whatever_comes_nothing_forbidden_is_told_and_the_rest_adds_up(
    events: list[StreamEvent],
) -> None:
    class Ids:
        def new(self, prefix: str) -> str:
            return prefix

    made = made_of({"action": "redact", "patterns": ["sk-abc"], "replacement": "#"}, NO_SHELL)
    guard = Policing(FakeClock(), Ids(), lambda: made, NobodyToAsk()).guard("generate")
    accumulator, screen = Accumulator(), Screen(guard)
    screen.begin_attempt(scripted_model("test/one:a", []))
    said: list[StreamEvent] = []
    for event in events:
        for each in accumulator.push(event):
            said += screen.take(each)
    for each in accumulator.close():
        said += screen.take(each)
    said += screen.close()
    said += screen.end()
    wire = msgspec.json.encode(said).decode()
    assert "sk-abc" not in wire
    if screen.refusal is not None:
        assert isinstance(said[-1], ToolCallCancel)
        return
    text, reasoning, calls = added_up(said)
    assert text == screen.text == accumulator.text.replace("sk-abc", "#")
    assert reasoning == screen.reasoning == accumulator.reasoning.replace("sk-abc", "#")
    assert calls == [each.arguments for each in screen.tool_calls()]
    assert len(calls) == len(accumulator.tool_calls())
    assert all(not str(each.get("cmd")).startswith("rm") for each in calls)
