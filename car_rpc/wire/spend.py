"""What requests cost, and what they may cost: the ``spend.*`` methods."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, NonNegativeFloat, WireStruct

SpendWindow: TypeAlias = Literal["call", "day", "month", "total"]


class SpendLimits(WireStruct, frozen=True, kw_only=True):
    """What may be spent on all models, on one, or on those of one provider.

    As the parameters of ``spend.set_limits``, it replaces all limits of the same models: what is
    absent is unlimited.

    Attributes:
        max_usd_per_call: By one request with all its attempts.
        max_usd_per_day: In a day, by UTC.
        max_usd_per_month: In a calendar month, by UTC.
        max_usd_total: Ever.
        allow_unpriced: Whether models without a known price may be asked at all. Those that run
            on this machine cost nothing and always may.
        model: Id or name of the one model that this is for.
        provider: The provider whose models this is for. Not together with ``model``.
    """

    max_usd_per_call: NonNegativeFloat | UnsetType = UNSET
    max_usd_per_day: NonNegativeFloat | UnsetType = UNSET
    max_usd_per_month: NonNegativeFloat | UnsetType = UNSET
    max_usd_total: NonNegativeFloat | UnsetType = UNSET
    allow_unpriced: bool = True
    model: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET


class SpendStatusParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``spend.status``: whose spending to show, that of all models when empty.

    Attributes:
        model: Id or name of a model.
        provider: A provider. Not together with ``model``.
    """

    model: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET


class SpendUse(WireStruct, frozen=True, kw_only=True):
    """What was spent in a stretch of time.

    Attributes:
        since: When it began, as ``2026-01-31`` or ``2026-01`` by UTC; null for all time.
        used_usd: What attempts cost that have ended.
        reserved_usd: What those under way may cost.
        limit_usd: The limit, if there is one.
        left_usd: What may still be reserved, if there is a limit.
        priced_count: Attempts that cost money, or 0 by a known price.
        unpriced_count: Attempts of which nobody knows what they cost; they are not in
            ``used_usd``.
    """

    since: str | None
    used_usd: float
    reserved_usd: float
    limit_usd: float | None
    left_usd: float | None
    priced_count: NonNegative
    unpriced_count: NonNegative


class SpendStatusResult(WireStruct, frozen=True, kw_only=True):
    """What was spent by all processes on a state directory, and what may be.

    Attributes:
        limits: All limits that are set.
        day: The current day, by UTC.
        month: The current calendar month, by UTC.
        total: All time. What was used never goes down.
    """

    limits: list[SpendLimits]
    day: SpendUse
    month: SpendUse
    total: SpendUse
