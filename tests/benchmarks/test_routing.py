"""The worlds that policies are compared in, and the policies that need no peer to be installed."""

import math
from itertools import pairwise

import pytest

from benchmarks.routing.__main__ import OURS, interval, live, table
from benchmarks.routing.policies import POLICIES
from benchmarks.routing.world import COUNT, Request, World

WITHOUT_PEER = [name for name in POLICIES if not name.startswith("LiteLLM")]


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=1, length=120)


def test_a_world_is_its_seed_and_worlds_differ(world: World) -> None:
    assert World(1, 120).requests == world.requests
    assert World(1, 120).moments == world.moments
    assert World(2, 120).requests != world.requests


def test_models_drift_and_break_and_what_benchmarks_say_is_near_the_truth() -> None:
    long = World(seed=3, length=2000)
    assert long.moments[0].quality != long.moments[-1].quality
    assert max(max(moment.failing) for moment in long.moments) == pytest.approx(0.61)
    first = long.moments[0].quality
    off = [abs(first[m][t] - long.priors[m][t]) for m in range(COUNT) for t in range(3)]
    assert 0 < sum(off) / len(off) < 0.2


@pytest.mark.parametrize("name", WITHOUT_PEER)
def test_a_policy_pays_for_its_choices_and_never_less_than_nothing(name: str, world: World) -> None:
    row, curve = live(world, name)
    assert row == live(world, name)[0]
    assert 0 <= row["quality"] <= 1
    assert row["regret"] == pytest.approx(curve[-1])
    assert all(later >= earlier for earlier, later in pairwise(curve))


def test_who_always_takes_the_best_model_has_no_regret(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Best:
        def __init__(self, world: World) -> None:
            self.world = world

        def choose(self, request: Request, healthy: list[int]) -> int:
            return max(range(COUNT), key=lambda model: self.world.value(request, model))

        def learn(self, *_: object) -> None:
            pass

    monkeypatch.setitem(POLICIES, "the best", Best)
    assert live(world, "the best")[0]["regret"] == 0


def test_an_interval_is_that_of_student() -> None:
    mean, half = interval([1.0, 2.0, 3.0] * 8)
    assert mean == 2.0
    assert half == pytest.approx(2.069 * math.sqrt(16 / 23) / math.sqrt(24))
    assert math.isnan(interval([1.0])[1])


def test_the_table_has_the_least_regret_first() -> None:
    row = {"quality": 0.5, "latency_ms": 1.0, "spend_usd": 0.1, "failed": 2.0}
    results = {name: [{**row, "regret": value}] * 2 for name, value in ((OURS, 2.0), ("a", 1.0))}
    first, second = table(results).splitlines()[2:]
    assert first.startswith("| a | 1.0 ± 0.0 | -1.0 ± 0.0 | 0.500 ± 0.000 | 1 ± 0 |")
    assert second.startswith(f"| {OURS} | 2.0 ± 0.0 |  |")
