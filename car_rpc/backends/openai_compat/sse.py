"""Server-sent events out of a byte stream (WHATWG HTML, section 9.2.6), without I/O."""

from __future__ import annotations

from typing import NamedTuple

from car_rpc.errors import CarError

#: Longest event that is taken, in bytes: also a picture in one piece is shorter, and what is longer
#: would only fill the memory.
MAX_EVENT_BYTES = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_CR, _LF = b"\r", b"\n"


class ServerEvent(NamedTuple):
    """One event: its type, ``message`` unless it names another, and its data."""

    type: str
    data: bytes


class EventParser:
    """Takes bytes as they come and gives the events that are complete.

    Lines may end in CR, LF or CRLF. Comments and the fields ``id`` and ``retry`` are skipped.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line: list[bytes] = []  # of the line that is not complete yet
        self._data: list[bytes] = []
        self._type = ""
        self._size = 0  # of the line and of the data
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Add bytes; returns the events that they complete.

        Raises:
            CarError: ``provider_error`` for an event that is too long.
        """
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(_LF)  # the second half of a CRLF
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(_CR)
        *complete, rest = _lines(chunk)
        events: list[ServerEvent] = []
        for line in complete:
            self._add(line)
            self._take(self._whole_line(), events)
        self._add(rest)
        return events

    def close(self) -> list[ServerEvent]:
        """The stream ended; returns the event that its end completes.

        The standard drops an event without its blank line. Servers forget that line, and an
        event that was really cut is no JSON, so nothing wrong is let in.
        """
        events: list[ServerEvent] = []
        self._take(self._whole_line(), events)
        self._take(b"", events)
        return events

    def _add(self, part: bytes) -> None:
        if part:
            self._line.append(part)
            self._size += len(part)
        if self._size > self._max_event_bytes:
            raise CarError(
                "provider_error",
                f"the server sent an event of more than {self._max_event_bytes} bytes",
            )

    def _whole_line(self) -> bytes:
        line = b"".join(self._line)
        self._line.clear()
        if self._at_start:
            line = line.removeprefix(_BOM)
            self._at_start = False
        return line

    def _take(self, line: bytes, events: list[ServerEvent]) -> None:
        if not line:
            if self._data:
                events.append(ServerEvent(self._type or "message", b"\n".join(self._data)))
            self._data.clear()
            self._type = ""
            self._size = 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        else:
            self._size -= len(line)  # what is not kept does not count
            if name == b"event":
                self._type = value.decode(errors="replace")


def _lines(chunk: bytes) -> list[bytes]:
    """The lines of a chunk without their ends; the last one is what follows the last end."""
    if _CR in chunk:
        chunk = chunk.replace(b"\r\n", _LF).replace(_CR, _LF)
    return chunk.split(_LF)
