"""The benchmark of local models runs and adds up. What it measures is nobody's test."""

import asyncio
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from benchmarks.local import report
from benchmarks.local.contenders import (
    BARE,
    BARE_NO_FLASH,
    COMPLETIONS_SERVER,
    ENDED,
    OURS,
    SERVER,
    Direct,
    Setting,
    Timing,
    car,
    fresh_prompt,
    player,
    players,
    rendered,
)
from benchmarks.local.measure import decode, memory, streams
from benchmarks.local.model import Shape, model_file
from benchmarks.local.servers import PROGRAMS, Program, server
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
@pytest.mark.llama
async def test_a_server_is_measured() -> None:
    async with server(PROGRAMS[COMPLETIONS_SERVER], SETTING) as served:
        assert await decode(served, 8) > 0
        assert await decode(served, 8, in_form=True) > 0
        assert memory(served) > 10
        timings = await served.ask(["Hello!", "Hi!"], 8)
    assert all(0 < timing.first_s < timing.whole_s for timing in timings)


@pytest.mark.process
async def test_a_contender_that_ends_is_noticed() -> None:
    command = [sys.executable, "-c", ""]
    with pytest.raises(RuntimeError, match=ENDED):
        async with player(command, SETTING):
            pass
    with pytest.raises(RuntimeError, match=ENDED):
        async with server(Program(lambda _setting, _port: command, {}, {}), SETTING):
            pass


class Reader(Direct):
    """Reads a long prompt until a short one was answered."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self._answered = asyncio.Event()

    async def answer(self, prompt: str, tokens: int, *, in_form: bool = False) -> Timing:
        if prompt == "short":
            self._answered.set()
            return Timing(1, 1)
        try:
            await self._answered.wait()
        except asyncio.CancelledError:
            self.left.append(prompt)
            raise
        return Timing(2, 2)


async def test_a_short_prompt_comes_behind_a_long_one_that_goes_on_or_is_left() -> None:
    reader = Reader()
    assert await reader.ask_behind("long", "short", 0, abandon=False) == [(2, 2), (1, 1)]
    assert not reader.left
    reader = Reader()
    assert await reader.ask_behind("long", "short", 0, abandon=True) == [(1, 1)]
    await asyncio.sleep(0)
    assert reader.left == ["long"]


async def test_nobody_is_behind_a_prompt_that_was_read_before() -> None:
    with pytest.raises(AssertionError, match="too soon to tell"):
        await Reader().ask_behind("short", "short", 0, abandon=False)


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


def test_whoever_is_ahead_is_named() -> None:
    tokens, memory_mb, first = "128 tokens, tokens/s", "memory, MB", "first token, new prompt"
    rounds = [
        {
            OURS: {tokens: 100.0, memory_mb: 100.0, first: 10.0, f"{first}, less a step": 5.0},
            BARE: {tokens: 104.0, memory_mb: 80.0, first: 12.0, f"{first}, less a step": 1.0},
            SERVER: {tokens: 110.0, memory_mb: 100.0, first: 8.0},
        }
    ]
    assert report.ahead(rounds).splitlines()[2:] == [
        f"| {tokens} | {SERVER} | 1.10 |",
        f"| {memory_mb} | {BARE} | 1.25 |",
        f"| {first} | {SERVER} | 1.25 |",
    ]
