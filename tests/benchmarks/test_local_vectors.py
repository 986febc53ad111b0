"""The benchmark of vectors runs and adds up. What it measures is nobody's test."""

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from benchmarks.local import vectors
from benchmarks.local.bare import BareEncoder
from benchmarks.local.contenders import (
    BARE,
    COMPLETIONS,
    COMPLETIONS_SERVER,
    OURS,
    SERVER,
    Setting,
    player,
)
from benchmarks.local.servers import VECTOR_PROGRAMS, server
from tests.workers.conftest import DEMO_MODEL

pytestmark = pytest.mark.llama

SETTING = Setting(DEMO_MODEL, 512, 1)


@pytest.mark.process
async def test_our_process_is_measured() -> None:
    async with vectors.car(SETTING) as embed:
        assert await embed(["Hello!", "Hi!"]) > 0


@pytest.mark.process
@pytest.mark.parametrize("title", [BARE, COMPLETIONS])
async def test_the_others_are_measured(title: str) -> None:
    async with player(vectors.players(own=False)[title], SETTING) as other:
        assert await other.play(texts=["Hello!", "Hi!"]) > 0


@pytest.mark.process
async def test_a_server_is_measured() -> None:
    async with server(VECTOR_PROGRAMS[COMPLETIONS_SERVER], SETTING) as other:
        assert await other.embed(["Hello!", "Hi!"]) > 0


def test_a_text_has_the_same_vector_alone_as_among_more_than_fit_into_a_batch() -> None:
    encoder = BareEncoder(DEMO_MODEL, threads=1, context=64)
    texts = vectors.texts(9, 16)
    assert len({*texts}) == 9
    together = encoder.vectors(texts)
    alone = [encoder.vectors([text])[0].copy() for text in texts]
    assert np.allclose(np.linalg.norm(alone, axis=1), 1)
    assert all(float(a @ b) > 0.9999 for a, b in zip(alone, together, strict=True))


def test_the_figures_of_all_stand_side_by_side() -> None:
    figure = "128 texts of 16 words, texts/s"
    rounds = [{OURS: {figure: 30.0}, BARE: {figure: 40.0}, SERVER: {figure: 10.0}}]
    text = vectors.section(rounds)
    assert f"| {figure} | 30.0 | 40.0 | 10.0 |" in text
    assert f"| {figure} | times best other | ≥ 0.95 | 0.75 (0.75 to 0.75) | **missed** |" in text
