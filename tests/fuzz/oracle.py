"""What every message deserves, said a second time and in another way than `car_rpc` does it.

The scanner is a strict JSON automaton of its own, and the judge knows the rules of the protocol
and nothing of the code: each request gets one response with its id; what cannot be parsed, or is
too large, gets one error that carries an id only if that is a member of the outermost object, is
complete before the damage, and belongs to no request in flight.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tests.fuzz.strategies import NOISE
from tests.process.conftest import check_stream

MAX_DEPTH = 128
MAX_BATCH = 1000
MAX_SAFE = 2**53 - 1
#: How far into a broken message an id is looked for.
PREFIX = 64 * 1024

CODES = {
    "parse_error": -32700,
    "malformed_message": -32600,
    "duplicate_id": -32600,
    "method_not_found": -32601,
    "invalid_params": -32602,
    "internal": -32603,
    "not_initialized": -32002,
    "cancelled": -32800,
    "message_too_large": 1025,
}

#: Parameters of a `generate` that runs until it is cancelled, on all peers that are judged here.
STALL = {"prompt": ""}
STALLS = (STALL, {**STALL, "stream": True})

_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_SPACE = re.compile(rb"[ \t\r\n]*")


class Scan(NamedTuple):
    """A JSON text: whether it is whole, how deep it nests, and its outermost members."""

    valid: bool
    depth: int
    #: Raw scalars by name; None for containers and for values that are not complete.
    members: dict[str, bytes | None]


def scan(text: bytes) -> Scan:
    """Read a JSON text up to its end or to the first byte that does not belong there."""
    return _Scanner(text).run()


class _Scanner:
    """An automaton: each state is a method that takes what comes and says whether it may."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0
        self._open: list[str] = []
        self._depth = 0
        self._key = ""
        self._scalar: bytes | None = None
        self._members: dict[str, bytes | None] = {}
        self._state = self._value

    def run(self) -> Scan:
        fits = True
        while fits:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at == len(self._text):
                break
            fits = self._state(chr(self._text[self._at]))
        return Scan(fits and self._state == self._end, self._depth, self._members)

    def _value(self, char: str) -> bool:
        if char in "{[":
            self._open.append(char)
            self._depth = max(self._depth, len(self._open))
            self._at += 1
            self._state = self._first_key if char == "{" else self._first_value
            return True
        self._scalar = self._token(_STRING if char == '"' else _SCALAR)
        self._state = self._comma if self._open else self._end
        return self._scalar is not None

    def _first_value(self, char: str) -> bool:
        return self._close() if char == "]" else self._value(char)

    def _first_key(self, char: str) -> bool:
        return self._close() if char == "}" else self._name(char)

    def _name(self, _: str) -> bool:
        token = self._token(_STRING)
        if token is not None:
            self._key = json.loads(token)
        self._state = self._colon
        return token is not None

    def _colon(self, char: str) -> bool:
        if self._open == ["{"]:
            self._members.update({self._key: None} if char == ":" else {})
        self._at += 1
        self._state = self._value
        return char == ":"

    def _comma(self, char: str) -> bool:
        if char not in (",", "}" if self._open[-1] == "{" else "]"):
            return False
        if self._open == ["{"]:
            self._members[self._key] = self._scalar
        if char != ",":
            return self._close()
        self._at += 1
        self._state = self._name if self._open[-1] == "{" else self._value
        return True

    def _close(self) -> bool:
        self._open.pop()
        self._at += 1
        self._scalar = None
        self._state = self._comma if self._open else self._end
        return True

    def _end(self, _: str) -> bool:
        return False

    def _token(self, kind: re.Pattern[bytes]) -> bytes | None:
        found = kind.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        try:
            found[0].decode()
            if kind is _STRING:
                json.loads(found[0]).encode()
        except UnicodeError:  # bytes or escapes that are no text
            return None
        return found[0]


def _small(digits: str) -> int:
    """An integer; huge ones are all the same, because none of them is an id."""
    return int(digits) if len(digits) < 30 else 10**30


def is_id(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) <= MAX_SAFE)


def rescued_id(text: bytes) -> Any:
    """The id of a message that cannot be used, from what is intact of it."""
    members = scan(text[:PREFIX]).members
    if "result" in members or "error" in members:
        return None
    raw = members.get("id")
    value = None if raw is None else json.loads(raw, parse_int=_small)
    return value if is_id(value) else None


class Due(NamedTuple):
    """One answer that must come: any of these ids, any of these kinds (None: a result)."""

    ids: frozenset[str]
    kinds: frozenset[str | None] | None = None

    def fits(self, answer: dict[str, Any]) -> bool:
        kind = answer["error"]["data"]["kind"] if "error" in answer else None
        return key(answer["id"]) in self.ids and (self.kinds is None or kind in self.kinds)


def key(request_id: Any) -> str:
    """An id with its type: 1 and "1" are two."""
    return json.dumps(request_id)


class Judge:
    """Follows a connection and says which answers are due.

    Args:
        limit: Longest message, in bytes.
        framing: `ndjson` or `lsp`.
        exact: Whether the peer answers a cancelled request before it reads on, and all but
            `generate` at once. Otherwise it may be in flight for a while, and both answers to what
            comes meanwhile with its id are right.
        ready: Whether `initialize` came before; without it only `ping` is served.
    """

    def __init__(self, limit: int, framing: str, *, exact: bool, ready: bool = True) -> None:
        self.limit = limit
        self.framing = framing
        self.exact = exact
        self.ready = ready
        #: Requests in flight, by id: whether they are so for certain.
        self.in_flight: dict[str, bool] = {}
        self.due: list[Due] = []
        #: Streams that must have an end, by id, and those that may: the id was perhaps in flight.
        self._streams: Counter[str] = Counter()
        self._possible: Counter[str] = Counter()
        self._ambiguous = False

    def take(self, payload: bytes) -> None:
        """The peer gets this message, these lines, or this noise between two messages."""
        if self.framing == "lsp" and payload in NOISE:
            for _ in range(NOISE[payload]):
                self._violation(rescued_id(payload), "parse_error")
            return
        lines = payload.split(b"\n") if self.framing == "ndjson" else [payload]
        for line in lines:
            if line.strip() or self.framing == "lsp":
                self._frame(line)

    def end(self) -> list[Any]:
        """The ids to cancel, so that everything is answered."""
        return [json.loads(each) for each in self.in_flight]

    def check(self, answers: Sequence[dict[str, Any]]) -> None:
        """All that is due has come, each once, and nothing else."""
        for answer in answers:
            check_form(answer)
        assert len(answers) == len(self.due), f"{len(self.due)} due, {len(answers)} came"
        taken: dict[int, int] = {}
        for index in range(len(self.due)):
            assert self._assign(index, answers, taken, set()), f"{self.due[index]} has not come"

    def check_streams(self, messages: Iterable[Any]) -> None:
        """Whoever asked for a stream got one whole one, however its request ended."""
        streams: dict[str, list[list[Any]]] = {}
        for message in messages:
            if isinstance(message, dict) and message.get("method") == "generate.event":
                params = message["params"]
                of_id = streams.setdefault(key(params["request_id"]), [])
                if params["seq"] == 0:
                    of_id.append([])
                of_id[-1].append(params)
        for stream in (each for of_id in streams.values() for each in of_id):
            check_stream(stream, "error")
        if not self._ambiguous:
            for name in {*streams, *self._streams}:
                count = len(streams.get(name, []))
                wanted = self._streams[name]
                assert wanted <= count <= wanted + self._possible[name], (name, count, wanted)

    def _assign(
        self, index: int, answers: Sequence[Any], taken: dict[int, int], tried: set[int]
    ) -> bool:
        for place, answer in enumerate(answers):
            if place not in tried and self.due[index].fits(answer):
                tried.add(place)
                if place not in taken or self._assign(taken[place], answers, taken, tried):
                    taken[place] = index
                    return True
        return False

    def _frame(self, frame: bytes) -> None:
        allowed = self.limit + (self.framing == "ndjson" and frame.endswith(b"\r"))
        if len(frame) > allowed:
            self._violation(rescued_id(frame[: self.limit]), "message_too_large")
            return
        found = scan(frame)
        if not found.valid or found.depth > MAX_DEPTH:
            self._violation(rescued_id(frame), "parse_error")
            return
        value = json.loads(frame, parse_int=_small, object_pairs_hook=_Members)
        if not isinstance(value, list):
            self._message(value)
        elif not value or len(value) > MAX_BATCH:
            self._violation(None, "malformed_message")
        else:
            for entry in value:
                self._message(entry)

    def _message(self, message: Any) -> None:
        if not isinstance(message, _Members):
            self._violation(None, "malformed_message")
            return
        answer = "result" in message or "error" in message
        request_id = message.get("id")
        usable = request_id if is_id(request_id) and not answer else None
        method = message.get("method")
        sound = message.get("jsonrpc") == "2.0" and (
            isinstance(method, str) or "method" not in message
        )
        if not sound:
            self._violation(usable, "malformed_message", message.twice)
        elif isinstance(method, str) and not answer and "id" not in message:
            if method == "$/cancelRequest" and not message.twice:
                self._cancel(message.get("params"))
        elif isinstance(method, str) and not answer and is_id(request_id):
            self._request(request_id, method, message)
        elif (
            answer
            and "method" not in message
            and "id" in message
            and (request_id is None or is_id(request_id))
        ):
            pass
        else:
            self._violation(usable, "malformed_message", message.twice)

    def _violation(self, request_id: Any, kind: str, uncertain: bool = False) -> None:
        certain = self.in_flight.get(key(request_id))
        ids = {"null"} if certain else {key(request_id)}
        if certain is False:
            ids.add("null")
        self.due.append(Due(frozenset(ids), None if uncertain else frozenset([kind])))

    def _request(self, request_id: Any, method: str, message: _Members) -> None:
        name = key(request_id)
        stalls = method == "generate" and (self.exact or message.get("params") in STALLS)
        kinds: frozenset[str | None] | None = None
        self._stream(name, method, message)
        if self.in_flight.get(name):
            kinds = frozenset(["duplicate_id"])
        elif self.ready and (message.twice or name in self.in_flight):
            self.in_flight[name] = False
        elif self.ready and stalls:
            self.in_flight[name] = True
            kinds = frozenset(["cancelled"])
        elif method != "ping" and not self.ready:
            kinds = frozenset(["not_initialized"])
        elif method == "ping" or self.exact:
            kinds = frozenset([None])
        else:
            self.in_flight[name] = False
        if message.twice:
            # Either of the two members counts, and what is malformed loses an id in flight.
            ids = {name, "null"} if name in self.in_flight else {name}
            self.due.append(Due(frozenset(ids)))
        else:
            self.due.append(Due(frozenset([name]), kinds))

    def _stream(self, name: str, method: str, message: _Members) -> None:
        params = message.get("params")
        wanted = isinstance(params, dict) and params.get("stream") is True
        self._ambiguous = self._ambiguous or message.twice
        if method == "generate" and wanted and not self.in_flight.get(name):
            (self._possible if name in self.in_flight else self._streams)[name] += 1

    def _cancel(self, params: Any) -> None:
        target = params.get("id") if isinstance(params, dict) else None
        if is_id(target) and key(target) in self.in_flight:
            if self.exact:
                del self.in_flight[key(target)]
            else:
                self.in_flight[key(target)] = False


class _Members(dict[str, Any]):
    """An object; `twice` tells whether a name came twice, which JSON leaves open."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = len(self) < len(pairs)


def check_form(answer: dict[str, Any]) -> None:
    """One response of JSON-RPC 2.0, and an error that says its kind."""
    assert answer["jsonrpc"] == "2.0"
    assert "id" in answer
    assert ("result" in answer) != ("error" in answer), answer
    if "error" in answer:
        error = answer["error"]
        assert isinstance(error["message"], str)
        kind = error["data"]["kind"]
        assert kind != "internal", answer
        assert error["code"] == CODES.get(kind, error["code"])


def flatten(messages: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The responses among messages, those of batches one by one."""
    for message in messages:
        for each in message if isinstance(message, list) else [message]:
            if "method" not in each:
                yield each
