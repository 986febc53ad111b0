"""Which sequence a prompt goes to, with a memory that remembers tokens."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.workers.llama_cpp.sequences import (
    MAX_CHECKPOINTS,
    MAX_STATES,
    STRIDE,
    TAIL,
    Sequence,
    Sequences,
)
from car_rpc.workers.prefix import common


class TokenMemory:
    """Remembers the tokens themselves, so that what a sequence holds can be checked.

    Without ``can_cut`` it can forget no more than its newest tokens, ``window`` of them.
    """

    def __init__(self, *, can_cut: bool = True, window: int = 0) -> None:
        self.can_cut = can_cut
        self.window = window
        self.tokens: dict[int, list[int]] = {}
        self.saves = 0

    def shortest(self, sequence: int) -> int:
        return 0 if self.can_cut else max(0, len(self.tokens.get(sequence, [])) - self.window)

    def cut(self, sequence: int, length: int) -> bool:
        if length < self.shortest(sequence):
            return False
        del self.tokens.get(sequence, [])[length:]
        return True

    def save_part(self, sequence: int) -> Any:
        return np.array(self.tokens[sequence][-1:], dtype=np.int32)

    def rewind(self, sequence: int, part: Any, length: int) -> bool:
        held = self.tokens[sequence]
        assert held[length - 1 : length] == part.tolist()
        del held[length:]
        return True

    def drop(self, sequence: int) -> None:
        self.tokens[sequence] = []

    def state_bytes(self, sequence: int) -> int:
        return 4 * len(self.tokens.get(sequence, []))

    def save(self, sequence: int) -> Any:
        self.saves += 1
        return np.array(self.tokens[sequence], dtype=np.int32)

    def restore(self, sequence: int, state: Any) -> bool:
        assert not self.tokens.get(sequence)
        self.tokens[sequence] = state.tolist()
        return True


class Slots:
    """Sequences, and a way to use them as the generator does."""

    def __init__(
        self, count: int, tokens: int = 1000, *, can_cut: bool = True, window: int = 0
    ) -> None:
        self.memory = TokenMemory(can_cut=can_cut, window=window)
        self.sequences = Sequences(self.memory, count, 4 * tokens)

    def start(self, prompt: list[int], *, shared: bool = True) -> tuple[Sequence, int]:
        """Read a prompt; returns its sequence and how many tokens needed no reading."""
        sequence = self.sequences.take(prompt, shared=shared)
        begun = len(sequence.tokens)
        assert sequence.tokens == prompt[:begun] == self.held(sequence)
        assert begun < len(prompt)
        assert shared or not begun
        while (read := len(sequence.tokens)) < len(prompt):
            self.sequences.checkpoint(sequence)
            self.extend(sequence, prompt[read : min([len(prompt), *sequence.marks[:1]])])
        return sequence, begun

    def extend(self, sequence: Sequence, tokens: list[int]) -> None:
        sequence.tokens += tokens
        self.memory.tokens.setdefault(sequence.number, []).extend(tokens)

    def run(self, prompt: list[int], *, shared: bool = True) -> int:
        sequence, begun = self.start(prompt, shared=shared)
        self.sequences.give_back(sequence)
        return begun

    def held(self, sequence: Sequence) -> list[int]:
        return self.memory.tokens.get(sequence.number, [])


def text(start: int, length: int = 50) -> list[int]:
    return list(range(start, start + length))


def test_a_prompt_goes_on_from_what_begins_like_it() -> None:
    slots = Slots(2)
    assert slots.run(text(0)) == 0
    assert slots.run([*text(0), 7]) == 50
    assert slots.run(text(0)) == 49  # the last token is read for its logits
    assert slots.memory.saves == 0


def test_a_prompt_goes_on_from_a_sequence_in_use() -> None:
    slots = Slots(2)
    first, _ = slots.start(text(0))
    second, begun = slots.start([*text(0, 40), 7])
    assert begun == 40
    assert first is not second
    assert slots.held(first) == text(0)


def test_a_long_conversation_is_not_given_up_for_its_first_words() -> None:
    slots = Slots(2)
    slots.run(text(0))
    assert slots.run([*text(0, 10), 7]) == 10
    assert slots.run([*text(0), 7]) == 50


def test_what_must_make_room_comes_back() -> None:
    slots = Slots(1)
    slots.run(text(0))
    slots.run(text(100))
    assert slots.run([*text(0, 10), 7]) == 10
    assert slots.run([*text(100), 7]) == 50
    assert slots.run([*text(0), 7]) == 50


def test_the_least_recently_used_sequence_makes_room() -> None:
    slots = Slots(2, tokens=0)
    slots.run(text(0))
    slots.run(text(100))
    slots.run([*text(0), 1])
    slots.run(text(200))
    assert slots.run([*text(0), 1, 2]) == 51
    assert slots.run([*text(100), 1]) == 0


@given(left=st.permutations(range(8)), count=st.integers(1, 8))
def test_what_is_asked_at_once_goes_side_by_side(left: list[int], count: int) -> None:
    slots = Slots(8)
    used = [slots.start(text(100 * number))[0] for number in range(8)]
    for number in left:
        slots.sequences.give_back(used[number])
    numbers = {slots.start(text(1000 + 100 * number))[0].number for number in range(count)}
    assert max(numbers) - min(numbers) == count - 1


def test_no_sequence_makes_room_for_what_would_be_beside_another() -> None:
    slots = Slots(4)
    beside = [slots.start(text(100 * number))[0] for number in range(3)]
    for sequence in (beside[0], beside[2]):
        slots.sequences.give_back(sequence)
    assert slots.start(text(300))[0].number == 3
    assert slots.memory.saves == 0


def test_saved_states_keep_to_their_budget() -> None:
    slots = Slots(1, tokens=120)
    for start in range(0, 1000, 100):
        slots.run(text(start))
        assert slots.sequences.saved_bytes <= 4 * 120
    assert slots.run([*text(800), 1]) == 50
    assert slots.run([*text(100), 1]) == 0
    for start in range(0, 500 * MAX_STATES, 100):
        slots.run([start])
    assert slots.sequences.saved_bytes <= 4 * MAX_STATES


def test_a_request_that_shares_nothing_leaves_nothing() -> None:
    slots = Slots(2)
    slots.run(text(0))
    assert slots.run(text(0), shared=False) == 0
    assert slots.run([*text(0), 1], shared=False) == 0
    sequence, _ = slots.start(text(100), shared=False)
    assert slots.run([*text(100), 1]) == 0
    slots.sequences.give_back(sequence)
    assert slots.run([*text(0), 1]) == 50


def test_a_broken_batch_leaves_what_was_read_before() -> None:
    slots = Slots(1)
    sequence, _ = slots.start(text(0))
    slots.memory.tokens[0] += [7, 8]
    slots.sequences.repair(sequence)
    slots.sequences.give_back(sequence)
    assert slots.run([*text(0), 1]) == 50


# ------------------------------------------------------------------ memory that cannot be cut


def test_what_cannot_be_cut_serves_as_a_whole() -> None:
    slots = Slots(1, can_cut=False)
    slots.run(text(0))
    assert slots.run([*text(0), 1]) == 50


def test_the_next_turn_goes_on_before_what_was_written_anew() -> None:
    slots = Slots(1, can_cut=False)
    sequence, _ = slots.start([*text(0, 74), *text(900, 6)])
    slots.extend(sequence, text(300))
    slots.sequences.give_back(sequence)
    assert slots.run([*text(0, 74), *text(500)]) == 80 - TAIL


def test_a_prompt_that_is_asked_again_is_read_but_for_its_end() -> None:
    slots = Slots(1, can_cut=False)
    slots.run([*text(0), 7])
    assert slots.run([*text(0), 7]) == 51 - TAIL


def test_a_window_is_cut_as_far_as_it_goes() -> None:
    slots = Slots(1, can_cut=False, window=5)
    slots.run(text(0))
    assert slots.run([*text(0, 47), 7]) == 47
    assert slots.run([*text(0, 40), 7]) == 50 - TAIL


def test_where_two_have_parted_a_third_goes_on() -> None:
    slots = Slots(3, can_cut=False)
    slots.run([*text(0, 200), *text(500, 80)])
    assert slots.run([*text(0, 200), *text(600, 80)]) == 0
    assert slots.run([*text(0, 200), *text(700, 80)]) == 200


def test_a_prompt_that_waits_has_a_checkpoint_taken_where_it_parts() -> None:
    slots = Slots(2, can_cut=False)
    first = slots.sequences.take([*text(0, 200), *text(500, 80)], shared=True)
    slots.sequences.mark(first, 200)
    slots.extend(first, text(0, 200))
    slots.sequences.checkpoint(first)
    slots.extend(first, text(500, 80))
    assert slots.run([*text(0, 200), 1]) == 200


def test_a_long_text_can_be_left_anywhere() -> None:
    slots = Slots(1, tokens=10**6, can_cut=False)
    slots.run(text(0, 3 * STRIDE))
    assert slots.run([*text(0, 2 * STRIDE + 9), -1]) == 2 * STRIDE


def test_a_broken_batch_leaves_what_the_last_checkpoint_holds() -> None:
    slots = Slots(1, tokens=10**6, can_cut=False)
    sequence, _ = slots.start(text(0, STRIDE + 100))
    slots.memory.tokens[0] += [7, 8]
    slots.sequences.repair(sequence)
    assert sequence.tokens == slots.held(sequence) == text(0, STRIDE + 100 - TAIL)
    slots.sequences.give_back(sequence)
    assert slots.run(text(0, STRIDE + 100)) == STRIDE + 100 - TAIL


def test_checkpoints_go_along_with_what_makes_room() -> None:
    slots = Slots(1, can_cut=False)
    slots.run([*text(0), 7])
    slots.run(text(100))
    assert slots.run([*text(0), 8]) == 51 - TAIL


def test_a_copy_of_what_is_in_use_has_its_checkpoints() -> None:
    slots = Slots(2, can_cut=False)
    first, _ = slots.start([*text(0), 7])
    assert slots.run([*text(0), 8]) == 51 - TAIL
    assert slots.held(first) == [*text(0), 7]
    assert slots.run([*text(0), 9]) == 51 - TAIL


def test_checkpoints_are_few_and_far_between() -> None:
    slots = Slots(1, tokens=10**6, can_cut=False)
    conversation: list[int] = []
    for turn in range(3 * MAX_CHECKPOINTS):
        conversation += text(1000 * turn, 40)
        assert slots.run(conversation) == max(0, len(conversation) - 40)
    sequence, _ = slots.start([*conversation, *text(-100)])
    assert len(sequence.checkpoints) == MAX_CHECKPOINTS
    lengths = [each.length for each in sequence.checkpoints]
    assert lengths[-1] == len(conversation) + 50 - TAIL
    assert lengths[0] < len(conversation) // 4


def test_checkpoints_keep_to_the_budget() -> None:
    slots = Slots(1, tokens=3, can_cut=False)
    slots.run([*text(0), 1])
    slots.run([*text(0), 1, *text(100)])
    slots.run([*text(0), 1, *text(100), *text(200)])
    assert slots.sequences.saved_bytes == 4 * 3
    slots.run([*text(0), 1, *text(100), *text(200), *text(300)])
    assert slots.sequences.saved_bytes == 4 * 3


# --------------------------------------------------------------------------------- the whole


def test_nothing_is_known_after_all_is_cleared() -> None:
    slots = Slots(1)
    slots.start(text(0))
    slots.sequences.clear()
    assert slots.run([*text(0), 1]) == 0


def test_what_was_read_moves_to_a_larger_memory() -> None:
    slots = Slots(2)
    slots.run(text(0))
    busy, _ = slots.start(text(100))
    assert slots.run(text(200)) == 0
    larger = TokenMemory()
    assert slots.sequences.move(larger, 4)
    slots.memory = larger
    assert slots.held(busy) == busy.tokens == text(100)
    for start in (300, 400):
        slots.start(text(start))
    assert slots.sequences.any_free
    assert slots.run([*text(200), 1]) == 50
    assert slots.run([*text(0), 1]) == 50  # which had made room before


def test_what_comes_after_a_move_goes_beside_what_is_in_use() -> None:
    slots = Slots(2)
    busy, _ = slots.start(text(100))
    slots.run(text(200))
    slots.memory = TokenMemory()
    assert slots.sequences.move(slots.memory, 4)
    assert [busy.number, *(slots.start(text(start))[0].number for start in (300, 400))] == [1, 2, 3]
    assert slots.memory.saves == 0
    assert slots.run([*text(200), 1]) == 50


@pytest.mark.parametrize("can_cut", [True, False])
def test_what_finds_no_place_in_a_smaller_memory_is_saved(can_cut: bool) -> None:
    slots = Slots(3, can_cut=can_cut)
    slots.run(text(0))
    slots.run(text(100))
    busy, _ = slots.start(text(200))
    smaller = TokenMemory(can_cut=can_cut)
    assert slots.sequences.move(smaller, 1)
    slots.memory = smaller
    assert busy.number == 0
    assert slots.held(busy) == busy.tokens == text(200)
    assert not slots.sequences.any_free
    slots.sequences.give_back(busy)
    for start in (0, 100, 200):
        assert slots.run([*text(start), 1]) == 50


def test_nothing_moves_where_there_is_no_room() -> None:
    slots = Slots(2)
    busy, _ = slots.start(text(100))
    full = TokenMemory()
    full.restore = lambda sequence, state: False
    assert not slots.sequences.move(full, 4)
    assert slots.held(busy) == text(100)
    slots.start(text(200))
    assert not slots.sequences.any_free


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=2 * TAIL)
uses = st.lists(st.tuples(prompts, st.booleans(), st.booleans()), max_size=12)


@pytest.mark.parametrize(("can_cut", "window"), [(True, 0), (False, 0), (False, 3)])
@given(uses=uses)
def test_every_prompt_is_what_its_sequence_holds(
    can_cut: bool, window: int, uses: list[tuple[list[int], bool, bool]]
) -> None:
    slots = Slots(3, tokens=20, can_cut=can_cut, window=window)
    busy: list[tuple[Sequence, list[int]]] = []
    for prompt, shared, stays in uses:
        sequence, _ = slots.start(prompt, shared=shared)
        busy.append((sequence, list(prompt)))
        if not stays or len(busy) == 3:
            for done, _ in busy:
                slots.sequences.give_back(done)
            busy = []
        for other, wanted in busy:
            assert slots.held(other) == other.tokens == wanted
        assert slots.sequences.saved_bytes <= 4 * 20


@given(prompts, prompts)
def test_no_beginning_that_is_at_hand_is_read_again(first: list[int], second: list[int]) -> None:
    slots = Slots(2)
    slots.run(first)
    assert slots.run(second) == min(common(first, second), len(second) - 1)
