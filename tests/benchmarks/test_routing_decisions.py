"""The decisions that are timed are whole ones, on real stores, files and backends."""

from pathlib import Path

from benchmarks.routing.decisions import decision_times, times_table


def test_decisions_over_two_hundred_models_are_timed(tmp_path: Path) -> None:
    times = decision_times(tmp_path, 3)
    assert {workload: len(taken) for workload, taken in times.items()} == {
        "interactive": 3,
        "background": 3,
    }
    assert min(min(taken) for taken in times.values()) > 0
    assert len(times_table(times).splitlines()) == 4
