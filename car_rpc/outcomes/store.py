"""Profiles and receipts as rows of the state directory's database.

A receipt is what is left of an attempt, so that a verdict that comes later finds its model. Each
batch of attempts is one transaction: a process that is killed leaves whole batches only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from car_rpc.database import Database, Value
from car_rpc.outcomes.profiles import (
    ACCEPTED_QUALITY,
    SUCCESS,
    AttemptEnd,
    judged,
    observed,
)
from car_rpc.outcomes.signals import Sign
from car_rpc.wire.outcomes import ModelProfile, ScoreboardRow

#: Receipts that are kept, the newest of all processes: some weeks of heavy use, in about 20 MB.
MAX_RECEIPTS = 100_000

_NANO = 1_000_000_000

# A revision belongs to one transaction, so who has seen it has seen all before it.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS profiles (
    model_id TEXT PRIMARY KEY, profile TEXT NOT NULL, revision INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS profiles_by_revision ON profiles (revision);
CREATE TABLE IF NOT EXISTS receipts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ended_at TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    model_id TEXT NOT NULL,
    task TEXT NOT NULL,
    outcome TEXT NOT NULL,
    cost_nano_usd INTEGER,
    quality REAL
) STRICT;
CREATE INDEX IF NOT EXISTS receipts_by_trace ON receipts (trace_id);
CREATE TABLE IF NOT EXISTS implied (receipt_id INTEGER PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS taken_over (digest TEXT PRIMARY KEY) STRICT;
"""

_LAST_REVISION = "SELECT coalesce(max(revision), 0) FROM profiles"

# The cost of several attempts is known if that of each is.
_SCOREBOARD = f"""
SELECT model_id, count(*),
    coalesce(sum(quality >= {ACCEPTED_QUALITY}), 0), coalesce(sum(quality < {ACCEPTED_QUALITY}), 0),
    sum(outcome <> '{SUCCESS}'), sum(outcome = '{SUCCESS}' AND quality IS NULL), avg(quality),
    CASE WHEN count(*) = count(cost_nano_usd) THEN sum(cost_nano_usd) END,
    CASE WHEN sum(conclusive) = sum(conclusive AND cost_nano_usd IS NOT NULL)
        THEN sum(conclusive * cost_nano_usd) END
FROM (
    SELECT *, outcome <> '{SUCCESS}' OR quality IS NOT NULL AS conclusive FROM receipts
    WHERE (? IS NULL OR task = ?) AND (? IS NULL OR ended_at >= ?)
)
GROUP BY model_id ORDER BY model_id
"""  # noqa: S608 - constants of this code, no values of a client


class Verdict(NamedTuple):
    """What became of a verdict on an answer.

    Attributes:
        model_id: The model that gave the answer.
        task: What it was for.
        quality: The quality that the answer has now, which may be an earlier verdict's.
        recorded: Whether this verdict counted; an answer has one.
    """

    model_id: str
    task: str
    quality: float
    recorded: bool


class OutcomeStore:
    """Persisted profiles and receipts.

    Args:
        path: The database file.

    Raises:
        CarError: ``io_error`` when the database cannot be used; so do all methods.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA, flushes=False)

    def changed_profiles(self, since: int) -> tuple[list[ModelProfile], int]:
        """Profiles that were written after a revision, and the last revision that there is."""
        rows = self._database.read(
            "SELECT profile, revision FROM profiles WHERE revision > ? ORDER BY revision", since
        )
        profiles = [profile for row in rows if (profile := _decoded(row[0])) is not None]
        return profiles, int(rows[-1][1] or 0) if rows else since

    def record(
        self, ends: Sequence[AttemptEnd], first: Callable[[str], ModelProfile], now: str
    ) -> None:
        """Count attempts that ended. May wait for other processes: not for the event loop.

        Args:
            ends: The attempts, all of which count.
            first: The profile of a model that was never observed.
            now: The time, in RFC 3339.
        """
        with self._database.transaction() as writer:
            profiles: dict[str, ModelProfile] = {}
            for end in ends:
                known = profiles.get(end.model_id) or _profile(writer, end.model_id)
                profiles[end.model_id] = observed(known or first(end.model_id), end, now)
            _write(writer, profiles.values())
            writer.executemany(
                "INSERT INTO receipts (ended_at, trace_id, attempt, model_id, task, outcome,"
                " cost_nano_usd) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (now, end.trace_id, end.attempt, end.model_id, end.task, end.outcome,
                     end.cost_nano_usd)
                    for end in ends
                ],
            )  # fmt: skip
            writer.execute(
                "DELETE FROM receipts WHERE id <= (SELECT max(id) FROM receipts) - ?",
                (MAX_RECEIPTS,),
            )

    def judge(self, qualities: Sequence[tuple[str, float]], now: str) -> list[Verdict | None]:
        """Take verdicts on the answers of requests. May wait, as :meth:`record` may.

        Args:
            qualities: Trace ids, and how good their answers were.
            now: The time, in RFC 3339.

        Returns:
            One for each, and ``None`` where there is no answer with a receipt.
        """
        with self._database.transaction() as writer:
            return [_judge(writer, trace_id, quality, now) for trace_id, quality in qualities]

    def imply(self, signs: Sequence[Sign], now: str) -> None:
        """Let signs move profiles, once for each answer that was not judged. May wait, as above."""
        with self._database.transaction() as writer:
            for sign in signs:
                row = _receipt(writer, sign.trace_id)
                if row is None or row[3] is not None:
                    continue
                receipt_id, model_id, task, _ = row
                first = writer.execute("INSERT OR IGNORE INTO implied VALUES (?)", (receipt_id,))
                profile = _profile(writer, model_id)
                if first.rowcount and profile is not None:
                    _write(writer, [judged(profile, task, sign.quality, now)])
            writer.execute("DELETE FROM implied WHERE receipt_id < (SELECT min(id) FROM receipts)")

    def replace(self, profiles: Sequence[ModelProfile]) -> None:
        """Put these profiles into the place of what was observed. May wait, as the others."""
        with self._database.transaction() as writer:
            _write(writer, profiles)

    def take_over_once(self, profiles: Sequence[ModelProfile], digest: str) -> int:
        """Take profiles for models of which nothing was observed, unless that was done before.

        Args:
            profiles: The profiles.
            digest: Names what they come from; the same is taken over once.

        Returns:
            How many were taken.
        """
        if self._database.read("SELECT 1 FROM taken_over WHERE digest = ?", digest):
            return 0
        with self._database.transaction() as writer:
            added = writer.execute("INSERT OR IGNORE INTO taken_over VALUES (?)", (digest,))
            if not added.rowcount:
                return 0
            new = [
                each
                for each in profiles
                if (known := _profile(writer, each.model_id)) is None or not known.total_calls
            ]
            _write(writer, new)
        return len(new)

    def scoreboard(self, task: str | None, since: str | None) -> list[ScoreboardRow]:
        """What the models achieved. Goes through all receipts: not for the event loop."""
        rows = self._database.scan(_SCOREBOARD, task, task, since, since)
        return [_scored(row) for row in rows]

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def _receipt(writer: sqlite3.Connection, trace_id: str) -> Any:
    """Id, model, task and quality of an answer; the last one, if it broke before and went on."""
    return writer.execute(
        "SELECT id, model_id, task, quality FROM receipts WHERE trace_id = ? AND outcome = ?"
        " ORDER BY id DESC LIMIT 1",
        (trace_id, SUCCESS),
    ).fetchone()


def _judge(writer: sqlite3.Connection, trace_id: str, quality: float, now: str) -> Verdict | None:
    row = _receipt(writer, trace_id)
    if row is None:
        return None
    receipt_id, model_id, task, earlier = row
    if earlier is not None:
        return Verdict(model_id, task, earlier, recorded=False)
    writer.execute("UPDATE receipts SET quality = ? WHERE id = ?", (quality, receipt_id))
    profile = _profile(writer, model_id) or ModelProfile(model_id=model_id)
    _write(writer, [judged(profile, task, quality, now)])
    return Verdict(model_id, task, quality, recorded=True)


def _profile(writer: sqlite3.Connection, model_id: str) -> ModelProfile | None:
    row = writer.execute("SELECT profile FROM profiles WHERE model_id = ?", (model_id,)).fetchone()
    return _decoded(row[0]) if row else None


def _write(writer: sqlite3.Connection, profiles: Iterable[ModelProfile]) -> None:
    (last,) = writer.execute(_LAST_REVISION).fetchone()
    writer.executemany(
        "INSERT OR REPLACE INTO profiles VALUES (?, ?, ?)",
        [(each.model_id, msgspec.json.encode(each).decode(), last + 1) for each in profiles],
    )


def _decoded(text: Value) -> ModelProfile | None:
    """A profile; one that this version cannot read, such as a newer one's, is as if not there."""
    try:
        return msgspec.json.decode(str(text), type=ModelProfile)
    except msgspec.DecodeError:
        return None


def _scored(row: Sequence[Any]) -> ScoreboardRow:
    model_id, attempts, accepted, rejected, failed, inconclusive, quality, *costs = row
    cost, conclusive_cost = costs
    per_success = None if conclusive_cost is None or not accepted else conclusive_cost / accepted
    return ScoreboardRow(
        model_id=model_id,
        attempt_count=attempts,
        accepted_count=accepted,
        rejected_count=rejected,
        fail_count=failed,
        inconclusive_count=inconclusive,
        mean_quality=quality,
        cost_usd=_usd(cost),
        usd_per_success=_usd(per_success),
    )


def _usd(nano: float | None) -> float | None:
    return None if nano is None else nano / _NANO
