"""From the figures of all rounds to a table: medians, and ratios of what ran side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.http.clients import BACKEND, OPENAI, PROCESS

#: One round: the figures of every client, by the name of the measurement and the client's.
Round = dict[str, dict[str, float]]

HEAD = [OPENAI, BACKEND, "ratio", PROCESS, "ratio"]


def table(rounds: Sequence[Round]) -> str:
    """Medians of each measurement in milliseconds, and the ratios with their least and greatest."""
    lines = [f"| | {' | '.join(HEAD)} |", f"|---{'|---:' * len(HEAD)}|"]
    for name in rounds[0]:
        cells = [_median(rounds, name, OPENAI)]
        for client in (BACKEND, PROCESS):
            cells += [_median(rounds, name, client), _ratio(rounds, name, client)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(rounds: Sequence[Round], name: str, client: str) -> str:
    return f"{statistics.median(each[name][client] for each in rounds):.2f}"


def _ratio(rounds: Sequence[Round], name: str, client: str) -> str:
    ratios = [each[name][client] / each[name][OPENAI] for each in rounds]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
