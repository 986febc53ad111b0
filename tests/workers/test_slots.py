import pytest

from car_rpc.workers import slots
from car_rpc.workers.slots import context_length, slot_count


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
    assert slot_count(slot_bytes) == count


def test_a_slot_larger_than_the_machine_is_refused() -> None:
    with pytest.raises(MemoryError):
        slot_count(2**60)
