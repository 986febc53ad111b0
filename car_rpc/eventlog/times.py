"""Times of the log as text whose order is the order of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from car_rpc.errors import invalid_params

_MS_IN_US = 1000


def to_text(moment: datetime) -> str:
    """ISO 8601 in UTC, always with milliseconds: ``2026-01-31T08:30:00.000Z``.

    Args:
        moment: A time with a time zone. What is finer than a millisecond is cut off.
    """
    utc = moment.astimezone(UTC)
    return utc.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def bound_to_text(text: str, path: str) -> str:
    """The first millisecond at or after a time that a client gave, as the log writes it.

    Rounding up keeps both comparisons exact: an event cut to whole milliseconds is at or
    after the bound exactly if it is at or after the rounded bound.

    Args:
        text: ISO 8601 with ``Z`` or an offset.
        path: Where the text stood in the parameters, such as ``$.since``.

    Raises:
        CarError: ``invalid_params``: the text is no such time.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise invalid_params("Expected a time zone, `Z` or an offset like `+02:00`", path)
        rest_us = moment.microsecond % _MS_IN_US
        return to_text(moment + timedelta(microseconds=-rest_us % _MS_IN_US))
    except (ValueError, OverflowError):
        expected = "Expected an ISO 8601 time like `2026-01-31T08:30:00Z`"
        raise invalid_params(expected, path) from None
