"""Check that the log is as it was written, a page at a time, so that nothing waits for it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import UNSET

from car_rpc.eventlog.blobs import BlobFiles, named
from car_rpc.eventlog.chain import ORIGIN, content_hash, link
from car_rpc.eventlog.store import connect_to_read, io_errors
from car_rpc.wire.log import EventlogVerifyResult

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

#: Events that are checked in one transaction: some tens of milliseconds.
PAGE_EVENTS = 4096

# Both parts are read in the order of their keys and merged, without a sort.
_PAGE = """
    SELECT seq, ts, session_id, type, trace_id, conversation_id, attempt, data, salt, NULL, hash
    FROM events WHERE seq > ?1
    UNION ALL
    SELECT seq, ts, session_id, type, NULL, NULL, NULL, NULL, NULL, content_hash, hash
    FROM tombstones WHERE seq > ?1
    ORDER BY seq LIMIT ?2
"""
_BEFORE_THE_START = "SELECT min(seq) FROM events WHERE seq <= ? AND hash IS NOT NULL"


class Verified(NamedTuple):
    """How far the chain was followed.

    Attributes:
        seq: The last event that is right, or the one before the first; -1 at the beginning.
        hash: Its hash.
        checked: How many were looked at.
        done: Whether that was the end.
        bad_seq: The first event that is not as it was written, or is not there.
    """

    seq: int = -1
    hash: bytes = ORIGIN
    checked: int = 0
    done: bool = False
    bad_seq: int | None = None

    def result(self) -> EventlogVerifyResult:
        """As the wire has it."""
        return EventlogVerifyResult(
            ok=self.bad_seq is None,
            checked=self.checked,
            first_bad_seq=UNSET if self.bad_seq is None else self.bad_seq,
        )


def verify_page(path: Path, so_far: Verified, limit: int = PAGE_EVENTS) -> Verified:
    """Go on from where an earlier call came to. Blocks; safe in any thread.

    Raises:
        CarError: ``io_error``.
    """
    with io_errors(path), closing(connect_to_read(path)) as connection:
        # Bytes that are no UTF-8 are an event that was changed, and not an error of the database.
        connection.text_factory = _lenient
        connection.execute("BEGIN")
        marks = {
            name: (seq, hash_)
            for name, seq, hash_ in connection.execute("SELECT name, seq, hash FROM chain")
        }
        start_seq, start_hash = marks.get("start", (0, ORIGIN))
        head_seq, head_hash = marks.get("head", (0, ORIGIN))
        if so_far.seq < 0:
            (early,) = connection.execute(_BEFORE_THE_START, (start_seq,)).fetchone()
            if early is not None:
                return so_far._replace(done=True, bad_seq=early)
        if so_far.seq < start_seq:  # what was next is deleted meanwhile
            so_far = so_far._replace(seq=start_seq, hash=start_hash)
        verified, digests = _follow(connection, so_far, limit, head_seq, head_hash)
    return _with_files(path, verified, digests)


def _follow(
    connection: sqlite3.Connection, so_far: Verified, limit: int, head_seq: int, head_hash: bytes
) -> tuple[Verified, dict[str, int]]:
    """Follow the chain; returns also the first event that names each of the files."""
    digests: dict[str, int] = {}
    seq, last_hash, checked, *_ = so_far
    page_end = checked + limit
    for row in connection.execute(_PAGE, (seq, limit)):
        if row[0] != seq + 1:
            return Verified(seq, last_hash, checked, done=True, bad_seq=seq + 1), digests
        checked += 1
        expected = _hash_of(last_hash, row)
        if expected is None or row[-1] != expected or row[0] > head_seq:
            return Verified(seq, last_hash, checked, done=True, bad_seq=row[0]), digests
        seq, last_hash = row[0], expected
        if row[3] == "request" and row[7] is not None:
            for digest in named(row[7]):
                digests.setdefault(digest, seq)
    if checked == page_end:
        return Verified(seq, last_hash, checked), digests
    bad_seq = None
    if seq != head_seq:
        bad_seq = seq + 1
    elif last_hash != head_hash:
        bad_seq = max(seq, 1)
    return Verified(seq, last_hash, checked, done=True, bad_seq=bad_seq), digests


def _with_files(path: Path, verified: Verified, digests: dict[str, int]) -> Verified:
    """What was found, unless a file that an earlier event names is not as it was."""
    files = BlobFiles(path)
    for digest, seq in sorted(digests.items(), key=lambda item: item[1]):
        if verified.bad_seq is not None and verified.bad_seq <= seq:
            break
        # One that was deleted with its event meanwhile is no fault.
        if not files.is_whole(digest) and _is_used(path, digest, seq):
            return verified._replace(done=True, bad_seq=seq)
    return verified


def _is_used(path: Path, digest: str, seq: int) -> bool:
    with io_errors(path), closing(connect_to_read(path)) as connection:
        found = connection.execute("SELECT 1 FROM events WHERE seq = ?", (seq,)).fetchone()
    return found is not None and not BlobFiles(path).is_whole(digest)


def _hash_of(last_hash: bytes, row: tuple[Any, ...]) -> bytes | None:
    """What the hash of a row must be, if it can have one."""
    seq, ts, session_id, type_, trace_id, conversation_id, attempt, data, salt, content, _ = row
    try:
        if content is None:
            content = content_hash(salt, trace_id, conversation_id, attempt, data)
        return link(last_hash, content, seq, ts, session_id, type_)
    except (AttributeError, TypeError, ValueError):  # values of types that are never written
        return None


def _lenient(text: bytes) -> str:
    return text.decode(errors="surrogateescape")
