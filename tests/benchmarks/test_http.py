"""The benchmark of HTTP runs and adds up. What it measures is nobody's test."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.http import report
from benchmarks.http.__main__ import measure, write
from benchmarks.http.clients import BACKEND, OPENAI, PROCESS


@pytest.mark.process
async def test_a_small_round_fills_the_table(tmp_path: Path) -> None:
    options = Namespace(rounds=1, requests=2, tokens=5, scripted=True, output=tmp_path)
    rounds = await measure(options)
    write(rounds, options)
    assert json.loads((tmp_path / "results.json").read_text()) == rounds
    assert rounds[0].keys() == {"scripted: first piece", "scripted: whole answer"}
    for times in rounds[0].values():
        assert times.keys() == {OPENAI, BACKEND, PROCESS}
        assert all(value > 0 for value in times.values())
    assert "| scripted: whole answer |" in (tmp_path / "RESULTS.md").read_text()


def test_a_ratio_is_taken_within_a_round() -> None:
    rounds: list[report.Round] = [
        {"x": {OPENAI: theirs, BACKEND: ours, PROCESS: theirs}}
        for theirs, ours in ((10, 5), (10, 6), (100, 70))
    ]
    assert "| x | 10.00 | 6.00 | 0.60 (0.50 to 0.70) | 10.00 | 1.00 (1.00 to 1.00) |" in (
        report.table(rounds)
    )
