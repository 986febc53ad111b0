from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.backends.local.residency import Crashes, ModelsPolicy, Resident, to_evict
from car_rpc.errors import CarError

RESIDENTS = st.lists(
    st.builds(
        Resident,
        memory_bytes=st.integers(1, 100),
        users=st.integers(0, 2),
        used_ms=st.floats(0, 1000),
    ),
    max_size=8,
)


@given(needed=st.integers(1, 200), budget=st.integers(0, 300), residents=RESIDENTS)
def test_evicting_ends_with_room_or_with_models_at_work_alone(
    needed: int, budget: int, residents: list[Resident]
) -> None:
    left = list(residents)
    while (index := to_evict(needed, budget, left)) is not None:
        gone = left.pop(index)
        assert gone.users == 0, "a model at work never has to go"
        assert all(gone.used_ms <= each.used_ms for each in left if not each.users)
    has_room = sum(each.memory_bytes for each in left) + needed <= budget
    assert has_room or all(each.users for each in left)


def test_nobody_goes_while_there_is_room() -> None:
    assert to_evict(10, 20, [Resident(10, 0, 1.0)]) is None
    assert to_evict(11, 20, [Resident(10, 0, 1.0)]) == 0


def refused(crashes: Crashes, now_ms: float) -> Any:
    try:
        crashes.check("a/b:c", now_ms)
    except CarError as error:
        return error
    return None


def test_a_model_that_keeps_crashing_waits_longer_each_time_and_is_then_left_alone() -> None:
    policy = ModelsPolicy(max_crashes=4, crash_backoff_ms=100, quarantine_ms=5000)
    crashes = Crashes(policy)
    delays: list[float] = []
    for now_ms in range(4):
        assert refused(crashes, now_ms) is None
        crashes.crashed(now_ms)
        delays.append(crashes.delay_ms())
    assert delays == [0, 100, 200, 400]
    error = refused(crashes, 1003.0)
    assert error.kind == "worker_crashed"
    assert error.extra["quarantined"] is True
    assert error.extra["retry_after_ms"] == 4000
    assert refused(crashes, 5003.0) is None


def test_after_its_quarantine_it_gets_as_many_chances_again() -> None:
    crashes = Crashes(ModelsPolicy(max_crashes=2, quarantine_ms=1000))
    for now_ms in (0, 1, 2000):
        crashes.crashed(now_ms)
    assert refused(crashes, 2001) is None
    crashes.crashed(2002)
    assert refused(crashes, 2003) is not None


@pytest.mark.parametrize("count", [0, 1])
def test_the_first_start_after_a_crash_does_not_wait(count: int) -> None:
    crashes = Crashes(ModelsPolicy())
    for _ in range(count):
        crashes.crashed(0)
    assert crashes.delay_ms() == 0
