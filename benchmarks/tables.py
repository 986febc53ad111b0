"""From the figures of rounds to Markdown: medians, and bars with the range of their ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

#: One round: the figures of everybody who took part, by title.
Round: TypeAlias = Mapping[str, Mapping[str, float]]


class Measured(NamedTuple):
    """What became of a bar.

    Attributes:
        figure: What was measured, in words.
        peer: Whose figure of the same round it is a ratio to; ``None`` for the figure itself.
        limit: At least, or at most, this is wanted.
        at_least: Whether more is better.
        ratios: The ratio, or the figure, in each round.
    """

    figure: str
    peer: str | None
    limit: float
    at_least: bool
    ratios: Sequence[float]


def medians(rounds: Sequence[Round], titles: Sequence[str], figures: Mapping[str, str]) -> str:
    """Medians of each figure of everybody; ``figures`` gives each its words."""
    lines = [f"| | {' | '.join(titles)} |", f"|---{'|---:' * len(titles)}|"]
    for figure, words in figures.items():
        cells = [_cell(values(rounds, title, figure)) for title in titles]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bars(measured: Iterable[Measured]) -> str:
    """Each bar with the median of the rounds' ratios, and the least and the greatest of them."""
    lines = ["| figure | compared with | wanted | measured | |", "|---|---|---|---|---|"]
    for bar in measured:
        if not bar.ratios:
            continue
        median = statistics.median(bar.ratios)
        met = median >= bar.limit if bar.at_least else median <= bar.limit
        cells = (
            bar.figure,
            f"times {bar.peer}" if bar.peer else "itself",
            f"{'≥' if bar.at_least else '≤'} {bar.limit:g}",
            f"{median:.2f} ({min(bar.ratios):.2f} to {max(bar.ratios):.2f})",
            "met" if met else "**missed**",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def values(rounds: Sequence[Round], title: str, figure: str) -> list[float]:
    """A figure of somebody in all rounds that have it."""
    return [each[title][figure] for each in rounds if figure in each.get(title, {})]


def _cell(numbers: Sequence[float]) -> str:
    if not numbers:
        return "-"
    median = statistics.median(numbers)
    return f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
