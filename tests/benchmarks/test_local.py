"""The benchmark of local models runs and adds up. What it measures is nobody's test."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from benchmarks.local import report
from benchmarks.local.contenders import (
    BARE,
    BARE_NO_FLASH,
    OURS,
    SERVER,
    Setting,
    car,
    fresh_prompt,
    player,
    players,
    rendered,
)
from benchmarks.local.measure import decode, memory, streams
from benchmarks.local.model import Shape, model_file
from tests.workers.conftest import DEMO_MODEL

SETTING = Setting(DEMO_MODEL, 512, 1)


@pytest.mark.process
@pytest.mark.llama
async def test_our_process_is_measured() -> None:
    async with car(SETTING) as ours:
        assert await decode(ours, 8) > 0
        assert await decode(ours, 8, in_form=True) > 0
        assert memory(ours) > 10
        timings = await ours.ask(["Hello!", "Hi!"], 8)
    assert all(0 < timing.first_s < timing.whole_s for timing in timings)


@pytest.mark.process
@pytest.mark.llama
@pytest.mark.parametrize("title", [BARE, BARE_NO_FLASH])
async def test_a_bare_loop_is_measured(title: str) -> None:
    async with player(players(own=True)[title], SETTING) as bare:
        figures = await streams(bare, 3, 8)
        timings = await bare.ask(["Hello!", "Hi!"], 8)
    assert figures["3 streams, tokens/s"] > 0
    assert 0 < figures["3 streams, first to end / last"] <= 1
    assert all(0 < timing.first_s < timing.whole_s for timing in timings)


@pytest.mark.process
async def test_a_contender_that_ends_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="a contender ended"):
        async with player([sys.executable, "-c", ""], SETTING):
            pass


def test_prompts_begin_like_no_other_and_are_as_long_as_they_should() -> None:
    prompts = {fresh_prompt(200)[:7] for _ in range(5)}
    assert len(prompts) == 5
    assert len(fresh_prompt(200)) == 200
    assert rendered("Hi").startswith("<|im_start|>user\nHi<|im_end|>")


def test_a_model_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = Shape("tiny", 1, 64, 2, 1, 32, 128, 512)
    path = model_file(shape)
    assert path.read_bytes()[:4] == b"GGUF"
    made = path.stat().st_mtime_ns
    assert model_file(shape).stat().st_mtime_ns == made
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_ratio_is_taken_within_a_round() -> None:
    figure = "8 streams, tokens/s"
    rounds: list[report.Round] = [
        {OURS: {figure: ours}, BARE: {figure: bare}, SERVER: {figure: server}}
        for ours, bare, server in ((10.0, 5.0, 10.0), (9.0, 6.0, 3.0), (100.0, 50.0, 25.0))
    ]
    assert f"| {figure} | times best other | ≥ 0.97 | 1.50 (1.00 to 2.00) | met |" in (
        report.bars(rounds)
    )
    assert f"| {figure} | 10.0 | 6.0 | 10.0 |" in report.table(rounds)
