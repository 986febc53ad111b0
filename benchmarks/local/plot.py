"""Draw the speeds of all contenders beside ours. Runs where matplotlib is: beside the peers."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "car-rpc"

Rounds = list[dict[str, dict[str, float]]]


def main() -> None:
    """Draw the rounds of a file of results."""
    results, picture = map(Path, sys.argv[1:])
    rounds: Rounds = json.loads(results.read_text(encoding="utf-8"))
    ours, *others = rounds[0]
    speeds = [figure for figure in rounds[0][ours] if figure.endswith("tokens/s")]
    figure, axes = pyplot.subplots(figsize=(9, 0.9 * len(speeds) + 1), layout="constrained")
    height = 0.8 / (len(others) + 1)
    for place, title in enumerate([ours, *others]):
        shares = [share(rounds, ours, title, speed) for speed in speeds]
        rows = [row + place * height for row in range(len(speeds))]
        axes.barh(rows, shares, height, label=title)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(speeds))], speeds)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xlabel(f"times {ours}: median of the rounds' ratios; more is faster")
    axes.legend(fontsize="small")
    figure.savefig(picture, metadata={"Date": None})


def share(rounds: Rounds, ours: str, title: str, figure: str) -> float:
    """How fast somebody is beside us; 0 where that was not measured."""
    ratios = [
        each[title][figure] / each[ours][figure] for each in rounds if figure in each.get(title, {})
    ]
    return statistics.median(ratios) if ratios else 0


if __name__ == "__main__":
    main()
