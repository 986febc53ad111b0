"""How many threads compute beside other processes, with a machine that says what it did."""

import os
from pathlib import Path

import pytest

from car_rpc.workers.llama_cpp.threads import (
    WINDOW_S,
    Threads,
    Usage,
    processor_usage,
    rivals,
    usable_cores,
)


class Machine:
    """Runs for a while with so many cores in use by this process and by others."""

    def __init__(self) -> None:
        self.now = self.all_s = self.own_s = 0.0
        self.rivals = 0

    def run(self, seconds: float, own: float, others: float) -> None:
        self.now += seconds
        self.own_s += seconds * own
        self.all_s += seconds * (own + others)

    def threads(self, most: int, cores: int) -> Threads:
        def usage() -> Usage:
            return Usage(self.all_s, self.own_s)

        return Threads(most, cores, usage, lambda: self.rivals, lambda: self.now)


@pytest.mark.parametrize(
    ("most", "cores", "others", "count"),
    [
        (2, 2, 0.1, 2),
        (2, 2, 0.6, 1),
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),
        (7, 8, 0.9, 7),  # the core that is left free anyway
        (7, 8, 3.0, 5),
        (7, 8, 8.0, 1),
        (1, 8, 0.0, 1),
    ],
)
def test_no_more_threads_run_than_others_leave_cores(
    most: int, cores: int, others: float, count: int
) -> None:
    machine = Machine()
    threads = machine.threads(most, cores)
    assert threads.count() == most
    machine.run(WINDOW_S, own=most, others=others)
    assert threads.count() == count


def test_all_threads_are_back_when_the_others_are_gone() -> None:
    machine = Machine()
    threads = machine.threads(2, 2)
    machine.run(WINDOW_S, own=1, others=1)
    assert threads.count() == 1
    machine.run(WINDOW_S / 2, own=1, others=0)
    assert threads.count() == 1  # too short a time to tell
    machine.run(WINDOW_S / 2, own=1, others=0)
    assert threads.count() == 2


@pytest.mark.parametrize(("rivals", "count"), [(0, 2), (1, 1), (5, 1)])
def test_after_an_idle_time_counts_who_is_there_now_and_not_who_was(
    rivals: int, count: int
) -> None:
    machine = Machine()
    threads = machine.threads(2, 2)
    machine.run(60, own=0, others=2 - min(rivals, 2))
    machine.rivals = rivals
    assert threads.count() == count


def test_a_rival_is_who_wants_a_core_at_each_look(tmp_path: Path) -> None:
    def rivals_of(*running: int, cores: int) -> int:
        stat = tmp_path / "stat"
        looks = iter(running)

        def look(_seconds: float = 0) -> None:
            stat.write_text(f"cpu 1 2 3\nprocs_running {next(looks)}\nprocs_blocked 7\n")

        look()
        return rivals(cores, stat, look)

    here = os.cpu_count() or 1
    assert rivals_of(1, cores=here) == 0
    assert rivals_of(3, 2, 4, cores=here) == 1
    assert rivals_of(3, 1, cores=here) == 0, "it had only a message to pass on"
    assert rivals_of(here + 2, here + 2, here + 2, cores=1) == 2, "others have the other cores"
    assert rivals(1, tmp_path / "absent") == 0


def test_where_nothing_is_known_of_others_all_threads_run() -> None:
    machine = Machine()
    threads = Threads(2, 2, lambda: None, lambda: 2, lambda: machine.now)
    machine.run(WINDOW_S, own=1, others=1)
    assert threads.count() == 2


def test_the_kernels_counters_are_read(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    idle = "cpu{} 100 0 0 {} 50 0 0 0 0 0"
    stat.write_text("\n".join([idle.format("", 9), idle.format(0, 5), idle.format(99999, 4)]))
    before = processor_usage(stat)
    stat.write_text(stat.read_text().replace("cpu0 100 0 0 5 50 0", "cpu0 150 20 10 500 900 5"))
    after = processor_usage(stat)
    assert before is not None
    assert after is not None
    assert after.all_s - before.all_s == pytest.approx(0.85)
    assert after.own_s >= before.own_s
    assert processor_usage(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_a_container_has_the_cores_of_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores
