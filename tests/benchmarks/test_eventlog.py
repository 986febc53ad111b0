"""The benchmark of the event log runs and adds up. What it measures is nobody's test."""

import json
from argparse import Namespace
from pathlib import Path

from benchmarks.eventlog.__main__ import Figures, measure, median
from benchmarks.eventlog.writers import WAYS


def test_a_small_round_fills_both_tables(tmp_path: Path) -> None:
    measure(Namespace(rounds=1, requests=2, events=20, count=4000, output=tmp_path))
    found = json.loads((tmp_path / "results.json").read_text())
    assert [*found["writing"]] == [*WAYS]
    assert all(each["rate"] > 0 and each["cpu_us"] > 0 for each in found["writing"].values())
    assert found["writing"]["redacted (default)"]["event_bytes"] > 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| SQLite, one insert per event |" in text
    assert "| verify |" in text


def test_each_figure_is_its_own_median() -> None:
    rounds = [Figures(1, 9, (5, 50), 3), Figures(3, 7, (4, 70), 2), Figures(2, 8, (6, 60), 1)]
    assert median(rounds) == Figures(2, 8, (5, 60), 2)
