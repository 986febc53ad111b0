"""Measure what the event log costs, and write what came of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.eventlog import large
from benchmarks.eventlog.writers import WAYS, Way, answer
from car_rpc.wire.events import TextDelta

HERE = Path(__file__).parent

TEXT = """# What the event log costs

Written by `make bench-log` on {date}: {machine}.
{rounds} rounds, in which all ways take turns; a figure is the median of the rounds. The load of the
machine was {load} at the end.

## To write

{requests} answers of {events} events each, one after the other, in one process. *CPU* is that of
all threads. *Committed* is what a request waits for before a model is asked; the plain ways write
each event where it comes, and hold up the event loop for it. None but the event log numbers events
over processes, chains them, looks for secrets, and survives a kill with all that was answered.

{writing}

## To read

A log of {count:,} events, {size_mb:,} MB:

{reading}
"""


class Figures(NamedTuple):
    """One round of one way.

    Attributes:
        rate: Stream events per second.
        cpu_us: Processor time of a stream event, in microseconds.
        committed_ms: What requests waited for, in milliseconds: the half, and 99 %.
        event_bytes: Space of a stream event on the disk, with its part of the request's rows.
    """

    rate: float
    cpu_us: float
    committed_ms: tuple[float, float]
    event_bytes: float


async def one_round(way: Way, requests: int, events: int) -> Figures:
    """Write so many answers."""
    deltas = [TextDelta(text=f"word {number % 97} ") for number in range(events)]
    with tempfile.TemporaryDirectory() as folder:
        waits: list[float] = []
        async with way(Path(folder)) as writer:
            cpu, began = time.process_time(), time.perf_counter()
            for number in range(requests):
                waits += [await answer(writer, f"tr_{number}", deltas)]
            taken, cpu = time.perf_counter() - began, time.process_time() - cpu
        size = _size(Path(folder))
    total = requests * events
    p99 = statistics.quantiles(waits, n=100)[98]
    committed = (statistics.median(waits) * 1000, p99 * 1000)
    return Figures(total / taken, cpu / total * 1e6, committed, size / total)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def median(rounds: list[Figures]) -> Figures:
    """The median of each figure."""
    p50, p99 = zip(*(each.committed_ms for each in rounds), strict=True)
    return Figures(
        statistics.median(each.rate for each in rounds),
        statistics.median(each.cpu_us for each in rounds),
        (statistics.median(p50), statistics.median(p99)),
        statistics.median(each.event_bytes for each in rounds),
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """In Markdown."""
    lines = [head, ("---",) + ("---:",) * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eventlog", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100, help="in each round, of each way")
    parser.add_argument("--events", type=int, default=300, help="of each answer")
    parser.add_argument("--count", type=int, default=1_000_000, help="events of the large log")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the results")
    measure(parser.parse_args())


def measure(options: argparse.Namespace) -> None:
    """Measure what was asked for, and write it down."""
    rounds: dict[str, list[Figures]] = {name: [] for name in WAYS}
    for number in range(options.rounds):
        for name, way in WAYS.items():
            rounds[name].append(asyncio.run(one_round(way, options.requests, options.events)))
            print(f"{number + 1}/{options.rounds} {name}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "car.db"
        print(f"writing {options.count} events", file=sys.stderr)
        large.fill(path, options.count)
        size_mb = path.stat().st_size // 1_000_000
        reading = [*large.measured(path, options.count)]
    write(options, {name: median(each) for name, each in rounds.items()}, reading, size_mb)


def write(
    options: argparse.Namespace,
    figures: dict[str, Figures],
    reading: list[tuple[str, str]],
    size_mb: int,
) -> None:
    """Write the figures for people and for programs."""
    writing = [
        (
            name,
            f"{each.rate:,.0f}",
            f"{each.cpu_us:.1f}",
            f"{each.committed_ms[0]:.2f}",
            f"{each.committed_ms[1]:.2f}",
            f"{each.event_bytes:.0f}" if each.event_bytes else "-",
        )
        for name, each in figures.items()
    ]
    head = ("", "events/s", "CPU us/event", "committed, ms", "99 %", "bytes/event")
    text = TEXT.format(
        date=datetime.now(UTC).date(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}",
        load=f"{os.getloadavg()[0]:.1f}",
        rounds=options.rounds,
        requests=options.requests,
        events=options.events,
        count=options.count,
        size_mb=size_mb,
        writing=table(head, writing),
        reading=table(("", "time"), reading),
    )
    (options.output / "RESULTS.md").write_text(text, encoding="utf-8")
    found = {name: each._asdict() for name, each in figures.items()}
    results = {"writing": found, "reading": dict(reading)}
    (options.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
