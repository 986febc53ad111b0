"""Notices that the engine's thread hangs, so that the core can start a fresh worker."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: How often it looks, in seconds.
TICK_S = 1.0

#: Looks in a row that find a step at a standstill before it counts as hung. A GPU needs far less
#: for a step, and a slow processor is seen to be at work.
HUNG_TICKS = 120

#: Processor time between two looks that counts as work, in seconds: more than a look takes.
WORK_S = 0.001


class Watchdog:
    """Watches steps for a standstill: the same step goes on, and the process computes nothing.

    How long a step may take cannot be said beforehand: a large model on a slow processor takes
    minutes for one. But then the processor is busy, and where a GPU computes, steps are short.

    Args:
        on_hang: Called once, from the watching thread.
        cpu_time: Processor time of this process, in seconds.
    """

    def __init__(
        self, on_hang: Callable[[], None], cpu_time: Callable[[], float] = time.process_time
    ) -> None:
        self._on_hang = on_hang
        self._cpu_time = cpu_time
        self._step: object | None = None  # the one at work
        self._seen: object | None = None
        self._seen_cpu_time = 0.0
        self._standstill = 0

    def start(self) -> None:
        """Watch for the rest of the process's life."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def step(self) -> Generator[None]:
        """A step of the engine."""
        self._step = object()
        try:
            yield
        finally:
            self._step = None

    def tick(self) -> bool:
        """Look once; returns whether the step hangs."""
        step, cpu_time = self._step, self._cpu_time()
        works = cpu_time - self._seen_cpu_time >= WORK_S
        if step is None or step is not self._seen or works:
            self._standstill = 0
        else:
            self._standstill += 1
        self._seen, self._seen_cpu_time = step, cpu_time
        return self._standstill >= HUNG_TICKS

    def _watch(self) -> None:
        pause = threading.Event()
        while not self.tick():
            pause.wait(TICK_S)
        self._on_hang()
