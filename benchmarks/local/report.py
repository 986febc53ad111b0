"""From the figures of all rounds to tables: medians, and ratios of what ran side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.local.contenders import BARE, BARE_NO_FLASH, COMPLETIONS, NODE, OURS, SERVER
from benchmarks.local.measure import Figures

#: One round: the figures of every contender, by title.
Round = dict[str, Figures]

TITLES = (OURS, BARE, BARE_NO_FLASH, COMPLETIONS, SERVER, NODE)

#: The best of all others.
BEST = "best other"


class Bar(NamedTuple):
    """What is wanted of a figure of ours.

    Attributes:
        figure: The figure.
        peer: Whose figure of the same round it is a ratio to; ``None`` for the figure itself.
        limit: At least, or at most, this.
        at_least: Whether more is better.
    """

    figure: str
    peer: str | None
    limit: float
    at_least: bool


BARS = (
    Bar("128 tokens, tokens/s", BARE, 0.99, at_least=True),
    Bar("3,200 tokens, tokens/s", BARE, 0.99, at_least=True),
    Bar("3,200 tokens, tokens/s", BARE_NO_FLASH, 0.99, at_least=True),
    Bar("8 streams, tokens/s", BEST, 0.97, at_least=True),
    Bar("first token, known prompt, less a step", None, 10, at_least=False),
    Bar("short behind long, steps", None, 3, at_least=False),
    Bar("cancel, p95", None, 50, at_least=False),
)


def table(rounds: Sequence[Round]) -> str:
    """Medians of each figure of each contender, as Markdown."""
    titles = [title for title in TITLES if any(title in each for each in rounds)]
    figures = dict.fromkeys(name for each in rounds for name in each[OURS])
    lines = [f"| | {' | '.join(titles)} |", f"|---{'|---:' * len(titles)}|"]
    for figure in figures:
        cells = [_cell(values(rounds, title, figure)) for title in titles]
        lines.append(f"| {figure} | {' | '.join(cells)} |")
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
        lines.append(
            f"| {bar.figure} | {compared} | {wanted} | {measured} |"
            f" {'met' if met else '**missed**'} |"
        )
    return "\n".join(lines)


def values(rounds: Sequence[Round], title: str, figure: str) -> list[float]:
    """A figure of a contender in all rounds that have it."""
    return [each[title][figure] for each in rounds if figure in each.get(title, {})]


def _ratios(rounds: Sequence[Round], bar: Bar) -> list[float]:
    ratios: list[float] = []
    for each in rounds:
        ours = each[OURS].get(bar.figure)
        if ours is None:
            continue
        if bar.peer is None:
            ratios.append(ours)
            continue
        peers = [title for title in each if title != OURS] if bar.peer == BEST else [bar.peer]
        theirs = [each[peer][bar.figure] for peer in peers if bar.figure in each.get(peer, {})]
        if theirs:
            ratios.append(ours / max(theirs))
    return ratios


def _cell(numbers: Sequence[float]) -> str:
    if not numbers:
        return "-"
    median = statistics.median(numbers)
    return f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
