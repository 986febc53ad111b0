"""How two requests differ, so that whoever changed one sees what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from car_rpc.eventlog.redact import JsonValue

#: Most differences that are told.
MAX_TOLD = 20

#: Most characters that are told of a text.
MAX_TOLD_CHARS = 160

#: What is told of a longer text before the place where it differs, in characters.
_CONTEXT_CHARS = 40


class Difference(Struct, frozen=True, kw_only=True):
    """A place where two requests differ.

    Attributes:
        path: Where, such as ``$.messages[0].content``.
        recorded: What the cassette has there; absent where it has nothing.
        got: What was asked; absent where that has nothing.
    """

    path: str
    recorded: Any = UNSET
    got: Any = UNSET


class _Pair(NamedTuple):
    path: str
    recorded: JsonValue | UnsetType
    got: JsonValue | UnsetType


def differences(recorded: JsonValue, got: JsonValue) -> list[Difference]:
    """Where two requests differ, at most :data:`MAX_TOLD` places; long texts are shortened."""
    return [_told(pair) for pair in islice(_pairs("$", recorded, got), MAX_TOLD)]


def distance(recorded: JsonValue, got: JsonValue) -> float:
    """How much two requests differ: 0 when they do not, and for each place that differs up to 1.

    Two texts differ by the part that is not the same at their beginning and end.
    """
    return sum(_part_that_differs(pair) for pair in _pairs("$", recorded, got))


def _pairs(path: str, recorded: JsonValue, got: JsonValue) -> Iterator[_Pair]:
    match recorded, got:
        case dict(), dict():
            for name in [*recorded, *(name for name in got if name not in recorded)]:
                yield from _member(
                    f"{path}.{name}", recorded.get(name, UNSET), got.get(name, UNSET)
                )
        case list(), list():
            for index in range(max(len(recorded), len(got))):
                each = (items[index] if index < len(items) else UNSET for items in (recorded, got))
                yield from _member(f"{path}[{index}]", *each)
        case _:
            # To Python, true is 1.
            if type(recorded) is not type(got) or recorded != got:
                yield _Pair(path, recorded, got)


def _member(
    path: str, recorded: JsonValue | UnsetType, got: JsonValue | UnsetType
) -> Iterator[_Pair]:
    if isinstance(recorded, UnsetType) or isinstance(got, UnsetType):
        yield _Pair(path, recorded, got)
    else:
        yield from _pairs(path, recorded, got)


def _part_that_differs(pair: _Pair) -> float:
    recorded, got = pair.recorded, pair.got
    if not (isinstance(recorded, str) and isinstance(got, str)):
        return 1.0
    shorter = min(len(recorded), len(got))
    begin = _shared_chars(recorded, got)
    end = _shared_chars(recorded[::-1], got[::-1])
    return 1 - min(begin + end, shorter) / max(len(recorded), len(got))


def _shared_chars(one: str, other: str) -> int:
    """How far two texts are the same."""
    return len(os.path.commonprefix([one, other]))  # noqa: RUF071 - characters are meant


def _told(pair: _Pair) -> Difference:
    recorded, got = pair.recorded, pair.got
    if isinstance(recorded, str) and isinstance(got, str):
        begin = _shared_chars(recorded, got) - _CONTEXT_CHARS
        return Difference(
            path=pair.path, recorded=_shortened(recorded, begin), got=_shortened(got, begin)
        )
    return Difference(path=pair.path, recorded=_bounded(recorded), got=_bounded(got))


def _bounded(value: JsonValue | UnsetType) -> Any:
    """A value of a size that can be read."""
    match value:
        case str():
            return _shortened(value, 0)
        case dict() | list() if len(text := str(value)) > MAX_TOLD_CHARS:
            return _shortened(text, 0)
        case _:
            return value


def _shortened(text: str, begin: int) -> str:
    """A part of a text that is not much longer than :data:`MAX_TOLD_CHARS`."""
    if len(text) <= MAX_TOLD_CHARS:
        return text
    begin = max(0, begin)
    end = begin + MAX_TOLD_CHARS
    return ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "")
