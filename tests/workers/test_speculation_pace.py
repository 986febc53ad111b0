"""How long drafts are, by measurements that are made up."""

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.workers.speculation.pace import LENGTHS, MAX_LOSS, PLAIN_STEPS, SHARE, Outcome, Pace

#: Seconds of a step without a draft.
STEP_S = 0.02

#: What a step of so many rows takes, in steps of one.
Cost = Callable[[int], float]


class Run(NamedTuple):
    """What an answer took, in steps without a draft, and the lengths of the drafts."""

    steps: float
    tokens: int
    lengths: list[int]

    @property
    def speed(self) -> float:
        return self.tokens / self.steps


def generate(
    pace: Pace,
    cost: Cost,
    is_right: Callable[[int, int], bool],
    tokens: int = 1000,
    drafting: float = 0.0,
) -> Run:
    """Generate so many tokens.

    Args:
        pace: Who says how long drafts are.
        cost: The machine.
        is_right: Whether the draft's token of some number is right, at a place in the text.
        tokens: How many.
        drafting: What making a drafted token takes, in steps.
    """
    steps, done = 0.0, 0
    lengths: list[int] = []
    pace.begin()
    while done < tokens:
        length = pace.length(0, 100)
        lengths.append(length)
        if not length:
            pace.plain(STEP_S)
            steps, done = steps + 1, done + 1
            continue
        right = 0
        while right < length and is_right(done, right):
            right += 1
        pace.learn(
            Outcome(
                kind=0,
                asked=length,
                drafted=length,
                right=right,
                chosen=right + 1,
                ended=False,
                step_s=STEP_S * cost(1 + length),
                drafting_s=STEP_S * drafting * length,
            )
        )
        steps += cost(1 + length) + drafting * length
        done += right + 1
    return Run(steps, done, lengths)


def processor(rows: int) -> float:
    return 1 + 0.2 * (rows - 1)


def as_often(share: float) -> Callable[[int, int], bool]:
    rng = random.Random(1)
    return lambda _place, _number: rng.random() < share


@given(
    factors=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    drafting=st.floats(0, 0.5),
    shares=st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]), min_size=1, max_size=20),
    seed=st.integers(0, 9),
)
def test_no_text_costs_more_than_a_share(
    factors: list[float], drafting: float, shares: list[float], seed: int
) -> None:
    """Whatever a machine's batches cost, and whenever the text stops being predictable."""
    by_length: dict[int, float] = dict(zip(LENGTHS, factors, strict=True))
    rng = random.Random(seed)
    run = generate(
        Pace(),
        lambda rows: 1 + by_length[rows - 1] * (rows - 1),
        lambda place, _: rng.random() < shares[place // 50 % len(shares)],
        drafting=drafting,
    )
    # Until a length was tried its price is a guess.
    unforeseen = sum(length * (1 + drafting) for length in LENGTHS)
    assert run.steps <= run.tokens * (1 + SHARE) + MAX_LOSS + unforeseen


def test_an_unpredictable_text_is_soon_left_alone() -> None:
    pace = Pace()
    generate(pace, processor, as_often(0.0))
    run = generate(pace, processor, as_often(0.0))
    assert run.steps <= run.tokens * (1 + SHARE)
    assert sum(map(bool, run.lengths)) > 10  # it is tried now and then


@pytest.mark.parametrize("share", [0.6, 0.8, 0.95, 1.0])
def test_a_predictable_text_comes_about_as_fast_as_it_could(share: float) -> None:
    best = max(
        sum(share**number for number in range(length + 1)) / processor(1 + length)
        for length in LENGTHS
    )
    assert generate(Pace(), processor, as_often(share), 4000).speed > 0.9 * best > 1


def test_a_text_that_becomes_predictable_is_found_out() -> None:
    run = generate(Pace(), processor, lambda place, _: place > 1000, 2000)
    assert set(run.lengths[-10:]) == {LENGTHS[-1]}


def test_drafts_that_cost_more_than_they_save_are_not_made() -> None:
    run = generate(Pace(), float, as_often(0.9))
    assert run.steps <= run.tokens * (1 + SHARE) + MAX_LOSS
    run = generate(Pace(), processor, as_often(0.9), drafting=1.0)
    assert run.steps <= run.tokens * (1 + SHARE) + MAX_LOSS


def test_a_cheaper_batch_is_preferred() -> None:
    """As that of 4 rows, which processors have kernels for, where they have none for 2."""
    costs = {2: 1.6, 4: 1.3, 8: 4.0, 16: 8.0}
    run = generate(Pace(), lambda rows: costs[rows], as_often(0.5))
    assert set(run.lengths[100:]) <= {0, 3}
    assert run.speed > 1.2


def test_what_is_learned_of_one_kind_does_not_count_for_another() -> None:
    pace = Pace()
    generate(pace, processor, as_often(0.0))
    pace.credit = MAX_LOSS
    assert pace.length(0, 100) <= LENGTHS[0]
    assert pace.length(1, 100) > LENGTHS[0]


def test_the_price_of_a_step_without_a_draft_is_looked_at_again() -> None:
    run = generate(Pace(), processor, as_often(1.0), 8000)
    assert run.lengths.count(0) >= len(run.lengths) // (PLAIN_STEPS + 1)
    assert run.lengths[0] == 0


@given(st.integers(0, 20))
def test_a_draft_is_not_longer_than_what_may_follow(most: int) -> None:
    pace = Pace()
    pace.plain(STEP_S)
    assert pace.length(0, most) <= most


def test_a_long_text_is_not_read_for_a_guess() -> None:
    pace = Pace(draft_cost=0.2)
    pace.plain(STEP_S)
    assert pace.length(0, 100, unread=1) > 0
    assert pace.length(0, 100, unread=1000) == 0


def test_a_pause_of_the_machine_is_no_reason_to_give_up() -> None:
    pace = Pace()
    generate(pace, processor, as_often(1.0))
    (length,) = LENGTHS[-1:]
    pace.learn(Outcome(0, length, length, length, length + 1, ended=False, step_s=60.0))
    assert pace.length(0, 100) > 0


def test_the_end_of_an_answer_says_nothing_of_what_would_have_followed() -> None:
    pace = Pace()
    generate(pace, processor, as_often(1.0))
    before = pace.length(0, 100)
    for _ in range(20):
        pace.learn(Outcome(0, 15, 15, 0, 1, ended=True, step_s=STEP_S))
    pace.credit = MAX_LOSS
    assert pace.length(0, 100) == before
