"""From the form that a request asks for to llguidance's grammars."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, regex_to_lark
from llguidance.gbnf_to_lark import gbnf_to_lark

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.inference import GrammarFormat, JsonSchemaFormat, RegexFormat

if TYPE_CHECKING:
    from car_rpc.wire.inference import ResponseFormat
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary

#: How JSON is written: between its tokens there may be a space, or a line end and an indentation.
#: With any white space, a model that is not sure how to go on would write nothing else.
_WHITE_SPACE = r"\x20|\n\x20{0,40}|\n\t{0,20}"

#: What nothing in a schema changes.
JSON_OPTIONS: dict[str, Any] = {"whitespace_pattern": _WHITE_SPACE, "lenient": False}

#: What llguidance says of a form that may be right, but not here.
_UNSUPPORTED = ("Unimplemented keys", "Unknown format", "not supported", "is not present")


def grammar_of(form: ResponseFormat, vocabulary: GuideVocabulary, backend: str) -> str:
    """The grammar of a form.

    Args:
        form: The form.
        vocabulary: Whose tokens it must be made of.
        backend: Name of the engine, for errors.

    Raises:
        CarError: ``invalid_request`` for a form that is wrong, ``unsupported_mode`` for one that
            cannot be enforced; the detail names the keyword or the place.
    """
    field = _field(form)
    try:
        grammar = _grammar(form)
    except (ValueError, RecursionError) as error:
        raise _wrong(str(error) or "it nests too deeply", field) from error
    except Exception as error:  # the converter of GBNF raises a class of its own
        raise _wrong(str(error), field) from error
    problem = vocabulary.check(grammar)
    if not problem:
        return grammar
    if is_unsupported(problem):
        kind = str(form.__struct_config__.tag).replace("_", "-")
        refusal = unsupported_mode(f"structured-output-{kind}", backend, one_line(problem))
        raise refusal.with_data(path=f"$.response_format.{field}")
    raise _wrong(one_line(problem), field)


def is_unsupported(problem: str) -> bool:
    """Whether a form may be right of which llguidance says this."""
    return any(reason in problem for reason in _UNSUPPORTED)


def json_grammar(schema: Any) -> str:
    """The grammar of JSON that a schema allows."""
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)  # type: ignore[arg-type]  # a plain dict is one


def _grammar(form: ResponseFormat) -> str:
    match form:
        case JsonSchemaFormat():
            return json_grammar(form.schema)
        case RegexFormat():
            # As in JSON Schema, digits and letters of words are those of ASCII.
            pattern = regex_to_lark(form.pattern, "dw")
            return LLMatcher.grammar_from_lark(f"start: /{pattern}/")
        case GrammarFormat(syntax="gbnf"):
            return LLMatcher.grammar_from_lark(gbnf_to_lark(form.grammar))
        case GrammarFormat():
            return LLMatcher.grammar_from_lark(form.grammar)
        case _:
            return json_grammar({"type": "object"})


def _field(form: ResponseFormat) -> str:
    match form:
        case RegexFormat():
            return "pattern"
        case GrammarFormat():
            return "grammar"
        case _:
            return "schema"


def _wrong(problem: str, field: str) -> CarError:
    path = f"$.response_format.{field}"
    return CarError("invalid_request", f"{problem} - at `{path}`", path=path)


def one_line(problem: str) -> str:
    """What llguidance says of a problem, in one line and without the picture that it draws."""
    lines = [line.strip() for line in problem.splitlines()]
    return " ".join(line for line in lines if line.strip("^ |"))
