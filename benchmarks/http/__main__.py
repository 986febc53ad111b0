"""Measure what our way over HTTP costs, and write what came of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import openai

from benchmarks.http import report
from benchmarks.http.clients import Ask, Question, clients
from tests.servers.real import llama_cpp_server, mlx_lm_server
from tests.servers.scripted import ScriptedServer, said

HERE = Path(__file__).parent

#: What is measured of one answer.
FIGURES = ("first piece", "whole answer")

TEXT = """# What HTTP costs

Written by `make bench-http` on {date}: {machine}, {versions}.
{rounds} rounds of {requests} answers of {tokens} tokens from each server for each client, who take
turns, one answer each, so that what else the machine does falls on all of them. A figure is the
median of a round, then of the rounds, in milliseconds; a ratio is to the openai client within a
round, with the least and the greatest of them. The load of the machine was {load} at the end.

{table}

The *scripted* server answers at once, in one piece, so that the clients' own work is what counts;
the other two run the demo model, and the time is theirs. *car-rpc, the process* is what an app
gets: the server's events through the engine and the event log to another process, by the Python
client.
"""


def main() -> None:
    """Run the rounds that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20, help="in each round, of each client")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")
    parser.add_argument("--scripted", action="store_true", help="only the scripted server")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the results")
    options = parser.parse_args()
    rounds = asyncio.run(measure(options))
    write(rounds, options)


async def measure(options: argparse.Namespace) -> list[report.Round]:
    """Measure every server in every round."""
    rounds: list[report.Round] = [{} for _ in range(options.rounds)]
    async for name, question in questions(options.tokens, scripted=options.scripted):
        with tempfile.TemporaryDirectory() as state_dir:
            async with clients(question, Path(state_dir)) as asks:
                texts = {who: (await ask())[0] for who, ask in asks.items()}  # warms all up
                assert len(set(texts.values())) == 1, f"the answers differ: {texts}"
                for number in range(options.rounds):
                    rounds[number] |= await one_round(name, asks, options.requests)
                    print(f"{number + 1}/{options.rounds} {name}", file=sys.stderr)
    return rounds


async def questions(tokens: int, *, scripted: bool) -> AsyncGenerator[tuple[str, Question], None]:
    """Each server's title and what to ask it, while it runs."""
    async with ScriptedServer().running() as server:
        server.reply(said(*[f"word {number} " for number in range(tokens)]))
        yield "scripted", Question(server.url, "any", tokens)
    if not scripted:
        with llama_cpp_server() as real:
            yield "llama-cpp-python", Question(real.url, real.model, tokens)
        with mlx_lm_server() as real:
            yield "mlx_lm.server", Question(real.url, real.model, tokens)


async def one_round(name: str, asks: dict[str, Ask], requests: int) -> report.Round:
    """So many answers for each client, one by one in turns."""
    taken: dict[str, list[tuple[float, float]]] = {who: [] for who in asks}
    for number in range(requests):
        first = number % len(asks)  # nobody always follows the same one
        for who in [*asks][first:] + [*asks][:first]:
            _, first_s, whole_s = await asks[who]()
            taken[who].append((first_s, whole_s))
    return {
        f"{name}: {figure}": {
            who: statistics.median(each[position] for each in times) * 1000
            for who, times in taken.items()
        }
        for position, figure in enumerate(FIGURES)
    }


def write(rounds: list[report.Round], options: argparse.Namespace) -> None:
    """Write RESULTS.md for people and results.json with every figure."""
    python = f"Python {platform.python_version()}"
    text = TEXT.format(
        date=datetime.now(UTC).date(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        versions=f"{python}, openai {openai.__version__}, httpx {httpx.__version__}",
        rounds=len(rounds),
        requests=options.requests,
        tokens=options.tokens,
        load=f"{os.getloadavg()[0]:.1f}",
        table=report.table(rounds),
    )
    (options.output / "RESULTS.md").write_text(text, encoding="utf-8")
    results = json.dumps(rounds, indent=1) + "\n"
    (options.output / "results.json").write_text(results, encoding="utf-8")


if __name__ == "__main__":
    main()
