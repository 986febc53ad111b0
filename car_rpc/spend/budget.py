"""The money of all processes on a state directory, for the event loop of one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from car_rpc.errors import CarError, invalid_params
from car_rpc.spend.limits import Charge, Periods, Spender
from car_rpc.spend.store import Reservation, SpendStore
from car_rpc.wire.spend import SpendLimits, SpendStatusResult

T = TypeVar("T")

#: How long an attempt may go on beyond its time limit, or at all without one: three times what a
#: backend gives itself. Until then its reservation waits for it.
LEASE = timedelta(minutes=15)

#: How long it is known what was spent in a day or a month.
KEPT = timedelta(days=400)


class Budget:
    """Reserves and charges. Nothing here holds up the event loop.

    Args:
        store: The rows.
        now: The time in UTC.
    """

    def __init__(self, store: SpendStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        store.forget_before(Periods.at(now() - KEPT).day)

    async def reserve(
        self,
        spender: Spender,
        needed: int | None,
        *,
        earlier: Sequence[Charge] = (),
        time_ms: float | None = None,
    ) -> Reservation:
        """Put aside what an attempt may cost. A cancel meanwhile leaves nothing reserved.

        Args:
            spender: The model.
            needed: Billionths of a dollar; ``None`` when nobody knows.
            earlier: What the same request has cost before.
            time_ms: The attempt's time limit in milliseconds, if it has one.

        Raises:
            CarError: ``spend_limit_exceeded``, or ``io_error``.
        """
        now = self._now()
        expires_at = now + LEASE + timedelta(milliseconds=time_ms or 0)
        made = asyncio.ensure_future(
            asyncio.to_thread(self._store.reserve, spender, needed, earlier, now, expires_at)
        )
        try:
            return await _finished(made)
        except asyncio.CancelledError:
            if not made.cancelled() and made.exception() is None:
                await self.give_back(made.result())
            raise

    async def extend(
        self, reservation: Reservation, nano_usd: int, earlier: Sequence[Charge]
    ) -> Reservation:
        """Put aside more for an attempt under way; returns all of it.

        Raises:
            CarError: ``spend_limit_exceeded``, or ``io_error``; then it is as it was.
        """
        extend = self._store.extend
        return await _finished(
            asyncio.to_thread(extend, reservation, nano_usd, earlier, self._now())
        )

    async def give_back(self, reservation: Reservation) -> None:
        """Undo a reservation: the attempt is not made. A cancel waits until that is done."""
        with suppress(CarError):  # then it stands until it expires, and the cancel goes on
            await _finished(asyncio.to_thread(self._store.give_back, reservation))

    async def settle(self, reservation: Reservation, nano_usd: int) -> None:
        """Charge what an attempt has cost. A cancel waits until that is done.

        Raises:
            CarError: ``io_error``; then the reservation stands until it expires.
        """
        await _finished(asyncio.to_thread(self._store.settle, reservation, nano_usd))

    async def set_limits(self, limits: SpendLimits) -> SpendStatusResult:
        """Replace the limits of all models, of one, or of a provider; returns how these stand.

        Raises:
            CarError: ``invalid_params`` for limits of a model and a provider.
        """
        scope = scope_of(limits.model, limits.provider)
        await asyncio.to_thread(self._store.set_limits, scope, limits)
        return await self.status(scope)

    async def status(self, scope: str) -> SpendStatusResult:
        """What was spent in a scope (:func:`scope_of`), and all limits.

        Raises:
            CarError: ``io_error``.
        """
        return await asyncio.to_thread(self._store.status, scope, self._now())

    def knows(self, scope: str) -> bool:
        """Whether a scope (:func:`scope_of`) has limits, or anything was spent in it. Quick.

        Raises:
            CarError: ``io_error``.
        """
        return self._store.knows(scope)

    def close(self) -> None:
        """Close the database."""
        self._store.close()


def scope_of(model_id: object, provider: object) -> str:
    """Which models are meant: one, those of a provider, or all.

    Args:
        model_id: Id of a model, or whatever is no text.
        provider: A provider, or whatever is no text.

    Raises:
        CarError: ``invalid_params`` for both.
    """
    if isinstance(model_id, str):
        if isinstance(provider, str):
            raise invalid_params("give a model or a provider, not both", "$.provider")
        return f"model:{model_id}"
    return f"provider:{provider}" if isinstance(provider, str) else ""


async def _finished(work: Awaitable[T]) -> T:
    """The result of work that must not be left half done; a cancel comes out after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: BLE001 - it is the task's own, and raised below
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # nobody asks for it any more
        raise cancelled
    return task.result()
