"""Whether an attempt may cost what it may cost. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, get_args

from car_rpc.errors import CarError
from car_rpc.spend.prices import to_nano, to_usd
from car_rpc.wire.spend import SpendLimits, SpendWindow

#: The windows, from the shortest.
WINDOWS: tuple[SpendWindow, ...] = get_args(SpendWindow)

#: The limit of each window, by the name of its field.
LIMIT_NAMES: dict[SpendWindow, str] = {
    "call": "max_usd_per_call",
    "day": "max_usd_per_day",
    "month": "max_usd_per_month",
    "total": "max_usd_total",
}


class Spender(NamedTuple):
    """Who spends: a model and its provider."""

    model_id: str
    provider: str

    @property
    def scopes(self) -> tuple[str, str, str]:
        """The limits that hold for it: those of all models, of its provider and its own."""
        return "", f"provider:{self.provider}", f"model:{self.model_id}"


class Charge(NamedTuple):
    """What an attempt cost, or may cost."""

    spender: Spender
    nano_usd: int


class Periods(NamedTuple):
    """The current day and month, by UTC, as texts whose order is that of time."""

    day: str
    month: str
    total: str = ""

    @classmethod
    def at(cls, moment: datetime) -> Periods:
        """Those of a moment in UTC."""
        return cls(moment.strftime("%Y-%m-%d"), moment.strftime("%Y-%m"))


class Standing(NamedTuple):
    """What was spent and reserved under some limits.

    Attributes:
        limits: The limits.
        committed: Billionths of a dollar by window.
    """

    limits: SpendLimits
    committed: Mapping[SpendWindow, int]


def limit_of(limits: SpendLimits, window: SpendWindow) -> int | None:
    """A limit in billionths of a dollar, or ``None`` where there is none."""
    limit = getattr(limits, LIMIT_NAMES[window])
    return to_nano(limit) if isinstance(limit, float | int) else None


def refusal(
    standings: Sequence[Standing], spender: Spender, needed: int | None, moment: datetime
) -> CarError | None:
    """Why an attempt may not be made, if so.

    Args:
        standings: All limits that hold for it.
        spender: Its model.
        needed: What it may cost, in billionths of a dollar; ``None`` when nobody knows.
        moment: Now, in UTC.
    """
    for limits, committed in standings:
        if needed is None:
            if not limits.allow_unpriced:
                return _unpriced(spender)
            continue
        for window in WINDOWS:
            limit = limit_of(limits, window)
            if limit is None or committed[window] + needed <= limit or not needed:
                continue
            left = max(0, limit - committed[window])
            return _exceeded(limits, window, spender, _Amounts(limit, needed, left), moment)
    return None


class _Amounts(NamedTuple):
    limit: int
    needed: int
    left: int


def _unpriced(spender: Spender) -> CarError:
    detail = (
        f"nobody knows what {spender.model_id} costs, and `allow_unpriced` is false; give the model"
        " its prices (`cost`), or allow it with `spend.set_limits`"
    )
    return CarError("spend_limit_exceeded", detail, limit="allow_unpriced", model=spender.model_id)


def _exceeded(
    limits: SpendLimits,
    window: SpendWindow,
    spender: Spender,
    amounts: _Amounts,
    moment: datetime,
) -> CarError:
    name = LIMIT_NAMES[window]
    whose = "all models"
    data: dict[str, object] = {}
    for field in ("provider", "model"):
        value = getattr(limits, field)
        if isinstance(value, str):
            whose = data[f"limit_{field}"] = value
    resets_at = _end_of(window, moment)
    remedy = f"wait until {resets_at}, " if resets_at else ""
    detail = (
        f"{spender.model_id} may need ${to_usd(amounts.needed):.6f}, and of {name} for {whose}"
        f" (${to_usd(amounts.limit):.6f}) ${to_usd(amounts.left):.6f} is left; {remedy}lower"
        " `max_tokens`, use a cheaper or local model, or raise the limit with `spend.set_limits`"
    )
    if resets_at:
        data["resets_at"] = resets_at
    return CarError(
        "spend_limit_exceeded",
        detail,
        limit=name,
        window=window,
        model=spender.model_id,
        limit_usd=to_usd(amounts.limit),
        needed_usd=to_usd(amounts.needed),
        left_usd=to_usd(amounts.left),
        **data,
    )


def _end_of(window: SpendWindow, moment: datetime) -> str | None:
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    match window:
        case "day":
            end = start + timedelta(days=1)
        case "month":
            # No month has more than 31 days, and the fourth of the next one is in it.
            end = (start.replace(day=1) + timedelta(days=34)).replace(day=1)
        case _:
            return None
    return f"{end.isoformat()}Z"
