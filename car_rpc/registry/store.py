"""The user's models, as rows of the state directory's database.

Every process on the same state directory sees a change at its next look: a counter in the
database goes up with each one.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from car_rpc.database import Database
from car_rpc.wire.models import ModelSchema

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
        path: The database file.

    Raises:
        CarError: ``io_error`` when the database cannot be used; so do all methods.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA)
        self._seen_revision = -1

    def changed(self) -> bool:
        """Whether the models may differ from what :meth:`load` last returned."""
        return self._revision() != self._seen_revision

    def load(self) -> list[ModelSchema]:
        """All models. A row that this version cannot read is left alone and not returned."""
        models: list[ModelSchema] = []
        self._seen_revision = self._revision()
        for (text,) in self._database.read("SELECT model FROM models ORDER BY id"):
            try:
                models.append(msgspec.json.decode(str(text), type=ModelSchema))
            except msgspec.DecodeError:
                continue
        return models

    def put(self, model: ModelSchema) -> None:
        """Store a model under its id. May wait for other processes: not for the event loop."""
        text = msgspec.json.encode(model).decode()
        with self._database.transaction() as writer:
            writer.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (model.id, text))

    def delete(self, model_id: str) -> bool:
        """Forget a model; tells whether it was there. May wait, as :meth:`put` may."""
        with self._database.transaction() as writer:
            return writer.execute("DELETE FROM models WHERE id = ?", (model_id,)).rowcount > 0

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _revision(self) -> int:
        ((revision,),) = self._database.read("SELECT revision FROM registry")
        return int(revision or 0)
