"""Doubles of everything that the engine needs from outside."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.ports import (
    Availability,
    EmbeddingBatch,
    GenerateCall,
    Recording,
    Transcript,
)
from car_rpc.errors import CarError
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import FakeClock, MemorySink, scripted_model
from car_rpc.wire.content import Message
from car_rpc.wire.events import Done, ErrorEvent, StreamEvent
from car_rpc.wire.inference import GenerateRequest, InferenceResult
from car_rpc.wire.models import ModelSchema
from tests.stories import check_stories

Play = Callable[[GenerateCall], AsyncGenerator[StreamEvent, None]]


class Backend:
    """Plays what a test gives it, and notes what it was asked and how it ended."""

    def __init__(self, sink: MemorySink) -> None:
        self.sink = sink
        self.play: Play = emitting()
        self.calls: list[GenerateCall] = []
        self.story_at_call: list[str] = []
        self.closed = 0
        self.available = True
        self.continues = False
        self.embedded: list[str] = []

    def availability(self, model: ModelSchema) -> Availability:
        return Availability(available=self.available, weights_ready=True)

    def continues_turns(self, model: ModelSchema, request: GenerateRequest) -> bool:
        return self.continues

    def judges(self, model: ModelSchema) -> bool:
        return False

    async def score(
        self, model: ModelSchema, messages: Sequence[Message], answers: Sequence[str]
    ) -> list[float]:
        raise CarError("unsupported_mode", "this double shows no probabilities")

    async def rank(
        self, model: ModelSchema, query: str, documents: Sequence[str], instruction: str
    ) -> list[float]:
        raise CarError("unsupported_mode", "this double shows no probabilities")

    async def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        self.calls.append(call)
        self.story_at_call = self.sink.committed_types
        events = self.play(call)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()
            self.closed += 1

    async def embed(self, model: ModelSchema, texts: Sequence[str]) -> EmbeddingBatch:
        self.embedded = list(texts)
        self.story_at_call = self.sink.committed_types
        return EmbeddingBatch(bytes(8 * len(texts)), 2, len(texts))

    async def transcribe(self, model: ModelSchema, recording: Recording) -> Transcript:
        raise CarError("unsupported_mode", "this double hears nothing")

    async def tokenize(self, model: ModelSchema, text: str) -> list[int]:
        return [ord(char) for char in text]

    async def detokenize(self, model: ModelSchema, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    async def close(self) -> None:
        pass


class Listener:
    """Collects a stream, and notes how much of the story was safe when it ended."""

    def __init__(self, sink: MemorySink) -> None:
        self.events: list[StreamEvent] = []
        self.last: list[StreamEvent] = []
        self.story_at_end: list[str] = []
        self._sink = sink

    async def room(self) -> None:
        await asyncio.sleep(0)

    def send(self, event: StreamEvent) -> bool:
        if isinstance(event, Done | ErrorEvent):
            self.last.append(event)
            self.story_at_end = self._sink.committed_types
        else:
            assert not self.last, "an event after the last one"
            self.events.append(event)
        return False


class Ids:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"


class World:
    """An engine with doubles all around."""

    def __init__(self, store: ModelStore, registry: Registry) -> None:
        self.sink = MemorySink()
        self.clock = FakeClock()
        self.backend = Backend(self.sink)
        self.listener = Listener(self.sink)
        self.registry = registry
        self.ids = Ids()
        self.engine = Engine(registry, lambda _: self.backend, self.sink, self.clock, self.ids)

    def generate(self, **fields: Any) -> Awaitable[InferenceResult]:
        raw = msgspec.json.encode({"prompt": "hi", **fields})
        request = msgspec.json.decode(raw, type=GenerateRequest)
        return self.engine.generate(request, Origin(7, "generate", raw), self.listener)

    async def failure(self, **fields: Any) -> CarError:
        with pytest.raises(CarError) as caught:
            await self.generate(**fields)
        return caught.value


def emitting(*events: StreamEvent) -> Play:
    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        for event in events:
            await asyncio.sleep(0)
            yield event

    return play


@pytest.fixture
def play() -> Callable[..., Play]:
    """Makes a backend's part: emit these events."""
    return emitting


@pytest.fixture
async def world(tmp_path: Any) -> Any:
    store = ModelStore(tmp_path / "car.db")
    models = [scripted_model("test/one:a", []), scripted_model("test/two:a", [], ["embed"])]
    registry = Registry(models, store, tmp_path)
    world = World(store, registry)
    yield world
    registry.close()
    await check_stories(world.sink)
