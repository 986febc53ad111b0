"""Calls of tools as each family of models writes them, whatever pieces they come in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.wire.events import (
    ContentBlockStop,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallCancel,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
)
from car_rpc.workers.text.answer import Answer
from car_rpc.workers.text.calls.families import FAMILIES, Family, family_of
from tests.workers.test_text import chunked, merged

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "units": {"enum": ["metric", "imperial"]},
                "hours": {"type": "array"},
            },
        },
    },
}
PARIS = ("get_weather", {"city": "Paris", "days": 2})
ROME = ("get_weather", {"city": "Rome", "days": 3})

BY_NAME = {family.name: family for family in FAMILIES}

#: What models of each family write for two calls, by their own templates.
TWO_CALLS = {
    "hermes": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n'
        '</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days":'
        " 3}}\n</tool_call>"
    ),
    "qwen_coder": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n"
        "<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n"
        "</parameter>\n</function>\n</tool_call>"
    ),
    "glm": (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>get_weather"
        "<arg_key>city</arg_key><arg_value>Rome</arg_value><arg_key>days</arg_key>"
        "<arg_value>3</arg_value></tool_call>"
    ),
    "mistral": (
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 2}'
        '[TOOL_CALLS]get_weather[CALL_ID]abcdefghj[ARGS]{"city": "Rome", "days": 3}'
    ),
    "mistral_list": (
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}},'
        ' {"name": "get_weather", "arguments": {"city": "Rome", "days": 3}, "id": "abcdefghj"}]'
    ),
    "kimi": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        '<|tool_call_argument_begin|>{"city": "Paris", "days": 2}<|tool_call_end|>'
        "<|tool_call_begin|>functions.get_weather:1<|tool_call_argument_begin|>"
        '{"city": "Rome", "days": 3}<|tool_call_end|><|tool_calls_section_end|>'
    ),
    "deepseek": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
        '{"city": "Paris", "days": 2}<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_weather'
        '<｜tool▁sep｜>{"city": "Rome", "days": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
    "deepseek_v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Paris", "days": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function'
        '<｜tool▁sep｜>get_weather\n```json\n{"city": "Rome", "days": 3}\n```<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜>"
    ),
    "gemma4": (
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>'
        '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>,days:3}<tool_call|>'
    ),
    "function_gemma": (
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}"
        "<end_function_call><start_function_call>call:get_weather{city:<escape>Rome<escape>,"
        "days:3}<end_function_call>"
    ),
    "lfm2": (
        '<|tool_call_start|>[get_weather(city="Paris", days=2), get_weather(city="Rome", days=3)]'
        "<|tool_call_end|>"
    ),
    "llama": (
        '{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}; '
        '{"name": "get_weather", "parameters": {"city": "Rome", "days": 3}}'
    ),
    "harmony": (
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Paris", "days": 2}<|call|><|start|>assistant to=functions.get_weather'
        '<|channel|>commentary json<|message|>{"city": "Rome", "days": 3}'
    ),
    "llama4": '[get_weather(city="Paris", days=2), get_weather(city="Rome", days=3)]',
}

#: Pieces of which outputs are made, right and wrong ones.
PIECES = sorted(
    {
        "<think>", "</think>", "\n", " ", "hello", "{", "}", "[", "]", '"', ":", ",", ";", "=", "(",
        "\\", "call:", "name", '{"name": "f"', '"arguments": {', "f(a=1)", "functions.f:0", "12",
        "</parameter>", "<parameter=a>", "<function=f>", "</function>", "é🙂",
    }
    | {marker for family in FAMILIES for marker in family.markers}
    | set(TWO_CALLS.values())
)  # fmt: skip


def segmenter_of(family: Family, tools: Any, **options: Any) -> Any:
    return Answer(family=family, tools=tools, **options).segments


def read(
    family: Family, *pieces: str, tools: Any = (WEATHER,), **options: Any
) -> list[StreamEvent]:
    segmenter = segmenter_of(family, tools, **options)
    events = [event for piece in pieces for event in segmenter.feed(piece)]
    return merged([*events, *segmenter.finish()])


def calls_of(events: list[StreamEvent]) -> list[tuple[str, Any]]:
    """The calls that the events tell of, which must be whole."""
    starts = [event for event in events if isinstance(event, ToolCallStart)]
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    ends = [event.index for event in events if isinstance(event, ContentBlockStop)]
    assert ends == [start.index for start in starts] == list(range(len(starts)))
    assert [delta.index for delta in deltas] == ends
    return [
        (start.name, json.loads(delta.arguments_delta))
        for start, delta in zip(starts, deltas, strict=True)
    ]


def text_of(events: list[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("name", TWO_CALLS)
def test_two_calls_are_read(name: str) -> None:
    events = read(BY_NAME[name], TWO_CALLS[name])
    assert calls_of(events) == [PARIS, ROME]
    assert text_of(events) == ""


def test_every_family_is_tested() -> None:
    assert set(TWO_CALLS) == set(BY_NAME)


@pytest.mark.parametrize("name", [n for n in TWO_CALLS if n not in ("llama", "llama4", "harmony")])
def test_calls_may_follow_reasoning_and_text(name: str) -> None:
    family = BY_NAME[name]
    opening, closing = family.think
    events = read(family, f"{opening}\nhm\n{closing}\n\nLet me see.\n\n{TWO_CALLS[name]}")
    assert events[:2] == [ReasoningDelta(text="hm"), TextDelta(text="Let me see.")]
    assert calls_of(events) == [PARIS, ROME]


@pytest.mark.parametrize("name", [name for name in TWO_CALLS if name != "harmony"])
def test_without_tools_everything_is_text(name: str) -> None:
    assert text_of(read(BY_NAME[name], TWO_CALLS[name], tools=())) == TWO_CALLS[name]


@pytest.mark.parametrize("name", TWO_CALLS)
@given(st.data())
def test_calls_do_not_depend_on_the_pieces(name: str, data: st.DataObject) -> None:
    whole = TWO_CALLS[name]
    pieces = data.draw(chunked(whole))
    assert read(BY_NAME[name], *pieces) == read(BY_NAME[name], whole)


@given(
    st.data(), st.sampled_from(FAMILIES), st.lists(st.sampled_from(PIECES), max_size=12),
    st.booleans(),
)  # fmt: skip
def test_no_output_depends_on_the_pieces_or_is_lost(
    data: st.DataObject, family: Family, words: list[str], in_reasoning: bool
) -> None:
    whole = "".join(words)
    events = read(family, whole, in_reasoning=in_reasoning)
    assert read(family, *data.draw(chunked(whole)), in_reasoning=in_reasoning) == events
    for event in events:
        if isinstance(event, ToolParseError):
            assert event.raw in text_of(events)
            assert event.message


@given(st.sampled_from(FAMILIES), st.lists(st.sampled_from(PIECES), max_size=12))
def test_a_call_is_whole_or_withdrawn(family: Family, words: list[str]) -> None:
    open_calls: dict[int, str] = {}
    for event in read(family, "".join(words)):
        if isinstance(event, ToolCallStart):
            open_calls[event.index] = ""
        elif isinstance(event, ToolCallDelta):
            open_calls[event.index] += event.arguments_delta
        elif isinstance(event, ToolCallCancel):
            del open_calls[event.index]
        elif isinstance(event, ContentBlockStop):
            assert isinstance(json.loads(open_calls.pop(event.index)), dict)
    assert open_calls == {}


@pytest.mark.parametrize("name", [n for n in TWO_CALLS if n not in ("lfm2", "llama4")])
def test_arguments_are_told_before_the_call_ends(name: str) -> None:
    whole = TWO_CALLS[name]
    segmenter = segmenter_of(BY_NAME[name], [WEATHER])
    events = list(segmenter.feed(whole[: whole.index("Paris") + len("Paris") + 20]))
    assert any(isinstance(event, ToolCallDelta) for event in events)
    assert not segmenter.in_reasoning


@pytest.mark.parametrize("name", [name for name in TWO_CALLS if name != "llama4"])
def test_a_call_that_is_cut_stays_in_the_text(name: str) -> None:
    whole = TWO_CALLS[name]
    cut = whole[: whole.rindex("Rome") + 2]
    events = read(BY_NAME[name], cut)
    (error,) = [event for event in events if isinstance(event, ToolParseError)]
    assert error.raw.endswith("Ro")
    assert text_of(events).endswith(error.raw)


def test_a_bad_call_does_not_hurt_the_one_before_it() -> None:
    good = TWO_CALLS["kimi"].partition("<|tool_call_begin|>functions.get_weather:1")[0]
    bad = "<|tool_call_begin|>functions.x:1 oops<|tool_calls_section_end|>"
    events = read(BY_NAME["kimi"], good + bad)
    assert calls_of(events[:3]) == [PARIS]
    assert events[3:] == [
        TextDelta(text=bad),
        ToolParseError(index=1, raw=bad, message="it lacks '<|tool_call_argument_begin|>'"),
    ]


def test_an_answer_in_brackets_is_no_call() -> None:
    assert read(BY_NAME["llama"], '{"answer": 42}') == [TextDelta(text='{"answer": 42}')]
    assert read(BY_NAME["llama4"], "[1, 2]") == [TextDelta(text="[1, 2]")]


def test_channels_are_told_apart() -> None:
    events = read(
        BY_NAME["harmony"],
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "Let me see.<|end|><|start|>assistant<|channel|>final<|message|>It is sunny.",
    )
    assert events == [ReasoningDelta(text="Hm."), TextDelta(text="Let me see.It is sunny.")]


def test_in_channels_what_was_begun_goes_on() -> None:
    family = BY_NAME["harmony"]
    assert read(family, " there.", begun_tokens=1) == [TextDelta(text=" there.")]
    assert read(family, "<|channel|>analysis<|message|>Hm") == [ReasoningDelta(text="Hm")]


def test_without_headers_channels_are_text() -> None:
    assert read(BY_NAME["harmony"], "Just text.") == [TextDelta(text="Just text.")]


def test_llama_calls_tools_of_its_own_in_python() -> None:
    events = read(BY_NAME["llama"], '<|python_tag|>brave_search.call(query="Paris")')
    assert calls_of(events) == [("brave_search", {"query": "Paris"})]


def test_a_call_keeps_the_id_that_the_model_gave() -> None:
    starts = [e for e in read(BY_NAME["mistral"], TWO_CALLS["mistral"]) if hasattr(e, "name")]
    assert [start.id for start in starts] == ["call_0", "abcdefghj"]


@pytest.mark.parametrize("name", ["qwen_coder", "glm"])
@given(value=st.text(), hours=st.lists(st.integers() | st.none() | st.booleans() | st.text("ab")))
def test_values_between_tags_have_the_types_that_the_tool_declares(
    name: str, value: str, hours: list[Any]
) -> None:
    family = BY_NAME[name]
    if any(marker in value for marker in ("</", "\r")):
        value = "x"
    as_json = json.dumps(hours)
    if name == "glm":
        output = (
            f"<tool_call>get_weather<arg_key>city</arg_key><arg_value>{value}</arg_value>"
            f"<arg_key>hours</arg_key><arg_value>{as_json}</arg_value></tool_call>"
        )
    else:
        output = (
            f"<tool_call><function=get_weather><parameter=city>\n{value}\n</parameter>"
            f"<parameter=hours>\n{as_json}\n</parameter></function></tool_call>"
        )
    assert calls_of(read(family, output)) == [("get_weather", {"city": value, "hours": hours})]


def gemma_value(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, list):
        return f"[{','.join(map(gemma_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{gemma_value(item)}' for key, item in value.items())}}}"
    return json.dumps(value)


KEYS = st.text("abc_", min_size=1, max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text("ab {}[]:,'\"\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(arguments=st.dictionaries(KEYS, VALUES, max_size=3))
def test_gemma_writes_any_values(arguments: dict[str, Any]) -> None:
    output = f"<|tool_call>call:f{gemma_value(arguments)}<tool_call|>"
    assert calls_of(read(BY_NAME["gemma4"], output)) == [("f", arguments)]


@given(arguments=st.dictionaries(KEYS, VALUES, max_size=3))
def test_python_writes_any_values(arguments: dict[str, Any]) -> None:
    text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    output = f"<|tool_call_start|>[f({text})]<|tool_call_end|>"
    assert calls_of(read(BY_NAME["lfm2"], output)) == [("f", arguments)]


@pytest.mark.parametrize(
    "code", ["f(1)", "f(a=g())", "f(a=x)", "f", "f(a=1) + 1", "f(**a)", "(" * 500, "", "1"]
)
def test_python_that_is_no_call_with_plain_values_stays_text(code: str) -> None:
    events = read(BY_NAME["lfm2"], f"<|tool_call_start|>[{code}]<|tool_call_end|>")
    assert isinstance(events[-1], ToolParseError)
    assert calls_of([e for e in events if isinstance(e, ContentBlockStop)]) == []


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<tool_call>' }}", "hermes"),
        ("<tool_call>\\n<function=' + name + '<parameter=", "qwen_coder"),
        ("<tool_call>{{ name }}<arg_key>", "glm"),
        ("[TOOL_CALLS]{{ name }}[ARGS]", "mistral"),
        ("[TOOL_CALLS][{{ calls }}]", "mistral_list"),
        ('<|start_header_id|> {"name": x, "parameters": y}', "llama"),
        ("no marks", "hermes"),
        (None, "hermes"),
    ],
)
def test_the_family_is_known_by_the_marks_in_its_template(template: str | None, name: str) -> None:
    assert family_of(template, lambda _: False).name == name


def test_the_family_is_known_by_its_vocabulary_where_the_template_writes_no_calls() -> None:
    assert family_of("no marks", lambda text: text == "<|tool_call_start|>").name == "lfm2"
    assert family_of(None, lambda text: text == "<tool_call>").name == "hermes"
