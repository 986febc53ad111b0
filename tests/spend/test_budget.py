"""Limits hold over all processes, whatever happens to them, and money is counted once."""

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from car_rpc.errors import CarError
from car_rpc.spend.budget import LEASE, Budget, scope_of
from car_rpc.spend.limits import Charge, Spender
from car_rpc.spend.store import Reservation, SpendStore
from car_rpc.wire.spend import SpendLimits, SpendStatusResult
from tests.conftest import SOAK

CENT = 10_000_000
ONE = Spender("acme/one:1", "acme")
TWO = Spender("acme/two:1", "acme")
OTHER = Spender("best/one:1", "best")


class Time:
    """A clock that stands."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 30, 23, 50, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def pass_(self, **time: float) -> None:
        self.moment += timedelta(**time)


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
def opened(tmp_path: Path, now: Time) -> Iterator[Callable[[], Budget]]:
    """Opens the state directory once more, as another process would."""
    budgets: list[Budget] = []

    def open_budget() -> Budget:
        budgets.append(Budget(SpendStore(tmp_path / "car.db"), now))
        return budgets[-1]

    yield open_budget
    for budget in budgets:
        budget.close()


@pytest.fixture
def budget(opened: Callable[[], Budget]) -> Budget:
    return opened()


async def spend(budget: Budget, cents: int, spender: Spender = ONE, **more: Any) -> Reservation:
    reservation = await budget.reserve(spender, cents * CENT, **more)
    await budget.settle(reservation, cents * CENT)
    return reservation


async def refused(budget: Budget, cents: int | None, spender: Spender = ONE, **more: Any) -> Any:
    needed = None if cents is None else cents * CENT
    with pytest.raises(CarError) as caught:
        await budget.reserve(spender, needed, **more)
    assert caught.value.kind == "spend_limit_exceeded"
    return caught.value


def used(status: SpendStatusResult) -> tuple[float, float, float]:
    return status.day.used_usd, status.month.used_usd, status.total.used_usd


async def test_what_was_reserved_is_charged_as_what_it_cost(budget: Budget) -> None:
    reservation = await budget.reserve(ONE, 5 * CENT)
    day = (await budget.status("")).day
    assert (day.used_usd, day.reserved_usd, day.priced_count) == (0, 0.05, 0)
    await budget.settle(reservation, 2 * CENT)
    day = (await budget.status("")).day
    assert (day.used_usd, day.reserved_usd, day.priced_count) == (0.02, 0, 1)


async def test_each_scope_has_its_own_account(budget: Budget) -> None:
    for spender, cents in ((ONE, 1), (TWO, 2), (OTHER, 4)):
        await spend(budget, cents, spender)
    accounts = {
        scope: (await budget.status(scope)).total.used_usd
        for scope in ("", "provider:acme", "provider:best", "model:acme/two:1", "model:nobody")
    }
    assert list(accounts.values()) == [0.07, 0.03, 0.04, 0.02, 0]


@pytest.mark.parametrize(
    ("limits", "scope"),
    [
        ({}, {}),
        ({"model": "acme/one:1"}, {"limit_model": "acme/one:1"}),
        ({"provider": "acme"}, {"limit_provider": "acme"}),
    ],
)
@pytest.mark.parametrize(
    ("window", "resets_at"),
    [
        ("day", "2026-01-31T00:00:00Z"),
        ("month", "2026-02-01T00:00:00Z"),
        ("total", None),
    ],
)
async def test_a_limit_names_itself_and_what_is_left(
    budget: Budget, limits: dict[str, Any], scope: dict[str, str], window: str, resets_at: str
) -> None:
    name = f"max_usd_{window}" if window == "total" else f"max_usd_per_{window}"
    await budget.set_limits(SpendLimits(**{name: 0.10, **limits}))
    await spend(budget, 3)
    waiting = await budget.reserve(ONE, 4 * CENT)
    error = await refused(budget, 4)
    expected: dict[str, Any] = {
        "limit": name,
        "window": window,
        "model": "acme/one:1",
        "limit_usd": 0.1,
        "needed_usd": 0.04,
        "left_usd": 0.03,
        **scope,
        **({"resets_at": resets_at} if resets_at else {}),
    }
    assert error.extra == expected
    assert name in error.message
    assert "$0.040000" in error.message
    assert not error.retryable
    await spend(budget, 3)  # exactly what is left
    await budget.settle(waiting, 0)
    await spend(budget, 4)
    if limits:
        await spend(budget, 1000, OTHER)


async def test_the_limit_of_a_call_is_for_all_its_attempts(budget: Budget) -> None:
    await budget.set_limits(SpendLimits(max_usd_per_call=0.05))
    await budget.set_limits(SpendLimits(max_usd_per_call=0.03, provider="best"))
    earlier = [Charge(ONE, 3 * CENT)]
    error = await refused(budget, 3, earlier=earlier)
    assert (error.extra["limit"], error.extra["left_usd"]) == ("max_usd_per_call", 0.02)
    await spend(budget, 2, earlier=earlier)
    await spend(budget, 2, OTHER, earlier=earlier)  # the provider's own limit is as it was
    await refused(budget, 6)


async def test_a_day_and_a_month_begin_anew_and_the_total_does_not(
    budget: Budget, now: Time
) -> None:
    await spend(budget, 1)
    late = await budget.reserve(ONE, 2 * CENT)
    now.pass_(minutes=10)
    await budget.settle(late, 2 * CENT)  # belongs to the day on which it began
    status = await budget.status("")
    assert (status.day.since, status.month.since, status.total.since) == (
        "2026-01-31",
        "2026-01",
        None,
    )
    assert used(status) == (0, 0.03, 0.03)
    now.pass_(days=1)
    assert used(await budget.status("")) == (0, 0, 0.03)


async def test_limits_are_replaced_as_a_whole_and_seen_by_all(
    opened: Callable[[], Budget],
) -> None:
    first, second = opened(), opened()
    await first.set_limits(SpendLimits(max_usd_per_day=0.01, max_usd_total=1))
    status = await second.set_limits(SpendLimits(max_usd_total=0.02, model="acme/one:1"))
    assert status.limits == [
        SpendLimits(max_usd_per_day=0.01, max_usd_total=1),
        SpendLimits(max_usd_total=0.02, model="acme/one:1"),
    ]
    assert (status.total.limit_usd, status.total.left_usd, status.day.limit_usd) == (
        0.02,
        0.02,
        None,
    )
    await refused(second, 2)
    await first.set_limits(SpendLimits())
    await spend(second, 2)
    assert (await first.status("")).limits == [SpendLimits(max_usd_total=0.02, model="acme/one:1")]


async def test_who_has_limits_or_has_spent_is_known(budget: Budget) -> None:
    await budget.set_limits(SpendLimits(max_usd_total=1, provider="other"))
    await spend(budget, 1)
    known = ["", "model:acme/one:1", "provider:acme", "provider:other"]
    assert [scope for scope in [*known, "provider:nobody"] if budget.knows(scope)] == known
    await budget.set_limits(SpendLimits(provider="other"))
    assert not budget.knows("provider:other")


async def test_what_has_no_price_is_counted_and_refused_only_on_demand(budget: Budget) -> None:
    await budget.set_limits(SpendLimits(max_usd_per_day=0))
    await budget.settle(await budget.reserve(ONE, None), 0)
    status = await budget.status("")
    assert (status.day.unpriced_count, status.day.priced_count) == (1, 0)
    assert status.total.used_usd == 0
    await budget.set_limits(SpendLimits(allow_unpriced=False, provider="acme"))
    error = await refused(budget, None)
    assert error.extra == {"limit": "allow_unpriced", "model": "acme/one:1"}
    await budget.settle(await budget.reserve(OTHER, None), 0)


async def test_what_costs_nothing_passes_a_limit_that_is_used_up(budget: Budget) -> None:
    await budget.set_limits(SpendLimits(max_usd_total=0.01))
    await spend(budget, 1)
    await spend(budget, 0)
    await refused(budget, 1)


async def test_processes_that_reserve_at_once_do_not_exceed_a_limit(
    opened: Callable[[], Budget],
) -> None:
    budgets = [opened() for _ in range(4)]
    await budgets[0].set_limits(SpendLimits(max_usd_per_month=0.10))
    tries = [budgets[number % 4].reserve(ONE, CENT) for number in range(40)]
    made = [r for r in await asyncio.gather(*tries, return_exceptions=True) if isinstance(r, tuple)]
    assert len(made) == 10


async def test_the_reservation_of_a_dead_process_counts_and_is_charged_once(
    opened: Callable[[], Budget], now: Time
) -> None:
    dead, alive = opened(), opened()
    await alive.set_limits(SpendLimits(max_usd_total=0.05))
    await dead.reserve(ONE, 3 * CENT, time_ms=60_000)  # and is killed
    await refused(alive, 3)
    now.pass_(seconds=LEASE.total_seconds() + 59)
    assert (await alive.status("")).total.reserved_usd == 0.03
    now.pass_(seconds=1)
    for budget in (alive, opened()):
        total = (await budget.status("")).total
        assert (total.used_usd, total.reserved_usd, total.priced_count) == (0.03, 0, 1)
    await refused(alive, 3)
    await spend(alive, 2)


async def test_an_attempt_that_outlives_its_reservation_is_charged_once(
    budget: Budget, now: Time
) -> None:
    first, second = await budget.reserve(ONE, 3 * CENT), await budget.reserve(TWO, 3 * CENT)
    now.pass_(seconds=LEASE.total_seconds())
    assert (await budget.status("")).total.used_usd == 0.06
    await budget.settle(first, 2 * CENT)  # what was charged never goes down
    await budget.settle(second, 5 * CENT)
    total = (await budget.status("")).total
    assert (total.used_usd, total.priced_count) == (0.08, 2)


@pytest.mark.parametrize("needed", [CENT, None])
async def test_a_cancel_while_it_is_reserved_leaves_nothing(
    budget: Budget, tmp_path: Path, needed: int | None
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "car.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.ensure_future(budget.reserve(ONE, needed))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        other.execute("COMMIT")
    with pytest.raises(asyncio.CancelledError):
        await task
    total = (await budget.status("")).total
    assert (total.used_usd, total.reserved_usd) == (0, 0)
    assert (total.priced_count, total.unpriced_count) == (0, 0)  # no attempt was made


async def test_a_cancel_while_it_is_charged_charges_it(budget: Budget, tmp_path: Path) -> None:
    reservation = await budget.reserve(ONE, CENT)
    with contextlib.closing(sqlite3.connect(tmp_path / "car.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.ensure_future(budget.settle(reservation, CENT))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        other.execute("COMMIT")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await budget.status("")).total.used_usd == 0.01


async def test_old_days_are_forgotten_and_what_was_spent_ever_is_not(
    opened: Callable[[], Budget], now: Time
) -> None:
    await spend(opened(), 1)
    before = now.moment
    now.pass_(days=500)
    budget = opened()
    now.moment = before
    assert used(await budget.status("")) == (0, 0, 0.01)


def test_a_model_and_a_provider_together_are_refused() -> None:
    with pytest.raises(CarError) as caught:
        scope_of("a", "b")
    assert (caught.value.kind, caught.value.extra["path"]) == ("invalid_params", "$.provider")


class Ledger(RuleBasedStateMachine):
    """Processes that reserve, settle, die and come back, against a model in plain numbers."""

    LIMIT = 1000

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = SpendStore(Path(self.folder.name) / "car.db")
        self.other = SpendStore(Path(self.folder.name) / "car.db")
        self.store.set_limits("", SpendLimits(max_usd_total=self.LIMIT / 10**9))
        self.now = datetime(2026, 1, 30, tzinfo=UTC)
        self.open: list[tuple[Reservation, datetime]] = []
        self.used = 0
        self.reported = 0.0

    @property
    def reserved(self) -> int:
        return sum(r.charge.nano_usd for r, until in self.open if until > self.now)

    @rule(
        needed=st.integers(0, 400),
        minutes=st.integers(1, 90),
        spender=st.sampled_from([ONE, OTHER]),
    )
    def reserve(self, needed: int, minutes: int, spender: Spender) -> None:
        self.expire()
        fits = not needed or self.used + self.reserved + needed <= self.LIMIT
        until = self.now + timedelta(minutes=minutes)
        try:
            made = self.other.reserve(spender, needed, (), self.now, until)
        except CarError:
            assert not fits
        else:
            assert fits
            self.open.append((made, until))

    @rule(number=st.integers(0, 20), part=st.floats(0, 1))
    def settle(self, number: int, part: float) -> None:
        self.expire()
        if self.open:
            made, _ = self.open.pop(number % len(self.open))
            cost = int(made.charge.nano_usd * part)
            self.store.settle(made, cost)
            self.used += cost

    @rule(minutes=st.integers(1, 60))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    def expire(self) -> None:
        dead = [(r, until) for r, until in self.open if until <= self.now]
        self.used += sum(r.charge.nano_usd for r, _ in dead)
        self.open = [each for each in self.open if each not in dead]
        if dead:
            self.other.status("", self.now)
            self.store.settle(dead[0][0], 0)  # comes too late, and changes nothing

    @invariant()
    def the_books_agree_and_the_limit_holds(self) -> None:
        self.expire()
        total = self.other.status("", self.now).total
        assert round(total.used_usd * 10**9) == self.used
        assert round(total.reserved_usd * 10**9) == self.reserved
        assert self.used + self.reserved <= self.LIMIT
        assert total.used_usd >= self.reported
        self.reported = total.used_usd

    def teardown(self) -> None:
        self.store.close()
        self.other.close()
        self.folder.cleanup()


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=500 if SOAK else 8, stateful_step_count=25)
