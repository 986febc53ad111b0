"""How keys have fared, as rows of the state directory's database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from car_rpc.backends.openai_compat.key_pool import Counts, KeyId
from car_rpc.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS key_stats (
    endpoint TEXT NOT NULL,
    name TEXT NOT NULL,
    leases INTEGER NOT NULL,
    successes INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    rate_limited INTEGER NOT NULL,
    unauthorized INTEGER NOT NULL,
    PRIMARY KEY (endpoint, name)
) STRICT, WITHOUT ROWID;
"""

_ADD = """
INSERT INTO key_stats VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    leases = leases + excluded.leases,
    successes = successes + excluded.successes,
    failures = failures + excluded.failures,
    rate_limited = rate_limited + excluded.rate_limited,
    unauthorized = unauthorized + excluded.unauthorized
"""


class KeyStatsStore:
    """Counts of all processes on the state directory.

    Args:
        path: The database file.

    Raises:
        CarError: ``io_error`` when the database cannot be used; so do all methods.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA, flushes=False)

    def add(self, counts: Mapping[KeyId, Counts]) -> None:
        """Add to the counts. May wait for other processes: not for the event loop."""
        with self._database.transaction() as writer:
            writer.executemany(_ADD, [(*key, *count) for key, count in counts.items()])

    def all(self) -> dict[KeyId, Counts]:
        """All counts."""
        rows = self._database.read("SELECT * FROM key_stats")
        return {
            KeyId(str(endpoint), str(name)): Counts(*(int(count or 0) for count in counts))
            for endpoint, name, *counts in rows
        }

    def close(self) -> None:
        """Close the database."""
        self._database.close()
