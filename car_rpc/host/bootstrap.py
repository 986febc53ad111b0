"""Answer ``initialize`` and ``ping`` while the process is still importing the rest of itself.

Those imports take several times as long as the interpreter's own start, and the first thing an
app waits for needs none of them. So this module, which uses the standard library alone, looks for
input between the imports. It answers what can be read in one way only, and leaves the first thing
that is not so plain, and all behind it, to the session.
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from car_rpc.config import DEFAULT_MAX_MESSAGE_BYTES
from car_rpc.host.greeting import initialize_result, installed_backends
from car_rpc.protocol.framing import FrameEvent, Splitter, wrap
from car_rpc.transport.claim import Claimed
from car_rpc.wire.announced import PROTOCOL_VERSION

#: Bytes read at once, which is also the longest message that is looked into.
READ_BYTES = 64 * 1024

#: What the session is made of, in an order that spreads the time between looks evenly.
CORE_MODULES = (
    "logging",
    "ssl",
    "asyncio",
    "msgspec",
    "car_rpc.host.runner",
    "car_rpc.host.server",
)

#: Options of ``serve`` whose values cannot be wrong, or are one of these.
_PLAIN_OPTIONS = {
    "--allow-path": None,
    "--config": None,
    "--log-level": ("debug", "info", "warning", "error"),
    "--models-dir": None,
    "--state-dir": None,
}

#: Parameters of ``initialize`` that are read here: what they hold, and the type of each value.
_PLAIN_PARAMS = {
    "protocol_version": int,
    "client_info": {"name": str, "version": str},
    "process_id": int,
    "allowed_paths": [str],
    "capabilities": {"log": {"level": str}, "progress": bool, "approve": bool},
}
_LOG_LEVELS = ("debug", "info", "warning", "error")

_MAX_INTEGER = 2**53 - 1
_MAX_PROCESS_ID = 2**31 - 1


class PlainRequest(NamedTuple):
    """A request that every reader of JSON understands alike."""

    id: int | str
    method: str
    params: dict[str, Any]


class Bootstrap:
    """What happened on the wire before there was a session.

    Args:
        claimed: The wire's descriptors.
        started: ``time.monotonic()`` at the start of the process.

    Attributes:
        first_parent: Who started the process.
        session_id: The session's name, which ``initialize`` tells.
        startup_ms: Milliseconds from the start until each phase was done.
        splitter: What has split the input so far.
        unanswered: What it gave and is left to the session.
        initialize_params: Those of the ``initialize`` that was answered, as JSON.
        has_read: Whether any input was taken.
    """

    def __init__(self, claimed: Claimed, started: float) -> None:
        self.first_parent = os.getppid()
        self.session_id = "ses_" + os.urandom(8).hex()
        self.startup_ms: dict[str, float] = {}
        self.splitter = Splitter(DEFAULT_MAX_MESSAGE_BYTES)
        self.unanswered: list[FrameEvent] = []
        self.initialize_params: bytes | None = None
        self.has_read = False
        self._claimed = claimed
        self._started = started

    def mark(self, phase: str) -> None:
        """A phase of the start is done; only the first time counts."""
        self.startup_ms.setdefault(phase, round((time.monotonic() - self._started) * 1000, 1))

    def import_core(self) -> None:
        """Import what the session needs, and answer in between."""
        self._look()
        for module in CORE_MODULES:
            __import__(module)
            self._look()

    def _look(self) -> None:
        """Answer what has come, as far as it is plain. Never waits."""
        if self.unanswered or not _ready(self._claimed.reader_fd, select.POLLIN):
            return
        try:
            data = os.read(self._claimed.reader_fd, READ_BYTES)
        except OSError:
            return
        if data:  # else the input has ended, which the session will find, too
            self.has_read = True
            self.unanswered = self.splitter.receive(data)
            while self.unanswered and self._answer(self.unanswered[0]):
                del self.unanswered[0]

    def _answer(self, event: FrameEvent) -> bool:
        """Answer a message; false, and nothing was done, when that is left to the session."""
        request = plain_request(event) if isinstance(event, bytes) else None
        if request is None:
            return False
        if request.method == "ping":
            result: dict[str, Any] = {"in_flight": 1, "startup_ms": self.startup_ms}
            return self._respond(request.id, result)
        if self.initialize_params is not None:
            return False
        backends = installed_backends()
        result = initialize_result(self.session_id, DEFAULT_MAX_MESSAGE_BYTES, backends)
        if not self._respond(request.id, result):
            return False
        self.initialize_params = json.dumps(request.params).encode()
        self.mark("initialize")
        return True

    def _respond(self, request_id: int | str, result: dict[str, Any]) -> bool:
        response = {"jsonrpc": "2.0", "id": request_id, "result": result}
        payload = json.dumps(response, separators=(",", ":")).encode()
        data = wrap(payload, self.splitter.framing or "ndjson")
        # So many bytes can be written without waiting where poll finds room (POSIX, `write`).
        if len(data) > select.PIPE_BUF or not _ready(self._claimed.writer_fd, select.POLLOUT):
            return False
        try:
            return os.write(self._claimed.writer_fd, data) == len(data)
        except OSError:  # nobody reads; the session finds out, and ends
            return False


def can_bootstrap(arguments: Sequence[str], claimed: Claimed) -> bool:
    """Whether answers may precede the session: a plain command line, and pipes that can be polled.

    Args:
        arguments: The command line after the program's name.
        claimed: The wire's descriptors.
    """
    if sys.platform == "win32":
        return False
    options = arguments[1:] if arguments[:1] == ["serve"] else arguments
    return (
        len(options) % 2 == 0
        and all(_is_plain(*pair) for pair in zip(options[::2], options[1::2], strict=True))
        and all(_is_pipe(fd) for fd in claimed)
    )


def exit_on_signals() -> None:
    """Until the session takes signals, let them end the process with the exit code it gives."""
    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: os._exit(128 + number))


def plain_request(data: bytes) -> PlainRequest | None:
    """An ``initialize`` or ``ping`` without anything that readers of JSON may take differently."""
    # Escapes may hide half a character; what is long is nothing plain.
    if rb"\u" in data or len(data) > READ_BYTES:
        return None
    try:
        message: Any = json.loads(data.decode(), object_pairs_hook=_distinct_members)
    except (ValueError, RecursionError):
        return None
    match message:
        case {"jsonrpc": "2.0", "id": request_id, "method": "ping" | "initialize" as method}:
            params: Any = message.get("params")
        case _:
            return None
    is_plain = (
        message.keys() <= {"jsonrpc", "id", "method", "params"}
        and _is_plain_id(request_id)
        and (params in (None, {}) if method == "ping" else _is_plain_introduction(params))
    )
    return PlainRequest(request_id, method, params or {}) if is_plain else None


def _is_plain_id(request_id: Any) -> bool:
    if type(request_id) is int:
        return abs(request_id) <= _MAX_INTEGER
    return type(request_id) is str


def _is_plain_introduction(params: Any) -> bool:
    return (
        _fits(params, _PLAIN_PARAMS)
        and params.get("protocol_version") == PROTOCOL_VERSION
        and "name" in params.get("client_info", {"name": ""})
        and 0 < params.get("process_id", 1) <= _MAX_PROCESS_ID
        and params.get("capabilities", {}).get("log", {}).get("level", "info") in _LOG_LEVELS
    )


def _fits(value: Any, shape: Any) -> bool:
    """Whether a value has a type, or all its elements or members have the types named for them."""
    kind = shape.__class__
    if type(value) is not (kind if kind in (dict, list) else shape):
        return False
    if kind is dict:
        return all(name in shape and _fits(value[name], shape[name]) for name in value)
    return kind is not list or all(_fits(element, shape[0]) for element in value)


def _distinct_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member comes twice")
    return members


def _is_plain(option: str, value: str) -> bool:
    if option not in _PLAIN_OPTIONS or value.startswith("-"):
        return False
    values = _PLAIN_OPTIONS[option]
    return values is None or value in values


def _is_pipe(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return any(flags & event for _, flags in poll.poll(0))
