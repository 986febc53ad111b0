"""Answers that must have a form, on every engine for language models."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from car_rpc.wire.events import ReasoningDelta, Stop
from car_rpc.wire.inference import (
    GrammarFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    RegexFormat,
    ResponseFormat,
)
from car_rpc.wire.worker import AnswerPrefix, Failed, Generate, Reply
from car_rpc.workers.runtime import Engine
from tests.workers.conftest import Kind, Load
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
        (RegexFormat(pattern="("), "invalid_request", "unclosed group"),
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


# ----------------------------------------------------------------------------- beside the engine


class Held:
    """A model whose vocabulary is not read before :meth:`go`."""

    def __init__(self, kind: Kind, load: Load, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from importlib import import_module

        vocab: Any = import_module(f"car_rpc.workers.{kind.engine}.vocab").Vocab
        self._gate = threading.Event()
        read = vocab.spellings

        def spellings(vocab: Any) -> Any:
            self._gate.wait()
            return read(vocab)

        monkeypatch.setattr(vocab, "spellings", spellings)
        self.engine: Engine = load(path)

    def go(self) -> None:
        self._gate.set()


@pytest.fixture
def held(
    kind: Kind, load: Load, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Any:
    held = Held(kind, load, model(), monkeypatch)
    yield held
    held.go()


def test_free_answers_do_not_wait_for_what_forms_need(held: Held) -> None:
    waiting = Asked(held.engine, formed(PHONE))
    (free,) = run(held.engine, chat())
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
