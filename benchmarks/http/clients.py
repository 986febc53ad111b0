"""Those who ask the server: our backend alone, the whole process, and the official client."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import openai

from car_rpc.backends.openai_compat.backend import OpenAICompatBackend
from car_rpc.client import CarClient
from car_rpc.testing import scripted_call
from car_rpc.wire.events import TextDelta
from car_rpc.wire.models import ModelSchema, OpenAICompatSource

PROMPT = "Tell me a story."

BACKEND = "backend of car-rpc"
PROCESS = "car-rpc, the process"
OPENAI = "openai client"

#: Asks once; returns the text, the seconds until its first piece, and those until its end.
Ask = Callable[[], Awaitable[tuple[str, float, float]]]


class Question(NamedTuple):
    """What is asked: of which server, under which name of its model, for how many tokens."""

    url: str
    upstream_model: str
    tokens: int

    @property
    def params(self) -> dict[str, Any]:
        return {"max_tokens": self.tokens, "temperature": 0}

    @property
    def model(self) -> ModelSchema:
        source = OpenAICompatSource(endpoint=self.url, model=self.upstream_model)
        return ModelSchema(id="bench/http:1", source=source, capabilities=["generate"])


@asynccontextmanager
async def clients(question: Question, state_dir: Path) -> AsyncGenerator[dict[str, Ask], None]:
    """All clients, ready to ask."""
    async with AsyncExitStack() as stack:
        backend = OpenAICompatBackend()
        stack.push_async_callback(backend.close)
        theirs = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=f"{question.url}/v1", api_key="none", max_retries=0)
        )
        car = await stack.enter_async_context(
            CarClient.start(arguments=["--state-dir", str(state_dir)])
        )
        await car.register_model(question.model)
        yield {
            OPENAI: lambda: _timed(_of_openai(theirs, question)),
            BACKEND: lambda: _timed(_of_backend(backend, question)),
            PROCESS: lambda: _timed(_of_process(car, question)),
        }


async def _of_openai(client: openai.AsyncOpenAI, question: Question) -> AsyncIterator[str]:
    async for chunk in await client.chat.completions.create(
        model=question.upstream_model,
        messages=[{"role": "user", "content": PROMPT}],
        stream=True,
        stream_options={"include_usage": True},
        **question.params,
    ):
        for choice in chunk.choices:
            if choice.delta.content:
                yield choice.delta.content


async def _of_backend(backend: OpenAICompatBackend, question: Question) -> AsyncIterator[str]:
    call = scripted_call(question.model, prompt=PROMPT, params=question.params)
    async with aclosing(backend.generate(call)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                yield event.text


async def _of_process(car: CarClient, question: Question) -> AsyncIterator[str]:
    request = {"model": question.model.id, "prompt": PROMPT, "params": question.params}
    async with car.stream(**request) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                yield event.text


async def _timed(pieces: AsyncIterable[str]) -> tuple[str, float, float]:
    started, first_s, text = time.perf_counter(), 0.0, ""
    async for piece in pieces:
        first_s = first_s or time.perf_counter() - started
        text += piece
    return text, first_s, time.perf_counter() - started
