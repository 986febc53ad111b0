"""What an attempt may cost is reserved before it, and what it has cost is charged after it.

Models in workers of this machine cost nothing and are never held up. Neither are scripted models
and servers on this machine that have no price.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from car_rpc.engine.recording import Recorder
from car_rpc.errors import CarError
from car_rpc.outcomes.profiles import SUCCESS
from car_rpc.spend.budget import Budget
from car_rpc.spend.limits import Charge, Spender
from car_rpc.spend.prices import Tokens, cost_nano_usd, is_free, to_usd
from car_rpc.spend.store import Reservation
from car_rpc.wire.models import Cost, ModelSchema

#: Failures that come instead of an answer, for which no provider charges.
_FREE_FAILURES = frozenset(
    {
        "context_overflow",
        "invalid_params",
        "invalid_request",
        "model_not_found",
        "no_runner",
        "overloaded",
        "policy_denied",
        "provider_error",
        "rate_limited",
        "runner_declined",
        "unauthorized",
        "unsupported_mode",
    }
)

logger = logging.getLogger(__name__)


class Bill:
    """What a request has cost so far, over all its attempts."""

    def __init__(self) -> None:
        #: What was charged, which is more than the cost where nobody knows that.
        self.charges: list[Charge] = []
        self._costs: list[int | None] = []

    def add(self, charge: Charge, cost: int | None) -> None:
        """Put down an attempt: what was charged, and what it is known to have cost."""
        self.charges.append(charge)
        self._costs.append(cost)

    def with_more(self, cost: int | None) -> int | None:
        """What the request costs with another attempt; ``None`` when nobody knows."""
        amounts = [*(charge.nano_usd for charge in self.charges), cost]
        known = [amount for amount in amounts if amount is not None]
        return sum(known) if len(known) == len(amounts) else None

    @property
    def cost_usd(self) -> float | UnsetType | None:
        """The sum; ``None`` when the cost of an attempt is not known, absent without any."""
        if not self._costs:
            return UNSET
        known = [cost for cost in self._costs if cost is not None]
        return to_usd(sum(known)) if len(known) == len(self._costs) else None


class Ended(NamedTuple):
    """How an attempt ended.

    Attributes:
        outcome: ``success``, or the kind of the failure.
        tokens: What it took; ``None`` when the backend has not said.
        streamed: Whether anything came.
    """

    outcome: str
    tokens: Tokens | None
    streamed: bool


class Spending:
    """The money of attempts.

    Args:
        budget: Where it is reserved and charged; ``None`` for no limits and no accounts.
    """

    def __init__(self, budget: Budget | None) -> None:
        self._budget = budget

    async def reserve(
        self,
        model: ModelSchema,
        expected: Tokens,
        bill: Bill,
        time_ms: float | None,
        afford: Callable[[int | None], None],
        recorder: Recorder,
    ) -> Reservation | None:
        """Put aside what an attempt may cost; ``None`` when it costs nothing.

        Args:
            model: The model.
            expected: The tokens that it may take.
            bill: What the request has cost before.
            time_ms: The attempt's time limit in milliseconds, if it has one.
            afford: Takes what the request may cost with it; raises what is told instead.
            recorder: The request's event log, which has it before this returns.

        Raises:
            CarError: ``spend_limit_exceeded``, or ``io_error``.
        """
        if is_free(model):
            return None
        needed = _cost(model, expected)
        afford(bill.with_more(needed))
        if self._budget is None:
            return None
        spender = Spender(model.id, model.provider)
        reservation = await self._budget.reserve(
            spender, needed, earlier=bill.charges, time_ms=time_ms
        )
        if needed is not None:
            recorder.aside("spend_reserved", model=model.id, usd=to_usd(needed))
            try:
                await recorder.written()
            except BaseException:
                await self._budget.give_back(reservation)
                raise
        return reservation

    async def extend(
        self, model: ModelSchema, reservation: Reservation, tokens: int, bill: Bill
    ) -> Reservation:
        """Put aside more, for an answer that goes on; returns all of it.

        Raises:
            CarError: ``spend_limit_exceeded``, or ``io_error``.
        """
        more = _cost(model, Tokens(0, tokens))
        if self._budget is None or reservation.id is None or not more:
            return reservation
        return await self._budget.extend(reservation, more, bill.charges)

    def cost(self, model: ModelSchema, reservation: Reservation | None, ended: Ended) -> int | None:
        """What an attempt has cost, in billionths of a dollar; ``None`` when nobody knows."""
        if reservation is None:
            return 0 if is_free(model) else None
        return None if reservation.id is None else _known_cost(model, ended)

    async def settle(
        self, reservation: Reservation | None, cost: int | None, bill: Bill, recorder: Recorder
    ) -> None:
        """Charge an attempt that has ended.

        What has a price and may have cost something nobody knows is charged as it was reserved.

        Args:
            reservation: What was put aside, if anything.
            cost: What is known to have been its cost.
            bill: The request's, where it is put down.
            recorder: Its event log.
        """
        if self._budget is None or reservation is None:
            return
        spender, reserved = reservation.charge
        charged = reserved if cost is None else cost
        bill.add(Charge(spender, charged), cost)
        settled_usd: float | None = to_usd(charged)
        try:
            await self._budget.settle(reservation, charged)
        except CarError as error:
            logger.warning("what %s has cost is charged later: %s", spender.model_id, error)
            settled_usd = None
        if reservation.id is not None:
            cost_usd = None if cost is None else to_usd(cost)
            usd = {"charged_usd": settled_usd, "cost_usd": cost_usd}
            recorder.aside("spend_settled", model=spender.model_id, **usd)


def _known_cost(model: ModelSchema, ended: Ended) -> int | None:
    if ended.outcome == SUCCESS:
        return None if ended.tokens is None else _cost(model, ended.tokens)
    if not ended.streamed and ended.tokens is None and ended.outcome in _FREE_FAILURES:
        return 0
    return None


def _cost(model: ModelSchema, tokens: Tokens) -> int | None:
    return cost_nano_usd(model.cost, tokens) if isinstance(model.cost, Cost) else None
