"""What is measured of a contender, and of ours alone."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Generator
from contextlib import contextmanager

import psutil

from benchmarks.local.contenders import Car, Contender, fresh_prompt
from car_rpc.client import GenerateStream
from car_rpc.wire.events import TextDelta
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK

#: Name of a figure to its value.
Figures = dict[str, float]

SHORT, LONG = 40, 2000

#: The prompt that others wait behind, in tokens.
BEHIND = 4096

#: Seconds after which reading it is under way.
BEGUN_S = 0.2

#: The prompt that tokens are generated behind, in tokens of the model with the real shape.
DEEP = 3072

#: Cancels in one round.
CANCELS = 20

#: Tokens of an answer to a known prompt, which tell how long a step takes behind it.
STEPS = 8


async def decode(contender: Contender, tokens: int, *, in_form: bool = False) -> float:
    """Tokens in a second of one answer, its first left out."""
    (timing,) = await contender.ask([fresh_prompt(SHORT)], tokens, in_form=in_form)
    return (tokens - 1) / (timing.whole_s - timing.first_s)


async def deep(contender: Contender, prompt: str, tokens: int) -> Figures:
    """Tokens in a second of an answer to a long prompt that is known, its first left out."""
    (timing,) = await contender.ask([prompt], tokens)
    rate = (tokens - 1) / (timing.whole_s - timing.first_s)
    return {f"{tokens} tokens behind {DEEP:,}, tokens/s": rate}


async def streams(contender: Contender, count: int, tokens: int) -> Figures:
    """Tokens in a second of some answers at once, and how even they are.

    Reading the prompts counts. Even is 1, where all end at once.
    """
    timings = await contender.ask([fresh_prompt(SHORT) for _ in range(count)], tokens)
    ends = [timing.whole_s for timing in timings]
    return {
        f"{count} streams, tokens/s": count * tokens / max(ends),
        f"{count} streams, first to end / last": min(ends) / max(ends),
    }


def memory(contender: Contender) -> float:
    """Resident memory of its processes in MB: with the pages of files that they map, as weights."""
    process = psutil.Process(contender.pid)
    everyone = [process, *process.children(recursive=True)]
    return sum(each.memory_info().rss for each in everyone) / 1e6


async def first_token(contender: Contender) -> Figures:
    """Milliseconds until the first token of a long prompt, new and then known."""
    prompt = fresh_prompt(LONG)
    (cold,) = await contender.ask([prompt], 2)
    (warm,) = await contender.ask([prompt], STEPS)
    step = (warm.whole_s - warm.first_s) / (STEPS - 1)
    return {
        "first token, new prompt": cold.first_s * 1000,
        "first token, known prompt": warm.first_s * 1000,
        "first token, known prompt, less a step": (warm.first_s - step) * 1000,
    }


async def behind(contender: Contender, tokens: int = BEHIND) -> Figures:
    """Milliseconds until the first token of a short prompt that comes while a long one is read.

    Once the long one goes on, and once it is abandoned just then.
    """
    figures: Figures = {}
    for name, abandon in (("short behind long", False), ("short after a cancel", True)):
        prompts = fresh_prompt(tokens), fresh_prompt(SHORT)
        *_, short = await contender.ask_behind(*prompts, BEGUN_S, abandon=abandon)
        figures[f"first token, {name}"] = short.first_s * 1000
    return figures


async def steps_behind(car: Car) -> float:
    """Steps until a short prompt is answered that comes while a long one is read."""
    prompts = fresh_prompt(BEHIND), fresh_prompt(SHORT)
    long, short = await car.ask_behind(*prompts, BEGUN_S, abandon=False)
    return short.first_s / (long.first_s / (BEHIND / PREFILL_CHUNK))


async def cancel(car: Car, tokens: int = BEHIND) -> Figures:
    """Milliseconds until a cancel is answered of a prompt of so many tokens that is being read."""
    times: list[float] = []
    for number in range(CANCELS):
        async with car.stream(fresh_prompt(tokens), 1) as stream:
            reading = asyncio.ensure_future(_first(stream))
            await asyncio.sleep(0.05 + 0.02 * number)
            assert not reading.done()
            reading.cancel()
            before = time.perf_counter()
        times.append((time.perf_counter() - before) * 1000)
    return {
        "cancel, median": statistics.median(times),
        "cancel, p95": statistics.quantiles(times, n=20)[-1],
    }


async def _first(stream: GenerateStream) -> None:
    async for event in stream:
        if isinstance(event, TextDelta):
            return


@contextmanager
def busy(processes: int) -> Generator[None]:
    """Other processes that compute all the time."""
    others = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _spin() -> None:
    while True:
        pass
