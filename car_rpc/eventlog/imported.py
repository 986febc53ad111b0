"""Take events from an export into a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from car_rpc.errors import invalid_params
from car_rpc.eventlog.blobs import Blob, take_out
from car_rpc.eventlog.redact import redact_json
from car_rpc.eventlog.store import EventRow
from car_rpc.wire.log import LogEvent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from car_rpc.eventlog.store import Store

# Only the data is taken to the letter; its numbers may be longer than Python's.
_decode = msgspec.json.Decoder(LogEvent).decode


class _Line(msgspec.Struct, frozen=True):
    data: msgspec.Raw


def import_lines(store: Store, lines: Iterable[bytes]) -> int:
    """Append the events of a JSONL export, under new numbers; returns how many.

    Times, sessions and traces stay what they were. Events of sessions that the log has already
    are left out, so that an import can be repeated.

    Args:
        store: The log to write to.
        lines: One event each; empty ones are skipped.

    Raises:
        CarError: ``invalid_params`` that names the line that is no event, and nothing is imported;
            ``io_error``.
    """
    rows = [_row(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    known = store.sessions()
    new = [row for row in rows if row.session_id not in known]
    store.append(new)
    return len(new)


def _row(line: bytes, number: int) -> EventRow:
    try:
        event = _decode(line)
        text = bytes(msgspec.json.decode(line, type=_Line).data)
        blobs: tuple[Blob, ...] = ()
        if event.type == "request":
            text, blobs = take_out(text)
        data = redact_json(text).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_params(f"line {number} is no event: {error}", f"$[{number - 1}]") from None
    return EventRow(
        ts=event.ts,
        session_id=event.session_id,
        trace_id=event.trace_id,
        conversation_id=None if event.conversation_id is UNSET else event.conversation_id,
        attempt=None if event.attempt is UNSET else event.attempt,
        type=event.type,
        data=data,
        blobs=blobs,
    )
