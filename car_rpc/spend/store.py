"""Limits, reservations and what was spent, as rows of the state directory's database.

A reservation is checked and made in one transaction, and taken off and charged in another, so
that processes side by side never exceed a limit together, and a kill loses or doubles nothing.
The reservation of a process that died counts against the limits as long as it stands. When it
expires, whoever comes next charges it in full, which is as much as it could have cost by its
estimate.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from car_rpc.database import Database
from car_rpc.spend.limits import Charge, Periods, Spender, Standing, limit_of, refusal
from car_rpc.spend.prices import to_usd
from car_rpc.wire.spend import SpendLimits, SpendStatusResult, SpendUse, SpendWindow

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spend_limits (scope TEXT PRIMARY KEY, limits TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS spend_used (
    scope TEXT NOT NULL,
    period TEXT NOT NULL,
    nano_usd INTEGER NOT NULL,
    priced_count INTEGER NOT NULL,
    unpriced_count INTEGER NOT NULL,
    PRIMARY KEY (scope, period)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spend_reserved (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    nano_usd INTEGER NOT NULL,
    day TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
"""

_ADD = """
INSERT INTO spend_used VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    nano_usd = nano_usd + excluded.nano_usd,
    priced_count = priced_count + excluded.priced_count,
    unpriced_count = unpriced_count + excluded.unpriced_count
"""

# A day's text begins with that of its month, and everything with the empty one of all time.
_RESERVED = """
SELECT coalesce(sum(nano_usd), 0) FROM spend_reserved
WHERE (? = '' OR 'provider:' || provider = ? OR 'model:' || model_id = ?)
    AND substr(day, 1, length(?)) = ?
"""


class Reservation(NamedTuple):
    """Money that an attempt may cost, put aside.

    Attributes:
        id: Its row; ``None`` when nobody knows what the attempt costs.
        charge: For which model, and how much.
        day: The day that it is charged to.
    """

    id: int | None
    charge: Charge
    day: str


class _Used(NamedTuple):
    nano_usd: int
    priced_count: int
    unpriced_count: int


class SpendStore:
    """Persisted limits and spending. All methods may wait: not for the event loop.

    Args:
        path: The database file.

    Raises:
        CarError: ``io_error`` when the database cannot be used; so do all methods.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA)

    def reserve(
        self,
        spender: Spender,
        needed: int | None,
        earlier: Sequence[Charge],
        now: datetime,
        expires_at: datetime,
    ) -> Reservation:
        """Put aside what an attempt may cost.

        Args:
            spender: The model.
            needed: Billionths of a dollar; ``None`` when nobody knows.
            earlier: What the same request has cost before.
            now: The time in UTC.
            expires_at: When the attempt is over by all means.

        Raises:
            CarError: ``spend_limit_exceeded``; nothing was put aside.
        """
        periods = Periods.at(now)
        charge = Charge(spender, needed or 0)
        with self._database.transaction() as writer:
            _charge_expired(writer, now)
            standings = [
                _standing(writer, limits, scope, periods, earlier)
                for scope, limits in _limits(writer, spender.scopes)
            ]
            refused = refusal(standings, spender, needed, now)
            reservation_id = None
            if refused is None and needed is not None:
                reservation_id = writer.execute(
                    "INSERT INTO spend_reserved (model_id, provider, nano_usd, day, expires_at)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (*spender, needed, periods.day, expires_at.timestamp()),
                ).lastrowid
        if refused is not None:
            raise refused
        return Reservation(reservation_id, charge, periods.day)

    def extend(
        self, reservation: Reservation, nano_usd: int, earlier: Sequence[Charge], now: datetime
    ) -> Reservation:
        """Put aside more for an attempt under way.

        Args:
            reservation: What was put aside for it before.
            nano_usd: How much more, in billionths of a dollar.
            earlier: What the same request has cost before.
            now: The time in UTC.

        Returns:
            All of it.

        Raises:
            CarError: ``spend_limit_exceeded``; then it is as it was.
        """
        spender, reserved = reservation.charge
        with self._database.transaction() as writer:
            _charge_expired(writer, now)
            earlier = [*earlier, reservation.charge]
            standings = [
                _standing(writer, limits, scope, Periods.at(now), earlier)
                for scope, limits in _limits(writer, spender.scopes)
            ]
            refused = refusal(standings, spender, nano_usd, now)
            more = 0
            if refused is None:
                # What has expired is charged as it was, and the rest when the attempt ends.
                more = (
                    nano_usd
                    * writer.execute(
                        "UPDATE spend_reserved SET nano_usd = nano_usd + ? WHERE id = ?",
                        (nano_usd, reservation.id),
                    ).rowcount
                )
        if refused is not None:
            raise refused
        return reservation._replace(charge=Charge(spender, reserved + more))

    def settle(self, reservation: Reservation, nano_usd: int) -> None:
        """Charge what the attempt has cost instead of what was put aside for it."""
        reservation_id, (spender, reserved), day = reservation
        with self._database.transaction() as writer:
            if reservation_id is None:
                _add(writer, spender, day, _Used(0, 0, 1))
                return
            gone = writer.execute("DELETE FROM spend_reserved WHERE id = ?", (reservation_id,))
            if gone.rowcount:
                _add(writer, spender, day, _Used(nano_usd, 1, 0))
            else:
                # It had expired and was charged; what was charged never goes down.
                _add(writer, spender, day, _Used(max(0, nano_usd - reserved), 0, 0))

    def give_back(self, reservation: Reservation) -> None:
        """Undo a reservation: the attempt was never made."""
        with self._database.transaction() as writer:
            writer.execute("DELETE FROM spend_reserved WHERE id = ?", (reservation.id,))

    def set_limits(self, scope: str, limits: SpendLimits) -> None:
        """Replace the limits of some models."""
        with self._database.transaction() as writer:
            writer.execute("DELETE FROM spend_limits WHERE scope = ?", (scope,))
            if limits != _cleared(limits):
                text = msgspec.json.encode(limits).decode()
                writer.execute("INSERT INTO spend_limits VALUES (?, ?)", (scope, text))

    def knows(self, scope: str) -> bool:
        """Whether these models have limits, or anything was spent on them."""
        ((known,),) = self._database.read(
            "SELECT EXISTS (SELECT 1 FROM spend_limits WHERE scope = ?1"
            " UNION ALL SELECT 1 FROM spend_used WHERE scope = ?1)",
            scope,
        )
        return bool(known)

    def status(self, scope: str, now: datetime) -> SpendStatusResult:
        """What was spent on some models, and all limits."""
        periods = Periods.at(now)
        with self._database.transaction() as writer:
            _charge_expired(writer, now)
            rows = writer.execute("SELECT limits FROM spend_limits ORDER BY scope").fetchall()
            own = [each for _, each in _limits(writer, (scope,))]
            of_scope = own[0] if own else SpendLimits()
            return SpendStatusResult(
                limits=[_decoded(text) for (text,) in rows],
                day=_use(writer, scope, periods.day, of_scope, "day"),
                month=_use(writer, scope, periods.month, of_scope, "month"),
                total=_use(writer, scope, periods.total, of_scope, "total"),
            )

    def forget_before(self, day: str) -> None:
        """Delete what was spent in days and months that ended before a day; totals stay."""
        with self._database.transaction() as writer:
            writer.execute("DELETE FROM spend_used WHERE period <> '' AND period < ?", (day,))

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def _charge_expired(writer: sqlite3.Connection, now: datetime) -> None:
    expired = writer.execute(
        "DELETE FROM spend_reserved WHERE expires_at <= ?"
        " RETURNING model_id, provider, nano_usd, day",
        (now.timestamp(),),
    ).fetchall()
    for model_id, provider, nano_usd, day in expired:
        _add(writer, Spender(model_id, provider), day, _Used(nano_usd, 1, 0))


def _add(writer: sqlite3.Connection, spender: Spender, day: str, used: _Used) -> None:
    periods = (day, day[: len("2026-01")], "")
    writer.executemany(
        _ADD, [(scope, period, *used) for scope in spender.scopes for period in periods]
    )


def _limits(writer: sqlite3.Connection, scopes: Sequence[str]) -> list[tuple[str, SpendLimits]]:
    found: list[tuple[str, SpendLimits]] = []
    for scope in scopes:
        row = writer.execute("SELECT limits FROM spend_limits WHERE scope = ?", (scope,)).fetchone()
        if row is not None:
            found.append((scope, _decoded(row[0])))
    return found


def _standing(
    writer: sqlite3.Connection,
    limits: SpendLimits,
    scope: str,
    periods: Periods,
    earlier: Sequence[Charge],
) -> Standing:
    committed: dict[SpendWindow, int] = {
        "call": sum(each.nano_usd for each in earlier if scope in each.spender.scopes),
        "day": _committed(writer, scope, periods.day),
        "month": _committed(writer, scope, periods.month),
        "total": _committed(writer, scope, periods.total),
    }
    return Standing(limits, committed)


def _committed(writer: sqlite3.Connection, scope: str, period: str) -> int:
    return _used(writer, scope, period).nano_usd + _reserved(writer, scope, period)


def _used(writer: sqlite3.Connection, scope: str, period: str) -> _Used:
    row = writer.execute(
        "SELECT nano_usd, priced_count, unpriced_count FROM spend_used"
        " WHERE scope = ? AND period = ?",
        (scope, period),
    ).fetchone()
    return _Used(*row) if row else _Used(0, 0, 0)


def _reserved(writer: sqlite3.Connection, scope: str, period: str) -> int:
    (nano_usd,) = writer.execute(_RESERVED, (scope, scope, scope, period, period)).fetchone()
    return int(nano_usd)


def _use(
    writer: sqlite3.Connection, scope: str, period: str, limits: SpendLimits, window: SpendWindow
) -> SpendUse:
    used = _used(writer, scope, period)
    reserved = _reserved(writer, scope, period)
    limit = limit_of(limits, window)
    left = None if limit is None else max(0, limit - used.nano_usd - reserved)
    return SpendUse(
        since=period or None,
        used_usd=to_usd(used.nano_usd),
        reserved_usd=to_usd(reserved),
        limit_usd=None if limit is None else to_usd(limit),
        left_usd=None if left is None else to_usd(left),
        priced_count=used.priced_count,
        unpriced_count=used.unpriced_count,
    )


def _cleared(limits: SpendLimits) -> SpendLimits:
    return SpendLimits(model=limits.model, provider=limits.provider)


def _decoded(text: str) -> SpendLimits:
    return msgspec.json.decode(text, type=SpendLimits)
