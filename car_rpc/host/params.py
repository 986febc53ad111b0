"""From raw JSON to typed parameters."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from car_rpc.errors import invalid_params

T = TypeVar("T")

_MISSING_FIELD = re.compile(r"missing required field `(\w+)`")


def decode_params(raw: bytes, params_type: type[T]) -> T:
    """Typed parameters of a method.

    Raises:
        CarError: ``invalid_params`` with the path of the field.
    """
    try:
        return msgspec.json.decode(raw, type=params_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_params(*located(error)) from None


def located(error: Exception) -> tuple[str, str]:
    """What a decoder complains of, and the path of the field that it means (``$.a.b[0]``)."""
    if not isinstance(error, msgspec.ValidationError):
        return str(error), "$"
    message, _, where = str(error).partition(" - at `")
    missing = _MISSING_FIELD.search(message)
    return message, (where.rstrip("`") or "$") + (f".{missing[1]}" if missing else "")
