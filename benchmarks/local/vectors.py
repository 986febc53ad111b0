"""The third group: vectors of texts, with a real model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import TemporaryDirectory

from benchmarks.local.contenders import (
    BARE,
    COMPLETIONS,
    COMPLETIONS_SERVER,
    OURS,
    SERVER,
    Setting,
    player,
)
from benchmarks.local.minilm import minilm_file
from benchmarks.local.model import cache_folder
from benchmarks.local.report import BEST, Bar, Round, bars, table
from benchmarks.local.servers import VECTOR_PROGRAMS, server
from car_rpc.client import CarClient
from car_rpc.wire.models import LocalSource, ModelSchema

TITLES = (OURS, BARE, COMPLETIONS, COMPLETIONS_SERVER, SERVER)

#: Tokens of context, of which the model was trained on so many.
CONTEXT = 512

WORDS = "the quick brown fox jumps over the lazy dog and runs away from its own shadow at noon "

#: How many texts of how many words are asked for at once.
REQUESTS = {"128 texts of 16 words": (128, 16), "32 texts of 160 words": (32, 160)}

BARS = tuple(
    Bar(f"{name}, texts/s", BEST, 0.95, at_least=True)
    for name in [*REQUESTS, "one text of 16 words"]
)

TEXT = """## Vectors

all-MiniLM-L6-v2, a real model, in half precision: texts asked for at once, and one after the other.
The *bare loop* is `llama_decode` over full batches; the servers are asked over HTTP.

{table}

{bars}
"""

#: Makes the vectors of some texts; returns the seconds that it took.
Embed = Callable[[list[str]], Awaitable[float]]


async def run(rounds: int, *, own: bool) -> list[Round]:
    """Measure every contender in every round."""
    setting = Setting(minilm_file("F16", cache_folder()), CONTEXT, os.cpu_count() or 1)
    figures: list[Round] = [{} for _ in range(rounds)]
    async with AsyncExitStack() as stack:
        embeds: dict[str, Embed] = {OURS: await stack.enter_async_context(car(setting))}
        for title, command in players(own=own).items():
            played = await stack.enter_async_context(player(command, setting))
            embeds[title] = lambda texts, play=played.play: play(texts=texts)
        if not own:
            for title, program in VECTOR_PROGRAMS.items():
                served = await stack.enter_async_context(server(program, setting))
                embeds[title] = served.embed
        for embed in embeds.values():
            await embed([WORDS])  # warms it up
        for number, one_round in enumerate(figures):
            for title, embed in embeds.items():
                one_round[title] = await of_all(embed)
                print(f"{number + 1}/{rounds} vectors {title}", file=sys.stderr)
    return figures


async def of_all(embed: Embed) -> dict[str, float]:
    """What is measured of every contender."""
    figures = {
        f"{name}, texts/s": count / await embed(texts(count, words))
        for name, (count, words) in REQUESTS.items()
    }
    singly = [await embed([text]) for text in texts(32, 16)]
    return figures | {"one text of 16 words, texts/s": len(singly) / sum(singly)}


def texts(count: int, words: int) -> list[str]:
    """Texts that are not the same."""
    spoken = (WORDS * (words // len(WORDS.split()) + 1)).split()
    return [" ".join([str(number), *spoken[: words - 1]]) for number in range(count)]


def section(rounds: list[Round]) -> str:
    """What is written of it."""
    return TEXT.format(table=table(rounds, TITLES), bars=bars(rounds, BARS))


@asynccontextmanager
async def car(setting: Setting) -> AsyncGenerator[Embed]:
    """Our process, with the model registered."""
    with TemporaryDirectory() as state_dir:
        async with CarClient.start(arguments=["--state-dir", state_dir]) as client:
            source = LocalSource(path=str(setting.path), context_length=setting.context)
            model = ModelSchema(id="bench/vectors:1", source=source, capabilities=["embed"])
            await client.register_model(model)

            async def embed(texts: list[str]) -> float:
                started = time.perf_counter()
                await client.embed(texts, model=model.id)
                return time.perf_counter() - started

            yield embed


def players(*, own: bool) -> dict[str, list[str]]:
    """The commands of all contenders that read what they are asked from their input."""
    here = [sys.executable, "-m", "benchmarks.local.player"]
    commands = {BARE: [*here, "bare-vectors"]}
    if not own:
        commands[COMPLETIONS] = [*here, "vectors"]
    return commands
