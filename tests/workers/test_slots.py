import pytest

from car_rpc.workers import slots
from car_rpc.workers.slots import (
    context_length,
    free_memory,
    longest_context,
    more_slots,
    physical_memory,
    slot_count,
    slots_of,
)


@pytest.mark.parametrize(
    ("asked", "trained", "tokens"),
    [
        (None, 512, 512),
        (None, 10**6, 8192),
        (20_000, 10**6, 20_000),
        (900, 512, 512),
        (900, 0, 900),
    ],
)
def test_a_context_is_what_was_asked_for_within_what_the_model_knows(
    asked: int | None, trained: int, tokens: int
) -> None:
    assert context_length(asked, trained) == tokens


@pytest.mark.parametrize(
    ("slot_bytes", "count"), [(0, 4), (256 * 2**20, 4), (257 * 2**20, 3), (2**33, 1)]
)
def test_slots_are_given_up_to_save_memory(
    monkeypatch: pytest.MonkeyPatch, slot_bytes: int, count: int
) -> None:
    monkeypatch.setattr(slots, "physical_memory", lambda: 2**34)
    monkeypatch.setattr(slots, "free_memory", lambda: 2**33)
    assert slot_count(slot_bytes) == count


def test_slots_are_given_up_where_others_use_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "free_memory", lambda: 2**30)
    assert slot_count(2**28) == 2
    assert slot_count(2**27) == 4
    assert slot_count(2**27, beside=1) == 3
    monkeypatch.setattr(slots, "free_memory", lambda: 0)
    assert slot_count(2**28) == 1
    assert slot_count(2**28, beside=physical_memory()) == 1, "it can be done without"


def test_a_slot_larger_than_the_machine_is_refused() -> None:
    with pytest.raises(MemoryError):
        slot_count(2**60)


@pytest.mark.parametrize(
    ("slots", "slot_bytes", "wanted", "more"),
    [
        (1, 2**20, 2, 2),
        (1, 2**20, 3, 4),
        (1, 2**20, 7, 8),
        (2, 2**20, 3, 4),
        (4, 2**20, 5, 8),
        (4, 2**20, 4, 4),
        (4, 2**20, 3, 4),
        (8, 2**20, 9, 8),
        (1, 2**30, 8, 4),
        (2, 2**30, 3, 4),
        (4, 2**30, 5, 4),
        (1, 2**33, 2, 1),
    ],
)
def test_more_run_at_once_as_long_as_half_of_the_free_memory_suffices(
    monkeypatch: pytest.MonkeyPatch, slots: int, slot_bytes: int, wanted: int, more: int
) -> None:
    monkeypatch.setattr("car_rpc.workers.slots.free_memory", lambda: 2**33)
    assert more_slots(slots, slot_bytes, wanted) == more


@pytest.mark.parametrize(("slots", "most", "more"), [(1, 3, 2), (2, 3, 3), (3, 3, 3), (4, 3, 4)])
def test_there_are_no_more_slots_than_there_may_be(slots: int, most: int, more: int) -> None:
    assert more_slots(slots, 0, slots + 1, most) == more


@pytest.mark.parametrize(
    ("trained", "tokens"), [(0, 8192), (512, 8192), (20_000, 20_000), (10**6, 65536)]
)
def test_a_context_may_get_as_long_as_half_of_the_free_memory_suffices(
    monkeypatch: pytest.MonkeyPatch, trained: int, tokens: int
) -> None:
    monkeypatch.setattr("car_rpc.workers.slots.free_memory", lambda: 2**33)
    assert longest_context(8192, trained, lambda length: length * 2**16) == tokens


@pytest.mark.parametrize(("slot_bytes", "slots"), [(0, 4), (2**30, 4), (2**31, 2), (2**33, 0)])
def test_slots_fit_into_half_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, slot_bytes: int, slots: int
) -> None:
    monkeypatch.setattr("car_rpc.workers.slots.free_memory", lambda: 2**33)
    assert slots_of(slot_bytes, 4) == slots


def test_free_memory_is_a_part_of_all() -> None:
    assert 0 < free_memory() < physical_memory()
