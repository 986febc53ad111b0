"""Grammars, guides and verdicts, on a vocabulary of bytes."""

from typing import Any

import msgspec
import pytest

from car_rpc.wire.inference import JsonObjectFormat, JsonSchemaFormat, RegexFormat, ResponseFormat
from car_rpc.wire.worker import Generate
from car_rpc.workers.constraint.spellings import Spellings
from tests.workers.test_calls import BY_NAME, TWO_CALLS, WEATHER

pytest.importorskip("llguidance")

END, CALL = 256, 257


def vocabulary(marker: bytes) -> Any:
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary

    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>", marker]
    return GuideVocabulary(Spellings(tokens, {END, CALL}, [END]), lambda text: list(text.encode()))


VOCABULARY = vocabulary(b"<tool_call>")

#: One in which no family's markers are tokens.
PLAIN_VOCABULARY = vocabulary(b"<other>")


def demanded(name: str, words: Any = VOCABULARY, **fields: Any) -> str:
    from car_rpc.workers.constraint.calls import demanded_calls

    request = Generate(id=1, messages=[], tools=[WEATHER], must_call=["get_weather"], **fields)
    return demanded_calls(request, BY_NAME[name], words)


#: All but gpt-oss, whose answer ends with its first call.
NAMES = sorted(BY_NAME.keys() - {"harmony"})

#: What the templates write with identifiers that nobody demands.
PLAIN = {
    "mistral": TWO_CALLS["mistral"].replace("[CALL_ID]abcdefghj", ""),
    "mistral_list": TWO_CALLS["mistral_list"]
    .replace(', "id": "abcdefghj"', "")
    .replace("] [", "]["),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_demanded_is_what_the_family_writes(name: str) -> None:
    calls = PLAIN.get(name, TWO_CALLS[name])
    several = demanded(name, PLAIN_VOCABULARY)
    assert PLAIN_VOCABULARY.accepts(several, calls)
    assert not PLAIN_VOCABULARY.accepts(several, calls.replace("get_weather", "other"))
    assert not PLAIN_VOCABULARY.accepts(several, calls.replace("2", "x", 1))
    one = demanded(name, PLAIN_VOCABULARY, parallel_tool_calls=False)
    assert not PLAIN_VOCABULARY.accepts(one, calls)


def test_markers_that_are_tokens_are_demanded_as_tokens() -> None:
    guide = VOCABULARY.guide(demanded("hermes"))
    assert guide.forced()[:2] == [CALL, ord("\n")]
    assert not guide.allows(ord("<"))


def test_a_text_cannot_hold_a_special_token() -> None:
    guide = VOCABULARY.guide(_grammar(JsonSchemaFormat(schema={"type": "string"})))
    guide.accept_bytes(b'"a')
    assert guide.allows(ord("b"))
    assert not guide.allows(CALL)
    assert not guide.allows(END)


def test_a_guide_follows_whichever_grammar_goes_on() -> None:
    grammars = [_grammar(RegexFormat(pattern=pattern)) for pattern in ("ab+", "ac")]
    guide = VOCABULARY.guide(*grammars)
    assert guide.forced() == []
    guide.accept(ord("a"))
    mask = guide.allowed()
    assert [token for token, allowed in enumerate(mask) if allowed] == [ord("b"), ord("c")]
    guide.accept(ord("c"))
    assert guide.complete
    guide.accept(ord("x"))
    assert guide.lost


def test_white_space_has_an_end() -> None:
    grammar = _grammar(JsonObjectFormat())
    assert VOCABULARY.accepts(grammar, '{\n  "a": [1, 2],\n\t"b" : {}\n}')
    for runaway in ('{\n\n"a": 1}', '{  "a": 1}', "{}\n"):
        assert not VOCABULARY.accepts(grammar, runaway)


def _grammar(form: ResponseFormat) -> str:
    from car_rpc.workers.constraint.grammar import grammar_of

    return grammar_of(form, VOCABULARY, "test")


@pytest.mark.parametrize(
    ("form", "text", "valid"),
    [
        (JsonObjectFormat(), '{"a": 1e999}', True),
        (JsonObjectFormat(), '{"a": NaN}', False),
        (JsonObjectFormat(), "[]", False),
        (JsonObjectFormat(), '{"a": ', False),
        (JsonObjectFormat(), "", False),
        (JsonSchemaFormat(schema={"type": "integer"}), "12", True),
        (JsonSchemaFormat(schema={"type": "integer"}), '"12"', False),
        (JsonSchemaFormat(schema={"type": "string", "format": "date"}), '"2026-02-28"', True),
        (JsonSchemaFormat(schema={"type": "string", "format": "date"}), '"2026-02-31"', False),
        # Rust's library knows this class, Python's does not.
        (JsonSchemaFormat(schema={"type": "string", "pattern": "^\\p{Lu}$"}), '"A"', True),
        (JsonSchemaFormat(schema={"type": "string", "pattern": "^\\p{Lu}$"}), '"a"', False),
        (RegexFormat(pattern="a+"), "aa", True),
        (RegexFormat(pattern="a+"), "ab", False),
        (RegexFormat(pattern="a+"), "", False),
    ],
)
def test_a_verdict_is_of_the_whole_text(form: ResponseFormat, text: str, valid: bool) -> None:
    from car_rpc.workers.constraint.verdict import has_form

    assert has_form(text, form, _grammar(form), VOCABULARY) is valid


def test_a_schema_never_makes_anybody_fetch() -> None:
    from car_rpc.workers.constraint.verdict import has_form

    schema = {"$ref": "http://127.0.0.1:9/schema"}
    form = JsonSchemaFormat(schema=schema)
    assert not has_form("1", form, _grammar(JsonObjectFormat()), VOCABULARY)


def test_nothing_is_kept_of_a_request() -> None:
    request = Generate(id=1, messages=[], tools=[WEATHER], must_call=["get_weather"])
    before = msgspec.json.encode(request)
    demanded("kimi")
    assert msgspec.json.encode(request) == before
