"""From the figures of all rounds to tables: medians, and ratios of what ran side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import tables
from benchmarks.local.contenders import (
    BARE,
    BARE_NO_FLASH,
    COMPLETIONS,
    COMPLETIONS_SERVER,
    NODE,
    OURS,
    SERVER,
)
from benchmarks.local.measure import Figures
from benchmarks.tables import Measured

#: One round: the figures of every contender, by title.
Round = dict[str, Figures]

TITLES = (OURS, BARE, BARE_NO_FLASH, COMPLETIONS, COMPLETIONS_SERVER, SERVER, NODE)

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
    Bar("128 tokens behind 3,072, tokens/s", BARE, 0.99, at_least=True),
    Bar("128 tokens behind 3,072, tokens/s", BARE_NO_FLASH, 0.99, at_least=True),
    Bar("3,200 tokens, tokens/s", BARE, 0.99, at_least=True),
    Bar("3,200 tokens, tokens/s", BARE_NO_FLASH, 0.99, at_least=True),
    Bar("8 streams, tokens/s", BEST, 0.97, at_least=True),
    Bar("in a form, of free", None, 0.97, at_least=True),
    Bar("first token, known prompt, less a step", None, 10, at_least=False),
    Bar("short behind long, steps", None, 3, at_least=False),
    Bar("cancel, p95", None, 50, at_least=False),
)


#: What is in a figure's name, and whether more of it is better; ``None`` for a part of another one.
BETTER = {"less a step": None, "/s": True, "memory": False, "first token": False}

#: Others may be ahead by so much, as a share.
SLACK = 0.05


def table(rounds: Sequence[Round], titles: Sequence[str] = TITLES) -> str:
    """Medians of each figure of each contender, as Markdown."""
    titles = [title for title in titles if any(title in each for each in rounds)]
    return tables.medians(rounds, titles, {name: name for each in rounds for name in each[OURS]})


def bars(rounds: Sequence[Round], wanted: Sequence[Bar] = BARS) -> str:
    """Each bar with the median of the rounds' ratios, and the least and the greatest of them."""
    return tables.bars(Measured(*bar, _ratios(rounds, bar)) for bar in wanted)


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


def ahead(rounds: Sequence[Round]) -> str:
    """Who is ahead of ours in which figure, by more than the slack, and how far, as Markdown."""
    lines = ["| figure | who is ahead | times |", "|---|---|---:|"]
    for figure in dict.fromkeys(name for each in rounds for name in each[OURS]):
        more = next((more for part, more in BETTER.items() if part in figure), None)
        for title in dict.fromkeys(title for each in rounds for title in each if title != OURS):
            both = [
                (each[title][figure], each[OURS][figure])
                for each in rounds
                if figure in each.get(title, {}) and figure in each[OURS]
            ]
            if more is None or not both:
                continue
            share = statistics.median(a / b if more else b / a for a, b in both)
            if share > 1 + SLACK:
                lines.append(f"| {figure} | {title} | {share:.2f} |")
    return "\n".join(lines)
