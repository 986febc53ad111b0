"""Split a byte stream into messages, and wrap messages for sending.

Two framings are understood: newline-delimited JSON, and the base protocol of LSP 3.17
(``Content-Length: N``, an empty line, N bytes). The first byte of the stream decides.

The splitter never raises and never gives up: whatever it cannot use becomes a
:class:`Broken` event, and it finds the next message again.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias

Framing: TypeAlias = Literal["ndjson", "lsp"]

#: How much of an oversize message is kept to recover its id, in bytes. An id follows the
#: method name in every known client, long before this.
PREFIX_BYTES = 64 * 1024

#: Longest LSP header line, in bytes. The longest that the base protocol defines is a
#: Content-Type of about 60.
MAX_HEADER_BYTES = 8 * 1024

#: A declared length beyond this multiple of the message limit is taken for garbage; skipping
#: it would silence the connection for good.
MAX_SKIP_FACTOR = 16

_LSP: Framing = "lsp"
_NDJSON: Framing = "ndjson"
_BOM = b"\xef\xbb\xbf"
_CONTENT_LENGTH = re.compile(rb"content-length[ \t]*:[ \t]*([0-9]{1,19})[ \t]*$", re.IGNORECASE)
_HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9-]*[ \t]*:")


class Broken(NamedTuple):
    """Bytes that are not a message. ``prefix`` is what was kept of them."""

    kind: Literal["parse_error", "message_too_large"]
    detail: str
    prefix: bytes


#: A whole message, or what is none.
FrameEvent: TypeAlias = bytes | Broken


def wrap(payload: bytes, framing: Framing) -> bytes:
    """A message as it goes on the wire."""
    if framing == "lsp":
        return b"Content-Length: %d\r\n\r\n%b" % (len(payload), payload)
    return payload + b"\n"


def wrap_all(payloads: list[bytes], framing: Framing) -> bytes:
    """Messages as they go on the wire, one behind the other."""
    if framing == "lsp":
        return b"".join([wrap(payload, framing) for payload in payloads])
    return b"\n".join([*payloads, b""])


class Splitter:
    """Turns chunks of a byte stream into messages, and :class:`Broken` events.

    Any chunking of the same bytes gives the same events.

    Args:
        max_message_bytes: Longest message, in bytes.
        framing: A framing, or ``None`` to let the first byte decide.
    """

    def __init__(self, max_message_bytes: int, framing: Framing | None = None) -> None:
        self.framing: Framing | None = framing
        self._max = max_message_bytes
        self._buffer = bytearray()
        self._at_start = True
        self._discard_line = False
        self._discard_bytes = 0
        self._body_length: int | None = None
        self._in_body = False

    def receive(self, data: bytes) -> list[FrameEvent]:
        """Take the next chunk of the stream."""
        if self._at_start:
            data = self._detect(data)
            if self._at_start:
                return []
        if self.framing == "lsp":
            self._buffer += data
            return self._split_lsp()
        return self._split_lines(data)

    def receive_eof(self) -> list[FrameEvent]:
        """The stream ended: a last line without its line feed still counts."""
        tail = bytes(self._buffer)
        if self._at_start:
            tail = tail.removeprefix(_BOM)
        self._buffer.clear()
        if self.framing == "lsp":
            if self._in_body and not self._discard_bytes:
                return [Broken("parse_error", "the stream ended inside a message", tail)]
            return []
        return self._whole([tail]) if not self._discard_line else []

    def _detect(self, data: bytes) -> bytes:
        self._buffer += data
        if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
            return b""
        data = bytes(self._buffer).removeprefix(_BOM)
        if data:
            self._buffer.clear()
            self._at_start = False
            if self.framing is None:
                self.framing = _LSP if data[:1] in b"Cc" else _NDJSON
        return data

    # Newline-delimited JSON

    def _split_lines(self, data: bytes) -> list[FrameEvent]:
        if self._discard_line:
            _, found, data = data.partition(b"\n")
            if not found:
                return []
            self._discard_line = False
        *lines, tail = data.split(b"\n")
        if lines and self._buffer:
            self._buffer += lines[0]
            lines[0] = bytes(self._buffer)
            self._buffer.clear()
        self._buffer += tail
        events = self._whole(lines)
        if len(self._buffer) > self._max + self._buffer.endswith(b"\r"):
            events.append(self._oversize(bytes(self._buffer)))
            self._buffer.clear()
            self._discard_line = True
        return events

    def _whole(self, lines: list[bytes]) -> list[FrameEvent]:
        events: list[FrameEvent] = []
        for line in lines:
            if len(line) > self._max and len(line) > self._max + line.endswith(b"\r"):
                events.append(self._oversize(line))
            elif line and not line.isspace():
                events.append(line)
        return events

    def _oversize(self, message: bytes) -> Broken:
        limit = min(PREFIX_BYTES, self._max)
        return Broken("message_too_large", f"the limit is {self._max} bytes", message[:limit])

    # LSP base protocol

    def _split_lsp(self) -> list[FrameEvent]:
        events: list[FrameEvent] = []
        progress = True
        while progress:
            if self._discard_bytes:
                progress = self._skip()
            elif self._in_body:
                progress = self._read_body(events)
            else:
                progress = self._read_header_line(events)
        return events

    def _skip(self) -> bool:
        skipped = min(self._discard_bytes, len(self._buffer))
        del self._buffer[:skipped]
        self._discard_bytes -= skipped
        return not self._discard_bytes

    def _read_body(self, events: list[FrameEvent]) -> bool:
        length = self._body_length or 0
        needed = length if length <= self._max else min(PREFIX_BYTES, self._max)
        if len(self._buffer) < needed:
            return False
        body = bytes(self._buffer[:needed])
        del self._buffer[:needed]
        if length <= self._max:
            events.append(body)
        else:
            events.append(self._oversize(body))
            self._discard_bytes = length - needed
        self._in_body = False
        self._body_length = None
        return True

    def _read_header_line(self, events: list[FrameEvent]) -> bool:
        end = self._buffer.find(b"\n", 0, MAX_HEADER_BYTES)
        if end < 0:
            if len(self._buffer) < MAX_HEADER_BYTES:
                return False
            # A line that cannot be a header is cut here; the rest is judged on its own.
            end = MAX_HEADER_BYTES - 1
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        if not line.strip():
            self._in_body = self._body_length is not None
        else:
            self._header(line, events)
        return True

    def _header(self, line: bytes, events: list[FrameEvent]) -> None:
        found = _CONTENT_LENGTH.search(line)
        if found and int(found[1]) <= self._max * MAX_SKIP_FACTOR:
            self._body_length = int(found[1])
            if found.start() == 0:
                return
        elif not found and _HEADER.match(line) and b"content-length" not in line.lower():
            return
        events.append(Broken("parse_error", "this is no header of a message", line))
