"""A request that a cassette holds, with its answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from car_rpc.cassette.requests import key_of
from car_rpc.errors import KINDS, CarError
from car_rpc.eventlog.recorded import Recorded
from car_rpc.eventlog.redact import JsonObject, JsonValue

#: Members of answers and events that differ when the same is recorded again.
_INCIDENTAL = frozenset({"latency_ms", "time_to_first_token_ms", "trace_id"})


class Asked(NamedTuple):
    """A request.

    Attributes:
        method: Its method.
        params: Its parameters, normalised.
    """

    method: str
    params: JsonValue

    @property
    def key(self) -> bytes:
        """What is equal for equal requests."""
        return key_of(self.method, self.params)


class Interaction(NamedTuple):
    """A request and its answer.

    Attributes:
        asked: The request.
        recorded: The same as it was, with its answer and its stream.
        lines: The lines of the file that hold it.
    """

    asked: Asked
    recorded: Recorded
    lines: tuple[bytes, ...]

    @property
    def answer(self) -> bytes | CarError:
        """The encoded result, or the error."""
        answer = self.recorded.answered()
        return msgspec.json.encode(answer.result) if answer.error is None else _error(answer.error)

    def says_the_same(self, other: Interaction) -> bool:
        """Whether both have the same answer and events, but for times and the names of traces."""
        return _essential(self._told()) == _essential(other._told())

    def _told(self) -> JsonValue:
        recorded = self.recorded
        encoded = msgspec.json.encode([recorded.answer, [each.event for each in recorded.events]])
        told: JsonValue = msgspec.json.decode(encoded)
        return told


def _error(error: JsonObject) -> CarError:
    data: Any = error["data"]
    rest = {name: value for name, value in data.items() if name != "kind"}
    before, _, after = KINDS[data["kind"]].display.partition("{}")
    detail = str(error["message"]).removeprefix(before).removesuffix(after)
    return CarError(data["kind"], detail, **rest)


def _essential(value: JsonValue) -> JsonValue:
    match value:
        case dict():
            return {n: _essential(item) for n, item in value.items() if n not in _INCIDENTAL}
        case list():
            return [_essential(item) for item in value]
        case _:
            return value
