"""Whether a whole text has the form that was asked for, looked at anew."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from jsonschema import FormatChecker
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from car_rpc.wire.inference import JsonObjectFormat, JsonSchemaFormat

if TYPE_CHECKING:
    from car_rpc.wire.inference import ResponseFormat
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary


def has_form(text: str, form: ResponseFormat, grammar: str, vocabulary: GuideVocabulary) -> bool:
    """Whether a text has a form.

    Args:
        text: The text as the client gets it.
        form: The form.
        grammar: Its grammar.
        vocabulary: Whose tokens the grammar knows.
    """
    if not isinstance(form, JsonSchemaFormat | JsonObjectFormat):
        return vocabulary.accepts(grammar, text)
    try:
        # msgspec refuses numbers beyond the range of a float, which are JSON all the same.
        value: Any = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    if isinstance(form, JsonObjectFormat):
        return isinstance(value, dict)
    kind = validator_for(form.schema, default=Draft202012Validator)
    # An empty registry: what a schema refers to is never fetched.
    validator = kind(form.schema, registry=Registry(), format_checker=FormatChecker())
    try:
        return bool(validator.is_valid(value))
    except (re.error, Unresolvable, RecursionError):
        # Not every pattern and reference of a right schema is one in this library's eyes.
        return vocabulary.accepts(grammar, text)


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are no JSON
