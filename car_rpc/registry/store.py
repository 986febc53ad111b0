"""The user's models, as rows of the state directory's database.

Every process on the same state directory sees a change at its next look: a counter in the
database goes up with each one.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from car_rpc.errors import CarError
from car_rpc.wire.models import ModelSchema

#: How long another process may hold the database, in seconds.
BUSY_TIMEOUT_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (id TEXT PRIMARY KEY, model TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS registry (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0), revision INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO registry VALUES (0, 0);
CREATE TRIGGER IF NOT EXISTS model_added AFTER INSERT ON models
    BEGIN UPDATE registry SET revision = revision + 1; END;
CREATE TRIGGER IF NOT EXISTS model_removed AFTER DELETE ON models
    BEGIN UPDATE registry SET revision = revision + 1; END;
"""


class ModelStore:
    """Persisted models.

    Args:
        path: The database file. The event log has opened it before, which makes it private
            and sets its journal mode.

    Raises:
        CarError: ``io_error`` when the database cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen_revision = -1
        try:
            # Made in a thread at start-up, then used by the event loop alone.
            self._db = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def changed(self) -> bool:
        """Whether the models may differ from what :meth:`load` last returned."""
        return self._revision() != self._seen_revision

    def load(self) -> list[ModelSchema]:
        """All models. A row that this version cannot read is left alone and not returned."""
        models: list[ModelSchema] = []
        self._seen_revision = self._revision()
        for (text,) in self._execute("SELECT model FROM models ORDER BY id"):
            try:
                models.append(msgspec.json.decode(text, type=ModelSchema))
            except msgspec.DecodeError:
                continue
        return models

    def put(self, model: ModelSchema) -> None:
        """Store a model under its id. May wait for other processes: not for the event loop."""
        text = msgspec.json.encode(model).decode()
        self._write("INSERT OR REPLACE INTO models VALUES (?, ?)", model.id, text)

    def delete(self, model_id: str) -> bool:
        """Forget a model; tells whether it was there. May wait, as :meth:`put` may."""
        return self._write("DELETE FROM models WHERE id = ?", model_id) > 0

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _revision(self) -> int:
        (revision,) = self._execute("SELECT revision FROM registry").fetchone()
        return int(revision)

    def _write(self, statement: str, *values: str) -> int:
        # A connection of its own: one that waits for a lock would hold up the readers' one.
        try:
            with closing(
                sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            ) as db:
                return db.execute(statement, values).rowcount
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _execute(self, statement: str, *values: str) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: sqlite3.Error) -> CarError:
        return CarError(
            "io_error",
            f"the database {self._path} cannot be used ({error});"
            " move it away or choose another --state-dir",
            path=str(self._path),
        )
