"""What the processes on a state directory have loaded, so that they share one memory budget."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from car_rpc.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS loaded_models (
    worker_pid INTEGER PRIMARY KEY,
    core_pid INTEGER NOT NULL,
    model_id TEXT NOT NULL,
    memory_bytes INTEGER NOT NULL
) STRICT;
"""


class Ledger:
    """The loaded models of all processes, as rows of the state directory's database.

    A row of a process that died without a word is passed over: a worker ends with its core, so
    both must be there for it to count.

    Args:
        path: The database file.
        exists: Whether there is a process of a number.
        measure: Memory that a process takes now; ``None`` where that is not known.

    Raises:
        CarError: ``io_error`` when the database cannot be used; so do all methods.
    """

    def __init__(
        self, path: Path, exists: Callable[[int], bool], measure: Callable[[int], int | None]
    ) -> None:
        self._database = Database(path, _SCHEMA, flushes=False)
        self._exists = exists
        self._measure = measure

    def put(self, worker_pid: int, model_id: str, memory_bytes: int) -> None:
        """A model is loaded, and counts as so much. May wait: not for the event loop."""
        gone = [(worker,) for worker, core, _ in self._rows() if not self._lives(worker, core)]
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM loaded_models WHERE worker_pid = ?", gone)
            connection.execute(
                "INSERT OR REPLACE INTO loaded_models VALUES (?, ?, ?, ?)",
                (worker_pid, os.getpid(), model_id, memory_bytes),
            )

    def drop(self, worker_pid: int) -> None:
        """It is no longer. May wait for other processes: not for the event loop."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM loaded_models WHERE worker_pid = ?", (worker_pid,))

    def elsewhere_bytes(self) -> int:
        """What the models of other live processes count as; they may grow beyond it."""
        return sum(
            max(size, self._measure(worker) or 0)
            for worker, core, size in self._rows()
            if core != os.getpid() and self._lives(worker, core)
        )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _rows(self) -> list[tuple[int, int, int]]:
        rows = self._database.read("SELECT worker_pid, core_pid, memory_bytes FROM loaded_models")
        return [(int(worker or 0), int(core or 0), int(size or 0)) for worker, core, size in rows]

    def _lives(self, worker_pid: int, core_pid: int) -> bool:
        return self._exists(worker_pid) and self._exists(core_pid)
