"""The benchmark of MLX models runs and adds up. What it measures is nobody's test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("mlx_lm")

from benchmarks.local import mlx
from benchmarks.local.contenders import OURS, Contender, Setting, car, player
from benchmarks.local.measure import decode, streams
from benchmarks.local.servers import MLX, server

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with mlx.endless_folder() as path:
        yield path


async def check(contender: Contender) -> None:
    """It answers one and several prompts, with so many tokens that none ends before."""
    assert await decode(contender, 40) > 0
    assert (await streams(contender, 2, 4))["2 streams, tokens/s"] > 0
    timings = await contender.ask(["Hello!", "Hi!"], 4)
    assert all(0 < timing.first_s < timing.whole_s for timing in timings)


@pytest.mark.process
async def test_our_process_is_measured(folder: Path) -> None:
    async with car(Setting(folder, 512, 1)) as ours:
        await check(ours)


@pytest.mark.process
async def test_the_bare_loop_is_measured(folder: Path) -> None:
    async with player(mlx.LOOP, Setting(folder, 512, 1)) as contender:
        await check(contender)


@pytest.mark.process
async def test_the_server_is_measured(folder: Path) -> None:
    async with server(MLX, Setting(folder, 512, 1)) as contender:
        await check(contender)


def test_the_figures_of_all_stand_side_by_side() -> None:
    figure = "4 streams, tokens/s"
    rounds = [{OURS: {figure: 19.0}, mlx.BARE: {figure: 20.0}, mlx.SERVER: {figure: 10.0}}]
    text = mlx.section(rounds)
    assert f"| {figure} | 19.0 | 20.0 | 10.0 |" in text
    assert f"| {figure} | times {mlx.BARE} | ≥ 0.95 | 0.95 (0.95 to 0.95) | met |" in text


def test_without_rounds_it_says_why() -> None:
    assert "mlx-lm is not installed" in mlx.section([])
