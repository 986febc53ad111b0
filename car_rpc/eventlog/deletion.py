"""Delete events for good, so that the chain still holds: on demand, by age and by size.

What is left of a deleted event is its number, time, session and type, with its hashes. Where
nothing older is left, that goes too: the chain then starts behind it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import msgspec

from car_rpc.eventlog.blobs import BlobFiles, sweep
from car_rpc.eventlog.chain import content_hash
from car_rpc.eventlog.store import BUSY_TIMEOUT_S, io_errors, transaction
from car_rpc.wire.base import MAX_SAFE_INTEGER
from car_rpc.wire.log import RetentionPolicy

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

#: Events that one transaction deletes: other writers wait some milliseconds for it.
BATCH_EVENTS = 256
#: Freed space is given back to the disk once it is so much, and this part of the file.
MIN_FREE_BYTES = 4 * 1024 * 1024
MIN_FREE_SHARE = 0.25
# Pages that are given back in one transaction.
_VACUUM_PAGES = 256

# The words of the statement are ours, what the client said is bound.
_CHOSEN = """
    SELECT seq, ts, session_id, type, trace_id, conversation_id, attempt, data, salt, hash
    FROM events WHERE {} LIMIT ?
"""
_BURY = """
    INSERT INTO tombstones (seq, ts, session_id, type, content_hash, hash)
    VALUES (?, ?, ?, ?, ?, ?)
"""
_FREE_BLOBS = "DELETE FROM blob_uses WHERE seq = ? RETURNING sha256"
_BLOB_BYTES = """
    SELECT coalesce(sum(bytes), 0) FROM (SELECT DISTINCT sha256, bytes FROM blob_uses)
"""
_START = "SELECT seq FROM chain WHERE name = 'start'"
_FIRST_LEFT = "SELECT min(seq) FROM events WHERE seq > ?"
_DELETED_BEFORE = "SELECT max(seq), count(*) FROM tombstones WHERE seq > ? AND seq < ?"
_MOVE_START = """
    UPDATE chain SET (seq, hash) = (SELECT seq, hash FROM tombstones WHERE seq = ?)
    WHERE name = 'start'
"""


class Chosen(msgspec.Struct, frozen=True):
    """Which events are to be deleted.

    Attributes:
        condition: SQL over the columns of the events.
        values: What is bound in it.
    """

    condition: str
    values: tuple[str | int, ...] = ()


#: The oldest ones, as many as one call deletes.
OLDEST = Chosen("1 ORDER BY seq")


def delete_batch(path: Path, chosen: Chosen) -> int:
    """Delete at most :data:`BATCH_EVENTS` of the chosen events; returns how many it were.

    Blocks, also for other processes that write: not for the event loop.

    Raises:
        CarError: ``io_error``: none was deleted.
    """
    with _connected(path) as connection, transaction(connection):
        rows = connection.execute(
            _CHOSEN.format(chosen.condition), (*chosen.values, BATCH_EVENTS)
        ).fetchall()
        seqs = [(row[0],) for row in rows]
        connection.executemany("DELETE FROM events WHERE seq = ?", seqs)
        freed = {
            digest for seq in seqs for (digest,) in connection.execute(_FREE_BLOBS, seq).fetchall()
        }
        start = connection.execute(_START).fetchone()
        if start is not None:
            (start_seq,) = start
            connection.executemany(_BURY, (_tombstone(r) for r in rows if r[0] > start_seq))
            _move_start(connection, start_seq)
    if freed:
        # Not before the events are gone for good: a kill must not leave them without their files.
        with _connected(path) as connection, transaction(connection):
            BlobFiles(path).remove_unused(connection, freed)
    return len(rows)


def sweep_blobs(path: Path) -> None:
    """Remove files that no event names, as a kill may leave them.

    Raises:
        CarError: ``io_error``.
    """
    files = BlobFiles(path)
    with _connected(path) as connection:
        for shard in files.shards():
            with transaction(connection):
                sweep(connection, files, shard)


def give_back_space(path: Path) -> bool:
    """Give some freed space back to the disk, where it is worth it; tells whether it was.

    Raises:
        CarError: ``io_error``.
    """
    with _connected(path) as connection:
        worth_it = _is_worth_it(connection)
        if worth_it:
            connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    return worth_it


def empty_write_ahead_log(path: Path) -> None:
    """Remove what is deleted from the write-ahead log too, unless somebody reads just now.

    Raises:
        CarError: ``io_error``.
    """
    with _connected(path) as connection:
        connection.execute("PRAGMA busy_timeout = 200")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def used_bytes(path: Path) -> int:
    """How much of the database holds something, and the files beside it.

    Raises:
        CarError: ``io_error``.
    """
    with _connected(path) as connection:
        pages, free, page_bytes = _pages(connection)
        (blob_bytes,) = connection.execute(_BLOB_BYTES).fetchone()
    return (pages - free) * page_bytes + int(blob_bytes)


def read_policy(path: Path) -> RetentionPolicy | None:
    """What a client said of how long events are kept, in any process.

    Raises:
        CarError: ``io_error``.
    """
    with _connected(path) as connection:
        found = connection.execute("SELECT policy FROM retention").fetchone()
    return None if found is None else msgspec.json.decode(found[0], type=RetentionPolicy)


def write_policy(path: Path, policy: RetentionPolicy | None) -> None:
    """Keep what a client said, or forget it. Blocks: not for the event loop.

    Raises:
        CarError: ``io_error``.
    """
    with _connected(path) as connection, transaction(connection):
        if policy is None:
            connection.execute("DELETE FROM retention")
        else:
            text = msgspec.json.encode(policy).decode()
            connection.execute("REPLACE INTO retention (id, policy) VALUES (1, ?)", (text,))


@contextmanager
def _connected(path: Path) -> Generator[sqlite3.Connection]:
    with (
        io_errors(path),
        closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection,
    ):
        # What is deleted is overwritten, in the indexes too.
        connection.execute("PRAGMA secure_delete = ON").fetchall()
        yield connection


def _tombstone(row: tuple[object, ...]) -> tuple[object, ...]:
    seq, ts, session_id, type_, trace_id, conversation_id, attempt, data, salt, hash_ = row
    try:
        content = content_hash(salt, trace_id, conversation_id, attempt, data)  # type: ignore[arg-type]  # wrong types raise
    except (AttributeError, TypeError, ValueError):
        content = b""  # it was not as it was written, and the chain goes on telling so
    return (seq, ts, session_id, type_, content, hash_ or b"")


def _move_start(connection: sqlite3.Connection, start_seq: int) -> None:
    (first_left,) = connection.execute(_FIRST_LEFT, (start_seq,)).fetchone()
    bounds = (start_seq, MAX_SAFE_INTEGER if first_left is None else first_left)
    last_seq, count = connection.execute(_DELETED_BEFORE, bounds).fetchone()
    # A gap was made by somebody else, and must go on to show.
    if count and last_seq - start_seq == count:
        connection.execute(_MOVE_START, (last_seq,))
        connection.execute("DELETE FROM tombstones WHERE seq <= ?", (last_seq,))


def _pages(connection: sqlite3.Connection) -> tuple[int, int, int]:
    ((pages,), (free,), (page_bytes,)) = (
        connection.execute(f"PRAGMA {name}").fetchone()
        for name in ("page_count", "freelist_count", "page_size")
    )
    return pages, free, page_bytes


def _is_worth_it(connection: sqlite3.Connection) -> bool:
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    pages, free, page_bytes = _pages(connection)
    incremental = 2  # a file of an earlier schema keeps its size, and uses its free space first
    return (
        mode == incremental
        and free * page_bytes >= MIN_FREE_BYTES
        and free > pages * MIN_FREE_SHARE
    )
