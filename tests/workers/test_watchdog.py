import threading

import pytest

from car_rpc.workers import watchdog
from car_rpc.workers.watchdog import HUNG_TICKS, Watchdog


class Process:
    """A process whose processor time a test sets."""

    def __init__(self) -> None:
        self.cpu_time = 5.0
        self.hung = threading.Event()
        self.dog = Watchdog(self.hung.set, lambda: self.cpu_time)

    def looks(self, count: int) -> list[bool]:
        return [self.dog.tick() for _ in range(count)]


def test_a_step_that_stands_still_hangs_in_the_end() -> None:
    process = Process()
    with process.dog.step():
        assert process.looks(HUNG_TICKS) == [False] * HUNG_TICKS  # the first one sees it begin
        assert process.dog.tick()


def test_a_slow_step_that_computes_does_not_hang() -> None:
    process = Process()
    with process.dog.step():
        for _ in range(3 * HUNG_TICKS):
            process.cpu_time += 0.01
            assert not process.dog.tick()


def test_waiting_for_work_is_no_hang() -> None:
    process = Process()
    assert not any(process.looks(3 * HUNG_TICKS))


def test_each_step_has_its_own_time() -> None:
    process = Process()
    for _ in range(5):
        with process.dog.step():
            assert not any(process.looks(HUNG_TICKS))


def test_a_step_that_failed_is_over() -> None:
    process = Process()
    with pytest.raises(ValueError, match="bad"), process.dog.step():
        raise ValueError("bad")
    assert not any(process.looks(3 * HUNG_TICKS))


def test_the_watching_thread_reports_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TICK_S", 0)
    process = Process()
    with process.dog.step():
        process.dog.start()
        assert process.hung.wait(30)
