"""Answers that must have a form, on every engine for language models."""

import json
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from car_rpc.wire.events import (
    ContentBlockStop,
    ReasoningDelta,
    Stop,
    ToolCallDelta,
    ToolCallStart,
)
from car_rpc.wire.inference import (
    GrammarFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    RegexFormat,
    ResponseFormat,
)
from car_rpc.wire.worker import AnswerPrefix, Failed, Generate, Reply, SamplingParams
from car_rpc.workers.runtime import Engine
from car_rpc.workers.slots import MAX_GROWN_SLOTS
from tests.workers.conftest import CHAT_TEMPLATE, Kind, Load
from tests.workers.test_engines import Asked, chat, finish, run, token


@pytest.fixture(scope="module")
def engine(load: Load, model: Callable[..., Path]) -> Engine:
    """A model whose random weights would never say anything sensible by themselves."""
    return load(model())


def formed(form: ResponseFormat, content: str = "hello", **params: Any) -> Generate:
    options: dict[str, Any] = {"max_tokens": 300, "temperature": 1.5, "seed": 1, "thinking": "off"}
    options |= params
    return msgspec.structs.replace(chat(content, **options), response_format=form)


def json_schema(**schema: Any) -> JsonSchemaFormat:
    return JsonSchemaFormat(schema=schema)


def validity(asked: Asked) -> Any:
    stop = asked.events[-1]
    assert isinstance(stop, Stop)
    return stop.schema_valid


PERSON = json_schema(
    type="object",
    properties={
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2},
    },
    required=["name", "age", "pets"],
    additionalProperties=False,
)
TREE = json_schema(
    **{
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"type": "boolean"},
                    "c": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1},
                },
                "required": ["v"],
                "additionalProperties": False,
            }
        },
    }
)
SHORT = json_schema(anyOf=[{"const": None}, {"type": "string", "pattern": "^[a-z]{2,5}$"}])
DATE = json_schema(type="string", format="date")

YES_OR_NO = GrammarFormat(syntax="lark", grammar='start: "yes" | "no, " /[a-z]{3}/')
GBNF = GrammarFormat(syntax="gbnf", grammar='root ::= "a" [b-d] [b-d]? "z"')
PHONE = RegexFormat(pattern=r"\d{3}-\d{4}")


# --------------------------------------------------------------------------------- the form


@pytest.mark.parametrize("form", [PERSON, TREE, SHORT, DATE], ids=["person", "tree", "any", "date"])
def test_json_matches_its_schema_whatever_the_seed(
    engine: Engine, form: JsonSchemaFormat, proof_count: Callable[[int, int], int]
) -> None:
    requests = [formed(form, seed=seed) for seed in range(proof_count(6, 200))]
    for asked in run(engine, *requests):
        if asked.reason == "end_turn":
            jsonschema.validate(json.loads(asked.text), form.schema)
        assert validity(asked) is (asked.reason == "end_turn"), asked.text


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (PHONE, r"\d{3}-\d{4}"),
        (YES_OR_NO, "yes|no, [a-z]{3}"),
        (GBNF, "a[b-d]{1,2}z"),
        (json_schema(const="fixed"), '"fixed"'),
    ],
)
def test_a_text_has_the_form_of_its_grammar(
    engine: Engine, form: ResponseFormat, pattern: str
) -> None:
    for asked in run(engine, *(formed(form, seed=seed) for seed in range(4))):
        assert re.fullmatch(pattern, asked.text)
        assert (asked.reason, validity(asked)) == ("end_turn", True)


def test_any_object_is_a_json_object(engine: Engine) -> None:
    for asked in run(engine, *(formed(JsonObjectFormat(), seed=seed) for seed in range(4))):
        assert asked.text.startswith("{")
        assert validity(asked) is (asked.reason == "end_turn"), asked.text


def test_without_a_form_nothing_is_said_of_one(engine: Engine) -> None:
    (asked,) = run(engine, chat())
    assert validity(asked) is msgspec.UNSET


def test_the_form_ends_the_answer_even_where_ends_are_ignored(engine: Engine) -> None:
    (asked,) = run(engine, formed(PHONE, ignore_eos=True))
    assert (len(asked.text), asked.reason) == (8, "end_turn")


def test_a_text_that_is_cut_has_not_its_form(engine: Engine) -> None:
    (asked,) = run(engine, formed(PERSON, max_tokens=5))
    assert (asked.reason, validity(asked)) == ("max_tokens", False)


def test_a_stop_string_cuts_a_text_in_its_form(engine: Engine) -> None:
    (asked,) = run(engine, formed(PERSON, stop=['"age"']))
    assert asked.text.endswith((", ", ","))
    assert (asked.reason, validity(asked)) == ("stop_sequence", False)


def test_a_bias_counts_only_for_what_the_form_allows(engine: Engine) -> None:
    bias = {token(engine, "x"): 1000.0, token(engine, "7"): 500.0}
    (asked,) = run(engine, formed(PHONE, logit_bias=bias))
    assert asked.text == "777-7777"


def test_penalties_know_of_what_had_to_be_said(engine: Engine) -> None:
    form = GrammarFormat(syntax="lark", grammar='start: "xxyy" /[xyz]/')
    (asked,) = run(engine, formed(form, temperature=0.0, frequency_penalty=1e6))
    assert asked.text == "xxyyz"


def test_greedy_answers_have_their_form_too(engine: Engine) -> None:
    (asked,) = run(engine, formed(PHONE, temperature=0.0))
    assert (len(asked.text), validity(asked)) == (8, True)


def test_answers_in_a_form_are_the_same_in_company(engine: Engine) -> None:
    requests = [formed(PERSON), formed(PHONE), chat("b" * 270, max_tokens=30), formed(YES_OR_NO)]
    alone = [run(engine, request)[0].events for request in requests]
    assert [asked.events for asked in run(engine, *requests)] == alone


def test_what_must_be_said_takes_no_steps(engine: Engine) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    asked = Asked(engine, formed(json_schema(const=text)))
    asked.woken.wait()
    steps = 0
    while asked.answer is None:
        engine.step()
        steps += 1
    assert asked.text == json.dumps(text)
    assert asked.usage.completion_tokens == len(asked.text) - 2  # "he" is one token
    assert steps < 10


# --------------------------------------------------------------------------------- reasoning


def test_reasoning_is_free_and_the_form_follows(engine: Engine) -> None:
    bias = {token(engine, "</think>"): 1000.0, token(engine, "\n"): 900.0}
    (asked,) = run(engine, formed(PHONE, thinking="on", logit_bias=bias))
    assert (len(asked.text), validity(asked)) == (8, True)


def test_a_model_may_begin_with_reasoning(engine: Engine) -> None:
    bias = {token(engine, "<think>"): 1000.0}
    (asked,) = run(engine, formed(PHONE, logit_bias=bias, max_tokens=9, thinking="auto"))
    assert any(isinstance(event, ReasoningDelta) for event in asked.events)
    assert (asked.text, validity(asked), asked.reason) == ("", False, "thinking_truncated")


def test_without_thinking_the_form_comes_first(engine: Engine) -> None:
    bias = {token(engine, "<think>"): 1000.0}
    (asked,) = run(engine, formed(PHONE, logit_bias=bias, thinking="off"))
    assert (len(asked.text), validity(asked)) == (8, True)


def test_reasoning_cannot_end_an_answer_that_must_have_a_form(engine: Engine) -> None:
    bias = {token(engine, "<|im_end|>"): 1000.0}
    (asked,) = run(engine, formed(PHONE, logit_bias=bias, thinking="on", budget_tokens=5))
    assert (asked.reason, asked.usage.thinking_tokens) == ("thinking_truncated", 5)


# ------------------------------------------------------------------------------ continuations


def continued(text: str, **params: Any) -> Generate:
    prefix = AnswerPrefix(text=text)
    return msgspec.structs.replace(formed(PHONE, **params), prefix=prefix)


def test_an_answer_that_was_cut_goes_on_in_its_form(engine: Engine) -> None:
    (asked,) = run(engine, continued("12"))
    assert (len("12" + asked.text), validity(asked)) == (8, True)


def test_an_answer_that_began_in_another_form_cannot_go_on(engine: Engine) -> None:
    (asked,) = run(engine, continued("Well, "))
    assert isinstance(asked.answer, Failed)
    assert asked.answer.kind == "inference_failed"


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("form", "error", "named"),
    [
        (json_schema(**{"not": {"type": "string"}}), "unsupported_mode", "not"),
        (json_schema(type="array", uniqueItems=True), "unsupported_mode", "uniqueItems"),
        (json_schema(type="string", format="klingon"), "unsupported_mode", "klingon"),
        (json_schema(**{"$ref": "http://127.0.0.1:9/x"}), "unsupported_mode", "127.0.0.1"),
        (json_schema(type="strin"), "invalid_request", "strin"),
        (json_schema(**{"x-guidance": {"lenient": True}, "not": {}}), "unsupported_mode", "not"),
        (RegexFormat(pattern="a(?=b)"), "unsupported_mode", "look-ahead"),
        (RegexFormat(pattern=r"a\bb"), "unsupported_mode", "lookarounds not supported"),
        (RegexFormat(pattern="("), "invalid_request", "unclosed group"),
        (RegexFormat(pattern="["), "invalid_request", "unclosed character class"),
        (RegexFormat(pattern=r"[^\s\S]"), "invalid_request", "no text has this form"),
        (GrammarFormat(syntax="lark", grammar="start: foo"), "invalid_request", "foo"),
        (GrammarFormat(syntax="gbnf", grammar="root ::= !!"), "invalid_request", "line 1"),
    ],
)
def test_a_form_that_cannot_be_enforced_is_refused_by_name(
    engine: Engine, form: ResponseFormat, error: str, named: str
) -> None:
    (asked,) = run(engine, formed(form))
    assert isinstance(asked.answer, Failed)
    assert asked.answer.kind == error
    assert named in asked.answer.detail
    assert asked.answer.data["path"].startswith("$.response_format.")


# -------------------------------------------------------------------------------------- calls


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("weather", city={"enum": ["Paris", "Rome"]}, days={"type": "integer", "maximum": 9})
CLOCK = tool("clock", zone={"type": "string", "maxLength": 4})
PARAMETERS = {each["function"]["name"]: each["function"]["parameters"] for each in (WEATHER, CLOCK)}

#: Takes tools; what it does with them is no matter here.
TOOL_TEMPLATE = CHAT_TEMPLATE + "{%- if tools is none -%}{%- endif -%}"


@pytest.fixture(scope="module")
def caller(load: Load, model: Callable[..., Path]) -> Engine:
    return load(model(TOOL_TEMPLATE))


def calling(*tools: dict[str, Any], must: Sequence[str] = (), **fields: Any) -> Generate:
    options = {name: fields.pop(name) for name in list(fields) if name in PARAMS}
    options = {"max_tokens": 120, "temperature": 1.5, "seed": 1, "thinking": "off", **options}
    return msgspec.structs.replace(
        chat(**options), tools=list(tools), must_call=list(must), **fields
    )


PARAMS = SamplingParams.__struct_fields__


def prepared(engine: Any, request: Generate) -> Asked:
    """A request that offers tools, as soon as it is known what calls of them must be like."""
    asked = Asked(engine, request)
    asked.woken.wait()  # the tools are right
    asked.woken.clear()
    engine._preparation.step()
    asked.woken.wait()
    return asked


def calls_of(asked: Asked) -> list[tuple[str, Any]]:
    """The calls that are whole."""
    names = {event.index: event.name for event in asked.events if isinstance(event, ToolCallStart)}
    whole = [event.index for event in asked.events if isinstance(event, ContentBlockStop)]
    arguments = dict.fromkeys(names, "")
    for event in asked.events:
        if isinstance(event, ToolCallDelta):
            arguments[event.index] += event.arguments_delta
    return [(names[index], json.loads(arguments[index])) for index in whole]


def test_a_call_is_made_where_one_must_be(
    caller: Engine, proof_count: Callable[[int, int], int]
) -> None:
    both = ["weather", "clock"]
    requests = [calling(WEATHER, CLOCK, must=both, seed=n) for n in range(proof_count(4, 100))]
    for asked in run(caller, *requests):
        calls = calls_of(asked)
        assert (asked.reason == "tool_use") is bool(calls)
        for name, arguments in calls:
            jsonschema.validate(arguments, PARAMETERS[name])


def test_one_call_may_be_all_and_of_one_tool(caller: Engine) -> None:
    one = calling(WEATHER, CLOCK, must=["weather"], parallel_tool_calls=False)
    (asked,) = run(caller, one)
    ((name, arguments),) = calls_of(asked)
    assert (name, asked.reason, validity(asked)) == ("weather", "tool_use", msgspec.UNSET)
    jsonschema.validate(arguments, PARAMETERS[name])


def test_a_call_that_the_model_chose_to_make_is_right(caller: Engine) -> None:
    bias = {token(caller, "<tool_call>"): 1000.0}
    asked = prepared(caller, calling(WEATHER, logit_bias=bias, parallel_tool_calls=False))
    finish(caller, asked)
    ((name, arguments),) = calls_of(asked)
    assert (name, asked.reason) == ("weather", "tool_use")
    jsonschema.validate(arguments, PARAMETERS[name])


def test_without_a_call_an_answer_with_tools_is_free(caller: Engine) -> None:
    request = calling(temperature=0.0, ignore_eos=True, max_tokens=20)
    plain, offered = run(caller, request, msgspec.structs.replace(request, tools=[WEATHER]))
    assert offered.text == plain.text


def test_an_answer_in_a_form_may_be_a_call_instead(caller: Engine) -> None:
    bias = {token(caller, "<tool_call>"): 1000.0}
    form = {"response_format": PHONE, "parallel_tool_calls": False}
    text, call = run(caller, calling(WEATHER, **form), calling(WEATHER, logit_bias=bias, **form))
    assert (len(text.text), validity(text), calls_of(text)) == (8, True, [])
    assert (call.text, validity(call), len(calls_of(call))) == ("", msgspec.UNSET, 1)


@pytest.mark.parametrize("must", [["f"], []])
@pytest.mark.parametrize("form", [None, PHONE])
def test_parameters_that_cannot_be_enforced_are_refused_before_anything_is_said(
    caller: Engine, must: list[str], form: ResponseFormat | None
) -> None:
    strange = tool("f", a={"not": {"type": "string"}})
    wrong = tool("f", a={"type": "objekt"})
    refused, bad, right = run(
        caller,
        calling(WEATHER, strange, must=must, response_format=form),
        calling(WEATHER, wrong, must=must, response_format=form),
        calling(WEATHER),
    )
    assert isinstance(refused.answer, Failed)
    assert refused.answer.kind == "unsupported_mode"
    assert refused.answer.data["path"] == "$.tools[1].function.parameters"
    assert '"not"' in refused.answer.detail
    assert isinstance(bad.answer, Failed)
    assert bad.answer.kind == "invalid_request"
    assert bad.answer.data["path"] == "$.tools[1].function.parameters.properties.a.type"
    assert refused.events == bad.events == []
    assert isinstance(right.answer, Reply)


def test_a_model_that_cannot_be_made_to_call_says_so(
    load: Load, model: Callable[..., Path]
) -> None:
    (asked,) = run(load(model(CHAT_TEMPLATE)), calling(WEATHER, must=["weather"]))
    assert isinstance(asked.answer, Failed)
    assert asked.answer.kind == "unsupported_mode"
    assert asked.answer.data["mode"] == "tool-choice"


# ----------------------------------------------------------------------------- beside the engine


class Held:
    """A model whose vocabulary is not read before :meth:`go`, or cannot be."""

    def __init__(self, kind: Kind, load: Load, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from importlib import import_module

        vocab: Any = import_module(f"car_rpc.workers.{kind.engine}.vocab").Vocab
        self._gate = threading.Event()
        self._error: Exception | None = None
        read = vocab.spellings

        def spellings(vocab: Any) -> Any:
            self._gate.wait()
            if self._error is not None:
                raise self._error
            return read(vocab)

        monkeypatch.setattr(vocab, "spellings", spellings)
        self.engine: Engine = load(path)

    def go(self, error: Exception | None = None) -> None:
        self._error = error
        self._gate.set()

    def begun(self, request: Generate) -> Asked:
        """An answer that has come to where it waits."""
        asked = Asked(self.engine, request)
        asked.woken.wait()  # its tools are right
        asked.woken.clear()
        self.settle()
        assert asked.answer is None
        return asked

    def settle(self) -> None:
        """Step until nothing can be done at once: the worker then sleeps."""
        while self.engine.step():
            pass


@pytest.fixture
def held(
    kind: Kind, load: Load, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Any:
    held = Held(kind, load, model(TOOL_TEMPLATE), monkeypatch)
    yield held
    held.go()


def test_free_answers_do_not_wait_for_what_forms_need(held: Held) -> None:
    waiting = Asked(held.engine, formed(PHONE))
    for free in run(held.engine, chat(), calling(WEATHER)):
        assert isinstance(free.answer, Reply)
    assert waiting.answer is None
    held.go()
    finish(held.engine, waiting)
    assert len(waiting.text) == 8


def test_an_answer_can_be_cancelled_while_its_form_is_prepared(held: Held) -> None:
    waiting = Asked(held.engine, formed(PHONE))
    waiting.job.cancel()
    assert isinstance(waiting.answer, Failed)
    assert waiting.answer.kind == "cancelled"
    held.go()
    waiting.woken.wait()
    assert not held.engine.step()
    assert waiting.events == []


def choosing(engine: Engine, **fields: Any) -> Generate:
    """A request whose answer begins a call by itself, soon."""
    bias = {token(engine, "x"): 1000.0, token(engine, "<tool_call>"): 900.0}
    options = {"logit_bias": bias, "presence_penalty": 200.0, "parallel_tool_calls": False}
    return calling(WEATHER, **options | fields)


def test_a_call_that_begins_before_it_can_be_bound_waits_and_is_bound(
    held: Held, proof_count: Callable[[int, int], int]
) -> None:
    seeds = range(proof_count(3, MAX_GROWN_SLOTS))  # more at once would not begin
    asked = [held.begun(choosing(held.engine, seed=seed)) for seed in seeds]
    assert {each.text for each in asked} == {"x"}
    held.go()
    finish(held.engine, *asked)
    for seed, each in zip(seeds, asked, strict=True):
        ((name, arguments),) = calls_of(each)
        assert (name, each.reason) == ("weather", "tool_use")
        jsonschema.validate(arguments, PARAMETERS[name])
        in_time = prepared(held.engine, choosing(held.engine, seed=seed))
        finish(held.engine, in_time)
        assert each.events == in_time.events


def test_others_go_on_while_a_call_waits_and_their_answers_are_the_same(held: Held) -> None:
    free = chat("a free one", max_tokens=40, ignore_eos=True)
    (alone,) = run(held.engine, free)
    beside = Asked(held.engine, free)
    waiting = held.begun(choosing(held.engine))
    assert beside.events == alone.events
    assert run(held.engine, free)[0].events == alone.events  # one that comes later, too
    held.go()
    finish(held.engine, waiting)
    assert len(calls_of(waiting)) == 1


def test_a_call_that_waits_makes_way_when_it_is_cancelled(held: Held) -> None:
    waiting = held.begun(choosing(held.engine))
    said = waiting.events
    waiting.job.cancel()
    assert waiting.answer == Failed(id=1, kind="cancelled", detail="")  # at once
    assert not held.engine.step()
    requests = [chat(text) for text in ("one", "two", "three", "four", "five")]
    assert all(isinstance(each.answer, Reply) for each in run(held.engine, *requests))
    held.go()
    finish(held.engine, Asked(held.engine, formed(PHONE)))  # prepared behind it
    assert waiting.events == said


def test_a_call_that_waits_can_be_paused(held: Held) -> None:
    waiting = held.begun(choosing(held.engine))
    waiting.job.pause()
    held.go()
    waiting.woken.wait()
    held.settle()
    assert waiting.answer is None
    waiting.job.resume()
    finish(held.engine, waiting)
    assert len(calls_of(waiting)) == 1


def test_a_call_that_waits_for_what_cannot_be_made_fails_alone(held: Held) -> None:
    waiting, free = held.begun(choosing(held.engine)), Asked(held.engine, chat())
    held.go(MemoryError())
    finish(held.engine, waiting, free)
    assert isinstance(waiting.answer, Failed)
    assert waiting.answer.kind == "out_of_memory"
    assert isinstance(free.answer, Reply)


def test_an_answer_may_come_to_its_limit_in_what_a_call_begins_with(held: Held) -> None:
    """Nothing but `weather` can be called, so its name is not asked of the model."""
    waiting = held.begun(choosing(held.engine, max_tokens=8))
    held.go()
    finish(held.engine, waiting)
    assert (waiting.reason, waiting.usage.completion_tokens) == ("max_tokens", 8)
    held.settle()
    assert run(held.engine, chat())[0].text
