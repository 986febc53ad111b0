"""From the figures of all rounds to a table: medians, and ratios of what ran side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

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
    titles = [*rounds[0]]
    lines = [f"| | {' | '.join(titles)} |", f"|---{'|---:' * len(titles)}|"]
    for figure, meaning in COLUMNS.items():
        cells = [_cell(values(rounds, title, figure)) for title in titles]
        lines.append(f"| {meaning} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bars(rounds: Sequence[Round]) -> str:
    """Each bar with the median of the rounds' ratios, and the least and the greatest of them."""
    lines = ["| figure | compared with | wanted | measured | |", "|---|---|---|---|---|"]
    for bar in BARS:
        ratios = _ratios(rounds, bar)
        if not ratios:
            continue
        median = statistics.median(ratios)
        met = median >= bar.limit if bar.at_least else median <= bar.limit
        measured = f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        wanted = f"{'≥' if bar.at_least else '≤'} {bar.limit:g}"
        compared = f"times {bar.peer}" if bar.peer else "itself"
        verdict = "met" if met else "**missed**"
        lines.append(f"| {COLUMNS[bar.figure]} | {compared} | {wanted} | {measured} | {verdict} |")
    return "\n".join(lines)


def values(rounds: Sequence[Round], title: str, figure: str) -> list[float]:
    """A figure of a peer in all rounds that have it."""
    return [each[title][figure] for each in rounds if figure in each.get(title, {})]


def _ratios(rounds: Sequence[Round], bar: Bar) -> list[float]:
    ratios: list[float] = []
    for each in rounds:
        ours = each[OURS].get(bar.figure)
        theirs = 1.0 if bar.peer is None else each.get(bar.peer, {}).get(bar.theirs)
        if ours is not None and theirs is not None:
            ratios.append(ours / theirs)
    return ratios


def _cell(numbers: Sequence[float]) -> str:
    if not numbers:
        return "-"
    median = statistics.median(numbers)
    return f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
