"""Answers in a form, and calls that must be made, behind the wire: on both local engines."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from tests.process.conftest import Core, check_stream, text_of

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

MODELS = [
    pytest.param(("demo/tiny-chat:gguf", "llama_cpp"), marks=pytest.mark.llama, id="llama_cpp"),
    pytest.param(("demo/tiny-chat:mlx", "mlx_lm"), marks=pytest.mark.mlx, id="mlx"),
]

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "city": {"enum": ["Paris", "Vienna", "Rome"]},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
SHAPES = {
    "$defs": {
        "circle": {
            "type": "object",
            "properties": {
                "kind": {"const": "circle"},
                "radius": {"type": "number", "minimum": 0, "maximum": 9},
            },
            "required": ["kind", "radius"],
            "additionalProperties": False,
        },
        "square": {
            "type": "object",
            "properties": {
                "kind": {"const": "square"},
                "side": {"type": "integer", "minimum": 1, "maximum": 50},
            },
            "required": ["kind", "side"],
            "additionalProperties": False,
        },
    },
    "type": "array",
    "items": {"anyOf": [{"$ref": "#/$defs/circle"}, {"$ref": "#/$defs/square"}]},
    "minItems": 1,
    "maxItems": 2,
}
VERDICT = {"type": ["boolean", "null"]}
CODE = {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}


@pytest.fixture(scope="module", params=MODELS)
def lasting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Core, str]]:
    model, library = request.param
    pytest.importorskip(library)
    core = Core(tmp_path_factory.mktemp("structured") / "state")
    core.initialize()
    yield core, model
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()


@pytest.fixture
def ask(lasting: tuple[Core, str]) -> Callable[..., Any]:
    """Generates; one process for all tests."""
    core, model = lasting

    def generate(prompt: str = "Tell me about Bob.", **fields: Any) -> Any:
        return core.call("generate", {"model": model, "prompt": prompt, **fields})

    return generate


@pytest.fixture
def fail(lasting: tuple[Core, str]) -> Callable[..., Any]:
    """Fails to generate."""
    core, model = lasting

    def generate(prompt: str = "Tell me about Bob.", **fields: Any) -> Any:
        return core.fail("generate", {"model": model, "prompt": prompt, **fields})["data"]

    return generate


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "schema": schema}


@pytest.mark.parametrize("thinking", ["on", "off"])
@pytest.mark.parametrize("schema", [PERSON, SHAPES, VERDICT, CODE])
def test_json_matches_its_schema_at_any_temperature(
    ask: Callable[..., Any], proof_count: Callable[[int, int], int], schema: Any, thinking: str
) -> None:
    for seed in range(proof_count(1, 50)):
        params = {"temperature": 1.2, "seed": seed, "thinking": thinking}
        result = ask(response_format=json_schema(schema), params=params)
        # A number may have any number of digits, so not all end before the context does.
        assert result["schema_valid"] is (result["stop_reason"] == "end_turn")
        if result["schema_valid"]:
            jsonschema.validate(json.loads(result["text"]), schema)


def test_a_stream_in_a_form_tells_what_its_result_tells(lasting: tuple[Core, str]) -> None:
    core, model = lasting
    stream = core.generate(model, response_format=json_schema(PERSON))
    result = core.response(stream)["result"]
    events = core.stream(stream)
    check_stream(events)
    assert text_of(events) == result["text"]
    (stop,) = [e["event"] for e in events if e["event"]["type"] == "stop"]
    assert stop == {"type": "stop", "reason": "end_turn", "schema_valid": True}


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"type": "json_object"}, r"\{.*\}"),
        ({"type": "regex", "pattern": "(yes|no)!{1,3}"}, "(yes|no)!{1,3}"),
        ({"type": "grammar", "syntax": "lark", "grammar": 'start: "a" /[0-9]{2}/'}, "a[0-9]{2}"),
        ({"type": "grammar", "syntax": "gbnf", "grammar": 'root ::= "a" [0-9] "b"'}, "a[0-9]b"),
    ],
)
def test_every_form_is_enforced(ask: Callable[..., Any], form: Any, pattern: str) -> None:
    result = ask(response_format=form, params={"temperature": 0.5, "seed": 1, "thinking": "off"})
    assert re.fullmatch(pattern, result["text"], re.DOTALL)
    assert result["schema_valid"] is True


def test_an_answer_that_was_cut_says_that_it_lacks_its_form(ask: Callable[..., Any]) -> None:
    cut = {"max_tokens": 4, "thinking": "off", "temperature": 0}
    result = ask(response_format=json_schema(PERSON), params=cut)
    assert (result["schema_valid"], result["stop_reason"]) == (False, "max_tokens")


def test_an_answer_that_was_cut_goes_on_in_its_form(ask: Callable[..., Any]) -> None:
    cut = {"max_tokens": 6, "thinking": "off", "temperature": 0}
    form = json_schema(PERSON)
    result = ask(response_format=form, params=cut, max_tokens_continuations=16)
    jsonschema.validate(json.loads(result["text"]), PERSON)
    assert (result["schema_valid"], result["stop_reason"]) == (True, "end_turn")
    assert result["recoveries"] > 1


def test_what_cannot_be_enforced_is_refused_by_its_name(fail: Callable[..., Any]) -> None:
    refusal = fail(response_format=json_schema({"type": "array", "uniqueItems": True}))
    assert refusal["kind"] == "unsupported_mode"
    assert refusal["path"] == "$.response_format.schema"
    wrong = fail(response_format={"type": "regex", "pattern": "("})
    assert (wrong["kind"], wrong["path"]) == ("invalid_request", "$.response_format.pattern")


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["CET", "UTC"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("thinking", ["on", "off"])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        ("get_time", {"get_time"}),
        ({"type": "function", "function": {"name": "get_time"}}, {"get_time"}),
    ],
)
def test_a_call_that_must_be_made_is_made(
    ask: Callable[..., Any], choice: Any, names: set[str], thinking: str
) -> None:
    params = {
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 1.0,
        "seed": 3,
        "thinking": thinking,
    }
    result = ask("Hello!", tools=[WEATHER, TIME], params=params)
    (call,) = result["tool_calls"]
    assert call["name"] in names
    schemas = {t["function"]["name"]: t["function"]["parameters"] for t in (WEATHER, TIME)}
    jsonschema.validate(call["arguments"], schemas[call["name"]])
    assert (result["text"], result["stop_reason"]) == ("", "tool_use")


def test_a_call_of_no_tool_cannot_be_demanded(fail: Callable[..., Any]) -> None:
    refusal = fail(tools=[TIME], params={"tool_choice": "get_weather"})
    assert (refusal["kind"], refusal["path"]) == ("invalid_request", "$.params.tool_choice")


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_tool_that_cannot_be_held_to_its_schema_is_refused_before_anything_is_said(
    ask: Callable[..., Any], fail: Callable[..., Any], choice: str
) -> None:
    def strange(**schema: Any) -> dict[str, Any]:
        parameters = {"type": "object", "properties": {"a": schema}}
        return {"type": "function", "function": {"name": "strange", "parameters": parameters}}

    params = {"tool_choice": choice}
    unknown = fail(tools=[TIME, strange(type="array", uniqueItems=True)], params=params)
    place = "$.tools[1].function.parameters"
    assert (unknown["kind"], unknown["path"]) == ("unsupported_mode", place)
    wrong = fail(tools=[TIME, strange(type="objekt")], params=params)
    place += ".properties.a.type"
    assert (wrong["kind"], wrong["path"]) == ("invalid_request", place)
    ignored = {"tool_choice": "none", "max_tokens": 2}
    answer = ask("Hello!", tools=[strange(type="objekt")], params=ignored)
    assert answer["stop_reason"] in ("max_tokens", "thinking_truncated")
