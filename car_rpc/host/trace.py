"""Write down a connection in the format of the conformance dialogues, so that a trace is a test.

Whatever the core makes up (ids, times) becomes a variable with what it was as its example, and
secrets are replaced as in the event log.
"""

from __future__ import annotations

import base64
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import msgspec

from car_rpc.eventlog.redact import JsonObject, JsonValue, redact
from car_rpc.eventlog.shapes import KNOWN
from car_rpc.protocol.framing import FrameEvent, Framing, Splitter, wrap

logger = logging.getLogger(__name__)

Side: TypeAlias = Literal["client", "core"]

#: A trace is for looking at: beyond this many bytes nothing more is written.
MAX_TRACE_BYTES = 1024 * 1024 * 1024

#: Ids that the core makes up, wherever they stand in one of its messages.
_MADE_UP_IDS = frozenset({"call_id", "session_id", "trace_id"})

#: Other members that differ from run to run.
_VOLATILE = frozenset(
    {
        "deadline_ms",
        "hash",
        "in_flight",
        "latency_ms",
        "server_info",
        "startup_ms",
        "time_to_first_token_ms",
        "ts",
    }
)

#: Where a message names a request by its id.
_ID_PATHS = {
    "generate.event": "request_id",
    "eventlog.event": "request_id",
    "runner.run": "parent_id",
    "$/cancelRequest": "id",
}


class Trace:
    """Writes a dialogue as it happens.

    Args:
        file: Where to; written unbuffered, so that a crash loses nothing.
        name: The dialogue's name.
        now_ms: Time, in milliseconds.
        max_message_bytes: As for the connection.
        framing: As for the connection.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        now_ms: Callable[[], float],
        max_message_bytes: int,
        framing: Framing | None,
    ) -> None:
        self._file = file
        self._now_ms = now_ms
        self._started_ms = now_ms()
        self._written_bytes = 0
        self._client = Splitter(max_message_bytes, framing)
        self._core: Splitter | None = None
        #: The variable that stands for an id, by its kind and the id.
        self._names: dict[tuple[str, str | int], str] = {}
        #: How many variables of each kind there are.
        self._counts: Counter[str] = Counter()
        head = {"dialogue": name, "about": "A trace of a connection.", "handshake": False}
        self._write({**head, "rules": [], "examples": {}})

    def received(self, data: bytes) -> None:
        """The client sent these bytes."""
        if self._file.closed:
            return
        for event in self._client.receive(data):
            self._note("client", event)

    def sent(self, data: bytes) -> None:
        """The core wrote these bytes."""
        if self._file.closed:
            return
        if self._core is None:
            self._core = Splitter(MAX_TRACE_BYTES, self._client.framing or "ndjson")
        for event in self._core.receive(data):
            self._note("core", event)

    def ended(self, exit_code: int) -> None:
        """The process is about to end."""
        self._write({"exit": exit_code})
        self._file.close()

    def _note(self, side: Side, event: FrameEvent) -> None:
        step: dict[str, Any] = {}
        examples: JsonObject = {}
        try:
            message: JsonValue = msgspec.json.decode(event if isinstance(event, bytes) else b"")
            messages = message if isinstance(message, list) else [message]
            masked = [self._masked(side, one, examples) for one in messages]
            step[side] = masked if isinstance(message, list) else masked[0]
        except (ValueError, TypeError, RecursionError):
            form = "frame" if isinstance(event, bytes) else "bytes"
            step[f"{side}_{form}"] = self._as_text(event)
        step["at_ms"] = round(self._now_ms() - self._started_ms, 1)
        if examples:
            step["examples"] = examples
        self._write(step)

    def _masked(self, side: Side, message: JsonValue, examples: JsonObject) -> JsonObject:
        """A message without ``jsonrpc``, with variables and without secrets."""
        if not isinstance(message, dict):
            raise TypeError("no message")
        method = message.get("method")
        plain = {name: value for name, value in message.items() if name not in ("jsonrpc", "id")}
        masked = {name: _escaped(redact(value)) for name, value in plain.items()}
        if isinstance(method, str):
            masked["method"] = method
        if side == "core":
            masked = {name: self._member(name, v, examples) for name, v in masked.items()}
        # An answer carries the id of the other side's request.
        asker: Side = side if "method" in message else _other(side)
        if "id" in message:
            masked = {"id": self._request(asker, message["id"], examples), **masked}
        named = _ID_PATHS.get(str(method))
        params = masked.get("params")
        if named and isinstance(params, dict) and named in params:
            owner = side if method == "$/cancelRequest" else "client"
            original = msgspec.convert(message["params"], dict[str, Any])[named]
            params[named] = self._request(owner, original, examples)
        return masked

    def _with_variables(self, value: JsonValue, examples: JsonObject) -> JsonValue:
        match value:
            case dict():
                return {name: self._member(name, item, examples) for name, item in value.items()}
            case list():
                return [self._with_variables(item, examples) for item in value]
            case _:
                return value

    def _member(self, name: str, value: JsonValue, examples: JsonObject) -> JsonValue:
        if name in _MADE_UP_IDS and isinstance(value, str):
            return self._id(name, value, examples)
        if name in _VOLATILE and value is not None:
            return f"${self._new_variable(name, value, examples)}"
        return self._with_variables(value, examples)

    def _request(self, side: Side, request_id: JsonValue, examples: JsonObject) -> JsonValue:
        if not isinstance(request_id, str | int) or isinstance(request_id, bool):
            return request_id
        return self._id("request" if side == "client" else "run", request_id, examples)

    def _id(self, kind: str, value: str | int, examples: JsonObject) -> str:
        key = (kind, value)
        if key not in self._names:
            self._names[key] = self._new_variable(kind, value, examples)
        return f"${self._names[key]}"

    def _new_variable(self, kind: str, value: JsonValue, examples: JsonObject) -> str:
        self._counts[kind] += 1
        examples[name := f"{kind}_{self._counts[kind]}"] = value
        return name

    def _as_text(self, event: FrameEvent) -> Any:
        if isinstance(event, bytes):
            raw = event
        else:
            raw = wrap(event.prefix, self._client.framing or "ndjson")
        try:
            return KNOWN.replace(raw.decode())
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(raw).decode()}

    def _write(self, line: dict[str, Any]) -> None:
        if self._file.closed:
            return
        data = memoryview(msgspec.json.encode(line) + b"\n")
        self._written_bytes += len(data)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._end(f"it cannot be written: {error.strerror}")
        if self._written_bytes > MAX_TRACE_BYTES:
            self._end(f"it has {MAX_TRACE_BYTES} bytes")

    def _end(self, reason: str) -> None:
        self._file.close()
        logger.warning("the trace ends here, because %s", reason)


def open_trace(path: Path, max_message_bytes: int, framing: Framing | None) -> Trace | None:
    """Start a trace in a file that only its owner may read, because of what is said to models.

    Returns:
        The trace; ``None`` when the file cannot be written, which the log says.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        logger.warning("there is no trace: %s cannot be written: %s", path, error.strerror)
        return None
    file = os.fdopen(descriptor, "wb", buffering=0)
    return Trace(file, path.stem, lambda: time.monotonic() * 1000, max_message_bytes, framing)


def _other(side: Side) -> Side:
    return "core" if side == "client" else "client"


def _escaped(value: JsonValue) -> JsonValue:
    """The value with every text that begins like a variable marked as a text."""
    match value:
        case str():
            return f"${value}" if value.startswith("$") else value
        case dict():
            return {name: _escaped(item) for name, item in value.items()}
        case list():
            return [_escaped(item) for item in value]
        case _:
            return value
