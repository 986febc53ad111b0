"""The event log on disk: one SQLite database per state directory. Writes events, and reads pages.

Any number of processes write one database. A write transaction takes the lock first
(``BEGIN IMMEDIATE``) and then continues the sequence from its last number, so ``seq`` has no
gap over all processes, and a reader that has seen ``n`` has seen everything up to ``n``.

Durability: write-ahead log with ``synchronous=NORMAL``. What was committed survives the death
of the process by any signal, and the file is never half-written. A loss of power or a crash
of the operating system may take the last commits, but never leaves a gap; ``FULL`` would keep
those too, at the price of a disk flush (milliseconds on a laptop) before every answer.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.eventlog.blobs import Blob, BlobFiles
from car_rpc.eventlog.chain import SALT_BYTES, content_hash, link
from car_rpc.eventlog.moments import Lag, bounds
from car_rpc.eventlog.schema import MIGRATIONS
from car_rpc.eventlog.times import bound_to_text
from car_rpc.wire.base import decode_object
from car_rpc.wire.log import EventlogQueryParams, EventlogQueryResult, LogEvent

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

_FREE_SPACE = "free some disk space"

#: Longest wait for another process's transaction, which normally takes milliseconds.
BUSY_TIMEOUT_S = 5.0
#: A page ends early beyond this much data, so that one answer stays a message of usual size.
MAX_PAGE_BYTES = 8 * 1024 * 1024
#: The write-ahead log is cut back to this size after a checkpoint.
_MAX_IDLE_WAL_BYTES = 16 * 1024 * 1024
# One suffices for two processes that start together.
_WAL_TRIES = 8

_INSERT = """
    INSERT INTO events
        (seq, ts, session_id, trace_id, conversation_id, attempt, type, data, salt, hash)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM events"
# The number goes on behind events that somebody wrote past the chain, or after its head is gone:
# the log still works, and verifying it shows them.
_HEAD = f"""
    SELECT max(({_LAST_SEQ}), coalesce((SELECT seq FROM chain WHERE name = 'head'), 0)),
        coalesce((SELECT hash FROM chain WHERE name = 'head'), zeroblob(32)),
        (SELECT latest FROM chain WHERE name = 'head'),
        (SELECT skew_ms FROM chain WHERE name = 'head')
"""  # noqa: S608 - nothing is joined that anybody sent
_USE_BLOB = "INSERT OR IGNORE INTO blob_uses (sha256, seq, bytes) VALUES (?, ?, ?)"
_SET_HEAD = """
    REPLACE INTO chain (name, seq, hash, latest, skew_ms) VALUES ('head', ?, ?, ?, ?)
"""

_SqlValue: TypeAlias = str | int | None


class EventRow(NamedTuple):
    """An event as it is stored; the transaction that writes it adds ``seq``.

    Attributes:
        ts: From :func:`car_rpc.eventlog.times.to_text`.
        data: A JSON object.
        blobs: The files that it names.
    """

    ts: str
    session_id: str
    trace_id: str | None
    conversation_id: str | None
    attempt: int | None
    type: str
    data: str
    blobs: tuple[Blob, ...] = ()


class Store:
    """The write connection. Used by one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._files = BlobFiles(path)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the database, and create or migrate it where needed.

        A directory is created with mode 0700; one that exists keeps its mode. The file gets
        mode 0600 in any case.

        Raises:
            CarError: ``io_error``: the file cannot be used; the text names it and the remedy.
        """
        with io_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create_private(path)
            connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def append(self, rows: Sequence[EventRow]) -> None:
        """Write the rows in one transaction: all of them, in this order, or none.

        Raises:
            CarError: ``io_error``: nothing was written.
        """
        with io_errors(self._path):
            self._keep_blobs(rows)  # before others wait for this transaction
            with transaction(self._connection) as connection:
                last_seq, last_hash, *known = connection.execute(_HEAD).fetchone()
                chained = _chained(rows, last_seq, last_hash)
                connection.executemany(_INSERT, chained)
                if chained:
                    if None not in known:  # an older version of us, or somebody else, wrote
                        known = [*Lag(*known).after(row.ts for row in rows)]
                    connection.execute(_SET_HEAD, (chained[-1][0], chained[-1][-1], *known))
                uses = [
                    (blob.sha256, seq, len(blob.content))
                    for seq, row in enumerate(rows, last_seq + 1)
                    for blob in row.blobs
                ]
                if uses:
                    connection.executemany(_USE_BLOB, uses)
                    self._keep_blobs(rows)  # what another process has removed meanwhile

    def _keep_blobs(self, rows: Sequence[EventRow]) -> None:
        for row in rows:
            for blob in row.blobs:
                self._files.keep(blob)

    def sessions(self) -> set[str]:
        """All sessions that wrote something that is still there. Goes through the whole log.

        Raises:
            CarError: ``io_error``.
        """
        with io_errors(self._path):
            found = self._connection.execute("SELECT DISTINCT session_id FROM events").fetchall()
        return {session_id for (session_id,) in found}

    def close(self) -> None:
        """Close the connection; the last process to do so merges the write-ahead log."""
        with io_errors(self._path):
            self._connection.close()


def _chained(
    rows: Sequence[EventRow], last_seq: int, last_hash: bytes
) -> list[tuple[int | str | bytes | None, ...]]:
    """The rows as they are stored: with their numbers, salts and hashes."""
    salts = os.urandom(SALT_BYTES * len(rows))
    chained: list[tuple[int | str | bytes | None, ...]] = []
    for index, row in enumerate(rows):
        salt = salts[index * SALT_BYTES : (index + 1) * SALT_BYTES]
        seq = last_seq + 1 + index
        content = content_hash(salt, row.trace_id, row.conversation_id, row.attempt, row.data)
        last_hash = link(last_hash, content, seq, row.ts, row.session_id, row.type)
        chained.append((seq, *row[:-1], salt, last_hash))
    return chained


def last_seq_of(path: Path) -> int:
    """The number of the last event that was ever written. Blocks; safe in any thread.

    Raises:
        CarError: ``io_error``.
    """
    with io_errors(path), closing(connect_to_read(path)) as connection:
        last_seq: int = connection.execute(_HEAD).fetchone()[0]
    return last_seq


def select(
    path: Path, params: EventlogQueryParams, max_bytes: int | None = None
) -> EventlogQueryResult:
    """Read one page of events. Blocks; safe in any thread, also while others write.

    Args:
        path: The database.
        params: Which events.
        max_bytes: The page ends early beyond this much data; :data:`MAX_PAGE_BYTES` by default.

    Raises:
        CarError: ``invalid_params`` for a malformed time, or ``io_error``.
    """
    since, until = _times(params)
    condition, values = _condition(params, since, until)
    descending = params.order == "desc"
    direction = "DESC" if descending else "ASC"
    columns = "seq, ts, session_id, trace_id, conversation_id, attempt, type, data"
    statement = (
        f"SELECT {columns} FROM events "  # noqa: S608 - what the client sent is bound, not joined
        f"WHERE {condition} AND seq BETWEEN ? AND ? ORDER BY seq {direction} LIMIT ?"
    )
    with io_errors(path), closing(connect_to_read(path)) as connection:
        # One snapshot for both reads: nothing can be committed in between.
        connection.execute("BEGIN")
        (last_seq,) = connection.execute(_LAST_SEQ).fetchone()
        first, last = bounds(connection, since, until, last_seq)
        if descending and params.after_seq:
            last = min(last, params.after_seq - 1)
        elif not descending:
            first = max(first, params.after_seq + 1)
        rows = connection.execute(statement, (*values, first, last, params.limit))
        events, complete = _read_page(rows, params.limit, max_bytes or MAX_PAGE_BYTES)
    if not complete:
        next_seq = events[-1].seq
    elif descending:
        next_seq = 1
    else:
        # Beyond the last match too, so that a poll does not search the same events again.
        next_seq = max(last_seq, params.after_seq)
    return EventlogQueryResult(events=events, next_seq=next_seq)


def _read_page(rows: Iterator[Any], limit: int, max_bytes: int) -> tuple[list[LogEvent], bool]:
    """The events of a page, and whether there are certainly no more."""
    events: list[LogEvent] = []
    size_bytes = 0
    for seq, ts, session_id, trace_id, conversation_id, attempt, type_, data in rows:
        events.append(
            LogEvent(
                seq=seq,
                ts=ts,
                session_id=session_id,
                trace_id=trace_id,
                conversation_id=UNSET if conversation_id is None else conversation_id,
                attempt=UNSET if attempt is None else attempt,
                type=type_,
                data=decode_object(data),
            )
        )
        size_bytes += len(data)
        if len(events) == limit or size_bytes >= max_bytes:
            return events, False
    return events, True


def _times(params: EventlogQueryParams) -> tuple[str | None, str | None]:
    since = None if params.since is UNSET else bound_to_text(params.since, "$.since")
    until = None if params.until is UNSET else bound_to_text(params.until, "$.until")
    return since, until


def _condition(
    params: EventlogQueryParams, since: str | None, until: str | None
) -> tuple[str, list[_SqlValue]]:
    terms: list[str] = ["1"]
    values: list[_SqlValue] = []

    def require(term: str, *bound: _SqlValue) -> None:
        terms.append(term)
        values.extend(bound)

    if params.trace_id is not UNSET:
        require("trace_id = ?", params.trace_id)
    if params.conversation_id is not UNSET:
        require("conversation_id = ?", params.conversation_id)
    if params.types is not UNSET:
        require(f"type IN ({', '.join('?' * len(params.types))})", *params.types)
    # The plus keeps SQLite from the index of times: it would sort all that are of the time.
    if since is not None:
        require("+ts >= ?", since)
    if until is not None:
        require("+ts < ?", until)
    return " AND ".join(terms), values


def _create_private(path: Path) -> None:
    # An existing file must not be opened here: closing it again would drop the POSIX locks
    # that this process may hold on it (SQLite, "How To Corrupt", section 2.2).
    if not path.exists():
        path.touch(mode=0o600)
    elif path.is_file():
        with suppress(PermissionError):  # another user's file, and that user's decision
            path.chmod(0o600)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # Only a new file takes this: what is deleted can then be given back to the disk step by step.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _enter_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_MAX_IDLE_WAL_BYTES}")
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise CarError(
                "io_error",
                f"the event log {path} was written by a newer car-rpc (schema {version}, this "
                f"one knows {len(MIGRATIONS)}); update car-rpc or choose another state directory",
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute(_LAST_SEQ)  # touches the table: a damaged file shows now, not later


def _enter_wal(connection: sqlite3.Connection) -> None:
    # The switch fails at once, without waiting, where another process switches or writes the
    # new file. A transaction waits, and what runs meanwhile waits for this one.
    for _ in range(_WAL_TRIES):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        else:
            return
    connection.execute("PRAGMA journal_mode = WAL")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[sqlite3.Connection]:
    """A transaction that no other process writes beside: committed, or undone by an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends some failed transactions itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def io_errors(path: Path) -> Generator[None]:
    """Turn what SQLite and the file system say into ``io_error`` with a remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise CarError("io_error", f"the event log {path}: {error}; {_remedy(error)}") from error
    except OSError as error:
        remedy = "make it readable and writable or choose another state directory"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a file beside the database
            remedy = _FREE_SPACE
        reason = error.strerror or type(error).__name__
        raise CarError("io_error", f"the event log {path}: {reason}; {remedy}") from error


def _primary_code(error: sqlite3.Error) -> int:
    # Absent on errors that Python's module raises itself. The low byte is the primary code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _remedy(error: sqlite3.Error) -> str:
    match _primary_code(error):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return "move the file away, and the next start creates a new one"
        case sqlite3.SQLITE_FULL:
            return _FREE_SPACE
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "end the process that holds the database, or try again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return "make the file and its directory writable or choose another state directory"
        case _:
            return "check the disk, or choose another state directory"
