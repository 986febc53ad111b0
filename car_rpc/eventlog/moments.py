"""Where in the log the events of a time are, without a look at all of them.

Events are ordered by ``seq``, and their times nearly are: processes write side by side, and clocks
are set back. The log knows the most that an event ever was behind one before it, its *skew*. So an
event that is earlier than the beginning of what is wanted by more than the skew has none of it
before it, and one that is later than the end by as much has none behind it. Both are found by
halving.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from car_rpc.eventlog.times import to_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable

_KNOWN_SKEW = "SELECT skew_ms FROM chain WHERE name = 'head'"
_NEXT = "SELECT seq, ts FROM events WHERE seq >= ? ORDER BY seq LIMIT 1"


class Lag(NamedTuple):
    """How far the times of a log are from being in order.

    Attributes:
        latest: The latest time of all events.
        skew_ms: The most that one was behind one before it, in milliseconds.
    """

    latest: str
    skew_ms: int

    def after(self, times: Iterable[str]) -> Lag:
        """The same with more events behind the others."""
        latest, skew_ms = self
        for ts in times:
            if ts >= latest:
                latest = ts
            else:
                behind = datetime.fromisoformat(latest) - datetime.fromisoformat(ts)
                skew_ms = max(skew_ms, behind // timedelta(milliseconds=1))
        return Lag(latest, skew_ms)


def bounds(
    connection: sqlite3.Connection, since: str | None, until: str | None, last_seq: int
) -> tuple[int, int]:
    """The first and the last number that an event of a time can have.

    Args:
        connection: The database.
        since: The first moment that is wanted, as the log writes it; ``None`` for any.
        until: The first one that is not wanted any more; ``None`` for none.
        last_seq: The last event.
    """
    first, last = 0, last_seq
    found = connection.execute(_KNOWN_SKEW).fetchone()
    if found is None or found[0] is None:  # somebody changed the log
        return first, last
    skew = timedelta(milliseconds=found[0])
    with suppress(OverflowError):  # then all events are later
        if since is not None:
            early = to_text(datetime.fromisoformat(since) - skew)
            first, _ = _halved(connection, first, last_seq + 1, lambda ts: ts < early)
    with suppress(OverflowError):  # then all events are earlier
        if until is not None:
            late = to_text(datetime.fromisoformat(until) + skew)
            _, last = _halved(connection, first, last_seq + 1, lambda ts: ts < late)
    return first, last


def _halved(
    connection: sqlite3.Connection, low: int, high: int, is_early: Callable[[str], bool]
) -> tuple[int, int]:
    """Numbers next to each other: none up to the lower is late, and none from the higher is early.

    Args:
        connection: The database.
        low: A number before all events, or of an early one.
        high: A number behind all events.
        is_early: Of a time.
    """
    while high - low > 1:
        found = connection.execute(_NEXT, ((low + high) // 2,)).fetchone()
        if found is None or found[0] >= high:  # nothing is left between here and there
            high = (low + high) // 2
        elif is_early(found[1]):
            low = found[0]
        else:
            high = found[0]
    return low, high
