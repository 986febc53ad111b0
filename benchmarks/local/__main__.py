"""Measure local models beside a bare loop and other programs, and write what came of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import llama_cpp

from benchmarks.local import measure, mlx, report, vectors
from benchmarks.local.contenders import (
    FORMERS,
    LISTENERS,
    OURS,
    Car,
    Contender,
    Setting,
    car,
    fresh_prompt,
    player,
    players,
)
from benchmarks.local.install import draw, install
from benchmarks.local.model import REAL, SMALL, Shape, model_file
from benchmarks.local.servers import PROGRAMS, server

HERE = Path(__file__).parent

PLOT = "speed.svg"

#: Tokens of context for a request to each model.
CONTEXTS = {REAL: 1024, SMALL: 8192}

#: The same where a prompt is long.
DEEP_CONTEXT = 4096

TEXT = """# How fast local models run

Written by `make bench-local` on {date}: {machine}, {versions}.
{rounds} rounds. In each every contender answers once, one after the other; figures are medians over
the rounds, and a ratio is taken within a round, so that what else the machine does falls on both
sides. The load of the machine was {load} at the end; where that is more than it has cores, the
figures tell how each bears it, not how fast it can be.

{table}

The models have random weights: the first rows and those with other processes use the shape of
Qwen3-0.6B with 4 bits, the others {small}. All use {threads} threads, and answer greedily.
*car-rpc* is what an app gets: the whole process, asked by the Python client over pipes. The *bare
loop* is `llama_decode` and an argmax, with llama.cpp's defaults and chunks of 256 tokens, measured
in its own process; the second one leaves out flash attention, as car-rpc does on a CPU but for
requests of up to 256 tokens. *Behind 3,072* is an answer to a prompt of so many tokens that was
read before.
llama-cpp-python is its `create_completion`. Its server, and llama-server, whose engine the package
xllamacpp brings, are asked over HTTP; the former answers one request after the other, and is told
not to drop one for the next.
*With n busy* is beside n processes that compute all the time, *in a form* an object with one text.
Where n streams are asked at once, reading their prompts counts; *first to end / last* is 1 where
all end together, and 1/n where each waits for the one before.

Memory is what is resident of all processes of a contender. That counts the weights, which are
mapped from a file that the system keeps once for all (car-rpc lets go of the file, as llama.cpp
computes with copies of them here), and it counts what a contender's processes share once for each
of them. *After one answer* is that of fresh processes that were asked one
prompt: car-rpc makes room for more requests as they come; llama-cpp-python and its server have room
for one, and the others must be given room for 8 when they start.

*First token* is milliseconds until then, of a prompt of {long} tokens that is new or known; *short
behind long*, of one of {short} tokens that comes {wait_ms} ms after one of {behind}, while that is
read. *Short after a cancel* is the same where the long one is abandoned as the short one comes:
car-rpc gets a cancel, a server's connection is closed, and node-llama-cpp has its AbortSignal. It
looks at that, as llama-cpp-python's server at the connection, only when the prompt is read. A call
to llama-cpp-python, or a bare loop, hears of no other prompt and cannot be left before that.
*Cancel* is milliseconds until one is answered while such a prompt is read.

![Speed, by contender]({plot})

## Bars

{bars}

Whoever is ahead of car-rpc by more than 5 %, in the median of the rounds' ratios:

{ahead}

{vectors}
{mlx}
"""


def main() -> None:
    """Run the rounds that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer of the 0.6B model")
    parser.add_argument("--long-tokens", type=int, default=3200, help="of one of the small model")
    parser.add_argument("--own", action="store_true", help="only car-rpc and the bare loops")
    parser.add_argument("--quick", action="store_true", help="only the small model")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the results")
    options = parser.parse_args()
    if not options.own:
        install()
    rounds = asyncio.run(run(options))
    mlx_rounds = asyncio.run(mlx.run(options.rounds, own=options.own))
    vector_rounds = asyncio.run(vectors.run(options.rounds, own=options.own))
    write(rounds, mlx_rounds, vector_rounds, options)


async def run(options: argparse.Namespace) -> list[report.Round]:
    """Measure every contender in every round."""
    rounds: list[report.Round] = [{} for _ in range(options.rounds)]
    for shape in [SMALL] if options.quick else [REAL, SMALL]:
        setting = Setting(model_file(shape), CONTEXTS[shape], os.cpu_count() or 1)
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(car(setting))
            contenders: dict[str, Contender] = {OURS: ours}
            for title, command in players(own=options.own).items():
                contenders[title] = await stack.enter_async_context(player(command, setting))
            if not options.own:
                for title, program in PROGRAMS.items():
                    contenders[title] = await stack.enter_async_context(server(program, setting))
            memories: dict[str, float] = {}
            for title, contender in contenders.items():
                await measure.decode(contender, options.tokens)  # warms it up
                memories[title] = measure.memory(contender)
            for number, figures in enumerate(rounds):
                for title, contender in contenders.items():
                    measured = await of_all(title, contender, shape, options)
                    if shape is not SMALL:
                        measured["memory after one answer, MB"] = memories[title]
                    figures.setdefault(title, {}).update(measured)
                    print(f"{number + 1}/{len(rounds)} {shape.name} {title}", file=sys.stderr)
                figures[OURS] |= await of_ours(ours, shape)
    if not options.quick:
        await behind_a_long_prompt(rounds, options.tokens)
    return rounds


async def behind_a_long_prompt(rounds: list[report.Round], tokens: int) -> None:
    """Measure ours and the bare loops where they have read much, which is read once."""
    setting = Setting(model_file(REAL), DEEP_CONTEXT, os.cpu_count() or 1)
    async with AsyncExitStack() as stack:
        contenders: dict[str, Contender] = {OURS: await stack.enter_async_context(car(setting))}
        for title, command in players(own=True).items():
            contenders[title] = await stack.enter_async_context(player(command, setting))
        prompt = fresh_prompt(measure.DEEP)
        for contender in contenders.values():
            await contender.ask([prompt], 2)
        for number, figures in enumerate(rounds):
            for title, contender in contenders.items():
                figures[title] |= await measure.deep(contender, prompt, tokens)
                print(f"{number + 1}/{len(rounds)} behind a long prompt {title}", file=sys.stderr)


async def of_all(
    title: str, contender: Contender, shape: Shape, options: argparse.Namespace
) -> measure.Figures:
    """What is measured of every contender."""
    if shape is SMALL:
        rate = await measure.decode(contender, options.long_tokens)
        figures = {f"{options.long_tokens:,} tokens, tokens/s": rate}
        figures |= await measure.first_token(contender)
        if title in LISTENERS:
            figures |= await measure.behind(contender)
        return figures
    rate = await measure.decode(contender, options.tokens)
    figures = {f"{options.tokens} tokens, tokens/s": rate}
    if title in FORMERS:
        formed = await measure.decode(contender, options.tokens, in_form=True)
        figures |= {"in a form, tokens/s": formed, "in a form, of free": formed / rate}
    for count in (4, 8):
        figures |= await measure.streams(contender, count, options.tokens // 4)
    memory = measure.memory(contender)
    for count in (1, 2):
        with measure.busy(count):
            await asyncio.sleep(1)
            rate = await measure.decode(contender, options.tokens // 8)
        figures[f"with {count} busy, tokens/s"] = rate
    return figures | {"memory after 8 streams, MB": memory}


async def of_ours(ours: Car, shape: Shape) -> measure.Figures:
    """What is measured of ours alone."""
    if shape is not SMALL:
        return {}
    steps = await measure.steps_behind(ours)
    return {"short behind long, steps": steps} | await measure.cancel(ours)


def write(
    rounds: list[report.Round],
    mlx_rounds: list[report.Round],
    vector_rounds: list[report.Round],
    options: argparse.Namespace,
) -> None:
    """Write RESULTS.md for people and results.json with every figure."""
    text = TEXT.format(
        date=datetime.now(UTC).date(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        versions=f"Python {platform.python_version()}, llama-cpp-python {llama_cpp.__version__}",
        rounds=len(rounds),
        load=f"{os.getloadavg()[0]:.1f}",
        table=report.table(rounds),
        small=f"one of {SMALL.layers} layers of width {SMALL.width}",
        threads=os.cpu_count(),
        long=f"{measure.LONG:,}",
        short=measure.SHORT,
        behind=f"{measure.BEHIND:,}",
        wait_ms=round(measure.BEGUN_S * 1000),
        bars=report.bars(rounds),
        ahead=report.ahead(rounds),
        mlx=mlx.section(mlx_rounds),
        vectors=vectors.section(vector_rounds),
        plot=PLOT,
    )
    (options.output / "RESULTS.md").write_text(text, encoding="utf-8")
    groups = {"results": rounds, "results-vectors": vector_rounds, "results-mlx": mlx_rounds}
    for name, figures in groups.items():
        results = json.dumps(figures, indent=1) + "\n"
        (options.output / f"{name}.json").write_text(results, encoding="utf-8")
    if not options.own:
        draw(options.output / "results.json", options.output / PLOT)


if __name__ == "__main__":
    main()
