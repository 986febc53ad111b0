"""From the figures of all rounds to a table: medians, and ratios of what ran side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import tables
from benchmarks.tables import Measured
from benchmarks.wire.measure import Figures

#: One round: the figures of every peer, by title.
Round = dict[str, Figures]

COLUMNS = {
    "start_ms": "start to first reply, ms",
    "p50_us": "ping p50, µs",
    "p99_us": "ping p99, µs",
    "requests_per_s": "pings/s, 64 in flight",
    "cpu_us_per_request": "CPU per ping, µs",
    "scripted_events_per_s": "stream events/s",
    "scripted_cpu_us_per_event": "CPU per event, µs",
    "relayed_events_per_s": "relayed events/s",
    "relayed_cpu_us_per_event": "CPU per relayed event, µs",
    "memory_mb": "memory, MB",
    "large_ms": "32 MiB echo, ms",
}

OURS = "car-rpc"
FLOOR = "asyncio + msgspec (floor)"
NODE = "vscode-jsonrpc"
MCP = "MCP Python"


class Bar(NamedTuple):
    """What is wanted of a figure of ours, as a ratio to a peer's of the same round.

    Attributes:
        figure: Our figure.
        peer: Whose figure it is compared with; ``None`` for the figure itself.
        theirs: Their figure.
        limit: At least, or at most, this.
        at_least: Whether more is better.
    """

    figure: str
    peer: str | None
    theirs: str
    limit: float
    at_least: bool


BARS = (
    Bar("start_ms", NODE, "start_ms", 0.6, at_least=False),
    Bar("start_ms", MCP, "start_ms", 0.15, at_least=False),
    Bar("p50_us", FLOOR, "p50_us", 1.4, at_least=False),
    Bar("cpu_us_per_request", NODE, "cpu_us_per_request", 0.6, at_least=False),
    Bar("requests_per_s", NODE, "requests_per_s", 2.0, at_least=True),
    Bar("requests_per_s", MCP, "requests_per_s", 20.0, at_least=True),
    Bar("scripted_events_per_s", NODE, "scripted_events_per_s", 2.0, at_least=True),
    Bar("relayed_events_per_s", NODE, "scripted_events_per_s", 1.0, at_least=True),
    Bar("memory_mb", None, "memory_mb", 40.0, at_least=False),
)


def table(rounds: Sequence[Round]) -> str:
    """Medians of each figure of each peer, as Markdown."""
    return tables.medians(rounds, [*rounds[0]], COLUMNS)


def bars(rounds: Sequence[Round]) -> str:
    """Each bar with the median of the rounds' ratios, and the least and the greatest of them."""
    return tables.bars(
        Measured(COLUMNS[bar.figure], bar.peer, bar.limit, bar.at_least, _ratios(rounds, bar))
        for bar in BARS
    )


def _ratios(rounds: Sequence[Round], bar: Bar) -> list[float]:
    ratios: list[float] = []
    for each in rounds:
        ours = each[OURS].get(bar.figure)
        theirs = 1.0 if bar.peer is None else each.get(bar.peer, {}).get(bar.theirs)
        if ours is not None and theirs is not None:
            ratios.append(ours / theirs)
    return ratios
