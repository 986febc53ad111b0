"""Which token is chosen, beside the plain definition of each step."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from car_rpc.wire.worker import SamplingParams
from tests.workers.odds import CUTS, LOGITS, odds

pytest.importorskip("llama_cpp")

from car_rpc.workers.llama_cpp.sampler import Sampler, among, choose

pytestmark = pytest.mark.llama


@given(logits=LOGITS, **CUTS)
def test_every_token_is_as_likely_as_the_parameters_say(logits: list[float], **cuts: Any) -> None:
    params = SamplingParams(**cuts)
    draws = 400
    values = np.array(logits, np.float32)
    drawn = [choose(values, params, (draw + 0.5) / draws) for draw in range(draws)]
    shares = np.bincount(drawn, minlength=len(logits)) / draws
    assert np.abs(shares - odds(logits, params)).max() < 1.01 / draws


@pytest.mark.parametrize("luck", [0.0, 0.5, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("temperature", [1e-30, 1.0, 1e30])
def test_what_is_not_allowed_is_never_chosen(luck: float, temperature: float) -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[500] = 3.0
    for top_p in (0.9, 1.0):
        params = SamplingParams(temperature=temperature, top_p=top_p)
        assert choose(logits, params, luck) == 500


class Only:
    """A constraint to some tokens."""

    def __init__(self, size: int, *tokens: int) -> None:
        self._mask = np.zeros(size, np.bool_)
        self._mask[list(tokens)] = True

    def allows(self, token: int) -> bool:
        return bool(self._mask[token])

    def allowed(self) -> Any:
        return self._mask


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("count", [1, 3, 5000, 9000])
def test_only_what_a_constraint_allows_is_sampled(temperature: float, count: int) -> None:
    size = 10_000
    logits = np.random.default_rng(count).normal(0, 1, size).astype(np.float32)
    logits[0] = 1e9  # which is never allowed
    tokens = range(1, count + 1)
    sampler = Sampler(SamplingParams(temperature=temperature, seed=1), size)
    only: Any = Only(size, *tokens)
    for _ in range(20):
        context: Any = Logits(*logits.tolist())
        token = sampler.sample(context, 0, only)
        assert token in tokens
        if temperature == 0:
            assert token == 1 + int(logits[1 : count + 1].argmax())


def test_a_token_is_as_likely_among_few_that_are_allowed_as_among_many() -> None:
    logits = np.full(10_000, -50.0, np.float32)  # what a mask leaves of them is no matter
    logits[:4] = [5.0, 1.0, 0.5, 0.0]
    params = SamplingParams(temperature=1.0, top_p=1.0)
    drawn: list[list[int]] = []
    for tokens in (range(1, 4), range(1, 9000)):
        only: Any = Only(len(logits), *tokens)
        lucks = [(draw + 0.5) / 200 for draw in range(200)]
        drawn.append(
            [
                among(logits.copy(), only, lambda some, u=luck: choose(some, params, u))
                for luck in lucks
            ]
        )
    assert drawn[0] == drawn[1]


class Logits:
    """A context whose model always says the same."""

    def __init__(self, *logits: float) -> None:
        self._logits = logits

    def logits(self, _index: int, _size: int) -> Any:
        return np.array(self._logits, np.float32)


def answer(count: int, *logits: float, **params: Any) -> list[int]:
    """The likeliest tokens."""
    sampler = Sampler(SamplingParams(temperature=0.0, **params), len(logits))
    context: Any = Logits(*logits)
    return [sampler.sample(context, 0) for _ in range(count)]


def test_a_penalty_for_presence_counts_once() -> None:
    assert answer(4, 1.0, 0.6, -9.0, presence_penalty=0.5) == [0, 1, 0, 0]


def test_a_penalty_for_frequency_counts_each_time() -> None:
    assert answer(5, 1.0, 0.6, -9.0, frequency_penalty=0.5) == [0, 1, 0, 1, 0]


def test_a_penalty_for_repetition_makes_any_sign_less_likely() -> None:
    assert answer(3, 1.0, 0.6, -9.0, repeat_penalty=2.0) == [0, 1, 0]
    assert answer(3, -1.0, -1.5, -9.0, repeat_penalty=2.0) == [0, 1, 0]


def test_a_penalty_for_repetition_forgets_what_is_long_past() -> None:
    tokens = answer(130, *(float(-token) - 1 for token in range(200)), repeat_penalty=1e6)
    assert tokens[:65] == [*range(64), 64]
    assert tokens[65] == 0


def test_penalties_see_what_was_not_sampled() -> None:
    sampler = Sampler(SamplingParams(temperature=0.0, frequency_penalty=1.0), 2)
    sampler.accept(0)
    context: Any = Logits(1.0, 0.5)
    assert sampler.sample(context, 0) == 1


def test_a_bias_counts_before_the_penalties() -> None:
    assert answer(2, 1.0, 0.0, logit_bias={1: 3.0}, repeat_penalty=4.0) == [1, 0]


def test_how_likely_a_token_was_is_told_before_the_parameters() -> None:
    params = SamplingParams(temperature=0.0, logprobs=2, logit_bias={2: 100.0})
    sampler = Sampler(params, 3)
    context: Any = Logits(*np.log([0.5, 0.3, 0.2]))
    assert sampler.sample(context, 0) == 2
    tokens, logprobs = zip(*sampler.likely, strict=True)
    assert tokens == (2, 0, 1)
    assert np.exp(logprobs) == pytest.approx([0.2, 0.5, 0.3], abs=1e-6)


def test_no_more_tokens_are_told_than_there_are() -> None:
    sampler = Sampler(SamplingParams(temperature=0.0, logprobs=20), 2)
    context: Any = Logits(0.0, 1.0)
    sampler.sample(context, 0)
    assert [token for token, _ in sampler.likely] == [1, 1, 0]
