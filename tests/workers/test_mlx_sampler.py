"""Which token MLX chooses, beside the plain definition of each step."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from car_rpc.wire.worker import SamplingParams
from tests.workers.odds import CUTS, LOGITS, odds

pytest.importorskip("mlx_lm")

from car_rpc.workers.mlx.native import mx
from car_rpc.workers.mlx.sampler import Sampler

pytestmark = pytest.mark.mlx


def log_probabilities(logits: list[float]) -> Any:
    row = mx.array([logits])
    return row - mx.logsumexp(row, axis=-1, keepdims=True)


@given(logits=LOGITS, **CUTS)
def test_every_token_is_as_likely_as_the_parameters_say(logits: list[float], **cuts: Any) -> None:
    params = SamplingParams(seed=0, **cuts)
    drawn_from: list[Any] = []

    def draw(scores: Any, key: Any) -> Any:
        del key
        drawn_from.append(np.array(mx.softmax(scores, axis=-1))[0])
        return mx.argmax(scores, axis=-1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx.random, "categorical", draw)
        token = int(Sampler(params, len(logits), 0).choose(log_probabilities(logits)).item())
    expected = odds(logits, params)
    # With a share of nothing the likeliest token is all there is to draw from.
    found = drawn_from[0] if drawn_from else np.eye(len(logits))[token]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = [0.0, 1.0, 2.0, -1.0]
    params = SamplingParams(seed=5, temperature=1.0, top_p=0.99)
    sampler, row, draws = Sampler(params, len(logits), 0), log_probabilities(logits), 1000
    tokens = [int(sampler.choose(row).item()) for _ in range(draws)]
    shares = np.bincount(tokens, minlength=len(logits)) / draws
    np.testing.assert_allclose(shares, odds(logits, params), atol=4 * 0.5 / draws**0.5)


@pytest.mark.parametrize("temperature", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_what_is_not_allowed_is_never_chosen(temperature: float, top_p: float) -> None:
    logits = [-np.inf] * 1000
    logits[500] = 3.0
    params = SamplingParams(temperature=temperature, top_p=top_p, seed=1)
    sampler = Sampler(params, len(logits), 0)
    assert {int(sampler.choose(log_probabilities(logits)).item()) for _ in range(20)} == {500}
