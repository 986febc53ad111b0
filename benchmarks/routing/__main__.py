"""Let every policy live through the same worlds, and write what it cost; then time a decision."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.routing.decisions import COUNT as MODELS
from benchmarks.routing.decisions import decision_times, times_table
from benchmarks.routing.policies import POLICIES
from benchmarks.routing.world import COUNT, World

HERE = Path(__file__).parent

#: The circuit breaker that stands before every policy: this many failures in a row shut a model
#: off for so long.
THRESHOLD = 5
COOLDOWN_MS = 30_000.0

#: Two-sided 95 % of Student's distribution, by degrees of freedom; the last one beyond.
STUDENT = {19: 2.093, 23: 2.069, 29: 2.045, 39: 2.023, 59: 2.001}

#: What the others are compared with.
OURS = "car-rpc"

#: Points of a curve in the plot.
POINTS = 120

TEXT = """# How well models are chosen

Written by `make bench-routing` on {date}: {machine}, {versions}.
{seeds} worlds of {length} requests each; every policy lives through the same worlds. Figures are
means over the worlds with 95 % confidence intervals (Student).

{table}

![Regret over time]({plot})

*regret* is what the answers were worth less than those of the best model at that moment, summed
over all requests; *beyond car-rpc's* is the difference within each world. The worth of an answer is
the router's own score with its default weights, taken on the true quality, latency, price and
chance to fail. *quality* is the share of requests whose answer was accepted. *spend* is for all
requests; *failed* are those whose one attempt failed.

A world ({file}) has {count} models, from a small local one to a very dear one, and three tasks.
Quality, the chance that an answer is accepted, drifts all the time; three times a model loses 0.35
of it for a while, five times one fails 60 % of its requests, three times one is four times slower.
Benchmarks told each policy the first quality, give or take 0.08. Three in ten requests are
background work, on which car-rpc explores; on the others it does not. A circuit breaker (5 failures
in a row, 30 s) stands before every policy, and there is no second attempt.

The rows of car-rpc tell what exploring costs and brings. LiteLLM's strategies are its own classes
(litellm {litellm}), called as its router calls them. They are made for deployments of one model and
are not told of quality, so this also shows what they are not for. Our policy is judged by its own
idea of worth; the other columns are there so that another one can be applied.

## How long a decision takes

Time of the processor for {decisions} decisions as the engine makes them, over {answering} models
that can answer (a third each: files, servers with keys and prices, models of the app) and those of
the curated catalog, which are not on this machine: the request's needs, tokens and complexity,
whether each model is there, what it has shown, its breaker, memory and cost, and the choice. Every
file is looked at and every store is asked each time.

{times}
"""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the results")
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in POLICIES}
    curves: dict[str, list[list[float]]] = {name: [] for name in POLICIES}
    for seed in range(options.seeds):
        world = World(seed, options.requests)
        for name in POLICIES:
            row, curve = live(world, name)
            results[name].append(row)
            curves[name].append(curve)
        print(f"world {seed + 1}/{options.seeds}", file=sys.stderr)
    write(results, curves, options.output, options.requests)


def live(world: World, name: str) -> tuple[dict[str, float], list[float]]:
    """Let a policy choose for all requests of a world; returns its sums and its regret so far."""
    policy = POLICIES[name](world)
    failures, shut_until = [0] * COUNT, [0.0] * COUNT
    regret = quality = latency = spend = failed = 0.0
    curve: list[float] = []
    for request in world.requests:
        healthy = [m for m in range(COUNT) if shut_until[m] <= request.now_ms]
        model = policy.choose(request, healthy or list(range(COUNT)))
        outcome = world.outcome(request, model)
        policy.learn(request, model, outcome)
        failures[model] = 0 if outcome.succeeded else failures[model] + 1
        if failures[model] >= THRESHOLD:
            shut_until[model] = request.now_ms + COOLDOWN_MS
        values = [world.value(request, other) for other in range(COUNT)]
        regret += max(values) - values[model]
        quality += outcome.quality
        latency += outcome.latency_ms
        spend += outcome.cost_usd
        failed += not outcome.succeeded
        curve.append(regret)
    count = len(world.requests)
    row = {
        "regret": regret,
        "quality": quality / count,
        "latency_ms": latency / count,
        "spend_usd": spend,
        "failed": failed,
    }
    step = max(1, count // POINTS)
    return row, curve[step - 1 :: step]


def interval(values: list[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % confidence interval."""
    if len(values) < 2:
        return values[0], math.nan
    free = len(values) - 1
    student = next((STUDENT[n] for n in sorted(STUDENT, reverse=True) if n <= free), 2.776)
    return statistics.mean(values), student * statistics.stdev(values) / math.sqrt(len(values))


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """The results as a table, the least regret first."""
    lines = [
        "| policy | regret | beyond car-rpc's | quality | latency, ms | spend, USD | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = column(results, OURS, "regret")
    for name in sorted(results, key=lambda name: interval(column(results, name, "regret"))[0]):
        regret = column(results, name, "regret")
        beyond = [theirs - own for theirs, own in zip(regret, ours, strict=True)]
        cells = [shown(regret, 1), "" if name == OURS else shown(beyond, 1)]
        for measure, places in (("quality", 3), ("latency_ms", 0), ("spend_usd", 2), ("failed", 1)):
            cells.append(shown(column(results, name, measure), places))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(values: list[float], places: int) -> str:
    """A mean with its interval."""
    mean, half = interval(values)
    return f"{mean:.{places}f} ± {half:.{places}f}"


def column(results: dict[str, list[dict[str, float]]], name: str, measure: str) -> list[float]:
    """One measure of one policy, by world."""
    return [row[measure] for row in results[name]]


def plot(curves: dict[str, list[list[float]]], path: Path, length: int) -> None:
    """Draw the mean regret over time, with its interval."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "car-rpc"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, runs in curves.items():
        points = [interval(list(at)) for at in zip(*runs, strict=True)]
        step = length / len(points)
        times = [round(step * (index + 1)) for index in range(len(points))]
        (line,) = axes.plot(times, [mean for mean, _ in points], label=name, linewidth=1.2)
        low, high = [m - h for m, h in points], [m + h for m, h in points]
        axes.fill_between(times, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="requests", ylabel="regret so far (mean, 95 %)", xlim=(0, length))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def write(
    results: dict[str, list[dict[str, float]]],
    curves: dict[str, list[list[float]]],
    folder: Path,
    length: int,
) -> None:
    """Write RESULTS.md and the plot for people, and results.json with every figure."""
    with TemporaryDirectory() as scratch:
        times = decision_times(Path(scratch), 1000)
    plot(curves, folder / "regret.svg", length)
    text = TEXT.format(
        date=datetime.now(UTC).date(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        versions=f"Python {platform.python_version()}",
        seeds=len(next(iter(results.values()))),
        length=length,
        table=table(results),
        plot="regret.svg",
        file="`world.py`",
        count=COUNT,
        litellm=version("litellm"),
        decisions=len(times["interactive"]),
        answering=MODELS,
        times=times_table(times),
    )
    (folder / "RESULTS.md").write_text(text, encoding="utf-8")
    rounded = {
        name: [{measure: round(value, 4) for measure, value in row.items()} for row in rows]
        for name, rows in results.items()
    }
    (folder / "results.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
