"""How long an answer over HTTP takes with our backend, compared to the official client.

Usage: python -m benchmarks.http_overhead [--requests N] [--tokens N]

Two servers: a scripted one that answers at once, so that only the clients' own work counts, and
llama-cpp-python's with the demo model. Both clients take turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import openai

from car_rpc.backends.openai_compat.backend import OpenAICompatBackend
from car_rpc.testing import scripted_call
from car_rpc.wire.events import TextDelta
from car_rpc.wire.models import ModelSchema, OpenAICompatSource
from tests.servers.real import llama_cpp_server
from tests.servers.scripted import ScriptedServer, said

PROMPT = "Tell me a story."

#: Asks once; returns the text, and the seconds until its first piece.
Ask = Callable[[], Awaitable[tuple[str, float]]]


def with_ours(backend: OpenAICompatBackend, url: str, tokens: int) -> Ask:
    source = OpenAICompatSource(endpoint=url, model="tiny")
    model = ModelSchema(id="a/b:c", source=source, capabilities=["generate"])
    params = {"max_tokens": tokens, "temperature": 0}

    async def ask() -> tuple[str, float]:
        started, first, text = time.perf_counter(), 0.0, ""
        async for event in backend.generate(scripted_call(model, prompt=PROMPT, params=params)):
            if isinstance(event, TextDelta):
                first = first or time.perf_counter() - started
                text += event.text
        return text, first

    return ask


def with_theirs(client: openai.AsyncOpenAI, tokens: int) -> Ask:
    async def ask() -> tuple[str, float]:
        started, first, text = time.perf_counter(), 0.0, ""
        async for chunk in await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ):
            for choice in chunk.choices:
                if choice.delta.content:
                    first = first or time.perf_counter() - started
                    text += choice.delta.content
        return text, first

    return ask


async def compare(name: str, url: str, requests: int, tokens: int) -> None:
    backend = OpenAICompatBackend()
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        asks = {"ours": with_ours(backend, url, tokens), "theirs": with_theirs(client, tokens)}
        whole: dict[str, list[float]] = {"ours": [], "theirs": []}
        first: dict[str, list[float]] = {"ours": [], "theirs": []}
        texts = {who: (await ask())[0] for who, ask in asks.items()}  # warms both up
        assert texts["ours"] == texts["theirs"], "the two answers differ"
        for _ in range(requests):
            for who, ask in asks.items():
                started = time.perf_counter()
                _, first_s = await ask()
                whole[who].append(time.perf_counter() - started)
                first[who].append(first_s)
    await backend.close()
    for label, taken in (("whole answer", whole), ("first piece", first)):
        ours, theirs = (statistics.median(taken[who]) * 1000 for who in ("ours", "theirs"))
        print(
            f"{name:9} {label:13} ours {ours:8.2f} ms   openai {theirs:8.2f} ms"
            f"   ratio {ours / theirs:.2f}"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    async with ScriptedServer().running() as server:
        server.reply(said(*[f"word {number} " for number in range(options.tokens)]))
        await compare("scripted", server.url, options.requests, options.tokens)
    with llama_cpp_server() as real:
        await compare("llama.cpp", real.url, options.requests, options.tokens)


if __name__ == "__main__":
    asyncio.run(main())
