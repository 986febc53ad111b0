"""The state directory's SQLite database, as every store of rows uses it.

One file holds the event log and all rows, and any number of processes use it at once. A read
never waits for a writer, because of the write-ahead log. A write takes the lock first, in a
connection of its own, so that one that waits for another process holds up nobody else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

from car_rpc.errors import CarError

#: How long another process may hold the database, in seconds.
BUSY_TIMEOUT_S = 5.0

Value: TypeAlias = str | int | float | bytes | None


class Database:
    """The tables of one store.

    Args:
        path: The file. The event log has opened it before, which makes it private and sets its
            journal mode.
        schema: Statements that create the store's tables where they are not there yet.
        flushes: Whether a transaction is on the disk when it ends. That takes milliseconds, in
            which nobody else writes, the event log included; without it a loss of power may take
            the last transactions, and the death of the process none.

    Raises:
        CarError: ``io_error`` when the database cannot be used.
    """

    def __init__(self, path: Path, schema: str, *, flushes: bool = True) -> None:
        self._path = path
        self._flushes = flushes
        with self._errors():
            # Made in a thread at start-up, then used by the event loop alone.
            self._reader = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._reader.executescript(schema)

    def read(self, statement: str, *values: Value) -> list[tuple[Value, ...]]:
        """All rows of a query. For the event loop: quick for a few rows found by their key.

        Raises:
            CarError: ``io_error``.
        """
        with self._errors():
            return self._reader.execute(statement, values).fetchall()

    def scan(self, statement: str, *values: Value) -> list[tuple[Value, ...]]:
        """All rows of a query that may go through many, in a connection of its own.

        For a thread, beside which the event loop goes on reading.

        Raises:
            CarError: ``io_error``.
        """
        with self._errors(), closing(self._connect()) as reader:
            return reader.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """A transaction that no other process writes beside: committed, or undone by an error.

        May wait for other processes: not for the event loop.

        Raises:
            CarError: ``io_error``; nothing was written.
        """
        with self._errors(), closing(self._connect()) as writer:
            writer.execute("BEGIN IMMEDIATE")
            # Closing the connection undoes what an error left open.
            yield writer
            writer.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._reader.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        if not self._flushes:
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CarError(
                "io_error",
                f"the database {self._path} cannot be used ({error});"
                " move it away or choose another --state-dir",
                path=str(self._path),
            ) from error
