"""Measure what a step of several tokens of one text takes, in steps of one: what guesses cost.

``python -m benchmarks.local.rows``, on one thread, in processor time: that bears a busy machine.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.local.bare import FLASH_OFF, BareLoop
from benchmarks.local.model import REAL, model_file

#: Tokens that are read before.
BEFORE = 300

ROUNDS = 7


def main() -> None:
    """Print a line for each number of tokens."""
    loop = BareLoop(model_file(REAL), threads=1, context=1024, flash_attn_type=FLASH_OFF)
    text = loop.tokens("all work and no play makes a dull day " * 40)
    loop.clear()
    loop.read(text[:BEFORE])
    times_s: dict[int, list[float]] = {rows: [] for rows in (1, 2, 4, 8, 16)}
    for _ in range(ROUNDS):
        for rows, measured in times_s.items():
            loop.keep_beginning(text[:BEFORE], text)
            started = time.process_time()
            loop.step([(text[BEFORE + row], BEFORE + row, 0) for row in range(rows)])
            measured.append(time.process_time() - started)
    one = statistics.median(times_s[1])
    for rows, measured in times_s.items():
        taken = statistics.median(measured)
        print(f"{rows:2} tokens: {taken * 1000:6.1f} ms, {taken / one:.2f} steps")


if __name__ == "__main__":
    main()
