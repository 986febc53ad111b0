"""Models that run in worker processes of this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cached_property
from typing import Any

import msgspec
from msgspec import UNSET

from car_rpc.backends.local.failures import FailedLoads
from car_rpc.backends.local.process import WorkerProcess
from car_rpc.backends.local.sampling import LANGUAGE_ENGINES, to_worker
from car_rpc.backends.local.workers import Unloaded, Workers
from car_rpc.engine.ports import (
    Availability,
    EmbeddingBatch,
    GenerateCall,
    Recording,
    Transcript,
)
from car_rpc.errors import CarError
from car_rpc.registry.absence import missing
from car_rpc.registry.projectors import projector_of
from car_rpc.registry.weights import missing_weights
from car_rpc.wire.content import Message
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import (
    FakeSource,
    LocalSource,
    MlxSource,
    ModelSchema,
    SystemSource,
)
from car_rpc.wire.sources import adapters_of
from car_rpc.wire.worker import (
    AnswerPrefix,
    Detokenize,
    Embed,
    Embeddings,
    Load,
    Rank,
    Score,
    Tokenize,
    ToWorker,
    Transcribe,
    Transcribed,
)

#: What no engine for language models does, whatever weights it is given.
_MEDIA = frozenset({"speech_to_text", "text_to_speech", "image_generation", "video_generation"})

_PRESENT = Availability(available=True, weights_ready=True)
_UNSERVED = Availability(available=False, weights_ready=True)
_ABSENT = Availability(available=False, weights_ready=False)


class LocalBackend:
    """Runs each model in a worker of its own, started when it is first needed.

    Args:
        engine: Name of the worker's engine.
        module: Library that the engine needs, for :meth:`availability`; ``None`` for none.
        workers: The processes of all local models.
    """

    def __init__(self, engine: str, module: str | None, workers: Workers) -> None:
        self._engine = engine
        self._module = module
        self._workers = workers
        self._failures = FailedLoads()

    @cached_property
    def installed(self) -> bool:
        """Whether the engine's library is there. Does not import it."""
        return self._module is None or importlib.util.find_spec(self._module) is not None

    def availability(self, model: ModelSchema) -> Availability:
        """Whether the library and the weights are on this machine, and go together."""
        if missing(model.source) is not None:
            return _ABSENT
        if reason := self._failures.reason(model):
            return Availability(available=False, weights_ready=True, reason=reason)
        served = self._engine not in LANGUAGE_ENGINES or not _MEDIA.issuperset(model.capabilities)
        return _PRESENT if served and self.installed else _UNSERVED

    def continues_turns(self, model: ModelSchema, request: GenerateRequest) -> bool:
        """Whether the worker's engine can go on from the beginning of an answer."""
        return self._engine in LANGUAGE_ENGINES

    def judges(self, model: ModelSchema) -> bool:
        """Whether the worker's engine can be asked how likely an answer is."""
        return self._engine in LANGUAGE_ENGINES

    async def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        """Run one attempt on the model's worker."""
        # What cannot be served is refused before a model is loaded for it.
        frame = to_worker(call.model, call.request, self._engine, 0)
        if call.continuation is not None:
            prefix = AnswerPrefix(**call.continuation._asdict())
            frame = msgspec.structs.replace(frame, prefix=prefix)
        asked = call.request.keep_alive_ms
        async with self._lease(call.model, asked if isinstance(asked, int) else None) as worker:
            stream = worker.generate(
                lambda frame_id: msgspec.structs.replace(frame, id=frame_id), call.hear_logprobs
            )
            async with aclosing(stream) as events:
                async for event in events:
                    yield event

    async def embed(self, model: ModelSchema, texts: Sequence[str]) -> EmbeddingBatch:
        """Embed texts on the model's worker."""
        result = await self._ask(model, lambda frame_id: Embed(id=frame_id, texts=list(texts)))
        vectors = msgspec.convert(result, Embeddings)
        return EmbeddingBatch(vectors.data, vectors.dimensions, vectors.prompt_tokens)

    async def score(
        self, model: ModelSchema, messages: Sequence[Message], answers: Sequence[str]
    ) -> list[float]:
        """The log-probability of each answer to a conversation."""
        result = await self._ask(
            model, lambda frame_id: Score(id=frame_id, messages=[*messages], answers=[*answers])
        )
        return msgspec.convert(result, list[float])

    async def rank(
        self, model: ModelSchema, query: str, documents: Sequence[str], instruction: str
    ) -> list[float]:
        """How well each document fits a query."""
        result = await self._ask(
            model,
            lambda frame_id: Rank(
                id=frame_id, query=query, documents=[*documents], instruction=instruction
            ),
        )
        return msgspec.convert(result, list[float])

    async def tokenize(self, model: ModelSchema, text: str) -> list[int]:
        """Token ids of a text."""
        result = await self._ask(model, lambda frame_id: Tokenize(id=frame_id, text=text))
        return msgspec.convert(result, list[int])

    async def detokenize(self, model: ModelSchema, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        result = await self._ask(
            model, lambda frame_id: Detokenize(id=frame_id, tokens=list(tokens))
        )
        return msgspec.convert(result, str)

    async def transcribe(self, model: ModelSchema, recording: Recording) -> Transcript:
        """Write down what is said, on the model's worker."""
        result = await self._ask(
            model, lambda frame_id: Transcribe(id=frame_id, **recording._asdict())
        )
        said = msgspec.convert(result, Transcribed)
        return Transcript(said.text, said.language, said.words)

    async def load(self, model: ModelSchema, keep_alive_ms: float | None = None) -> None:
        """Load a model before it is needed.

        Raises:
            CarError: As a request to it would.
        """
        async with self._lease(model, keep_alive_ms):
            pass

    async def unload(self, model: ModelSchema) -> Unloaded:
        """Take a model out of memory; returns when its process is gone.

        Raises:
            CarError: ``conflict`` while it loads or works.
        """
        try:
            load = _load_frame(model)
        except CarError:  # without weights it has no worker
            return Unloaded(was_loaded=False, freed_bytes=0)
        return await self._workers.unload(self._engine, model, load)

    async def close(self) -> None:
        """Kill all workers, those of other engines as well; returns when they are gone."""
        await self._workers.close()

    async def _ask(self, model: ModelSchema, make: Callable[[int], ToWorker]) -> Any:
        async with self._lease(model) as worker:
            return await worker.request(make)

    @asynccontextmanager
    async def _lease(
        self, model: ModelSchema, keep_alive_ms: float | None = None
    ) -> AsyncGenerator[WorkerProcess]:
        if not self.installed:
            raise CarError(
                "model_load_failed",
                f"{model.id} needs the library {self._module}, which is not installed;"
                f" install car-rpc with the extra that brings it (`car-rpc doctor` names it)",
                model=model.id,
            )
        load = _load_frame(model)
        try:
            async with self._workers.lease(self._engine, model, load, keep_alive_ms) as worker:
                self._failures.forget(model)
                yield worker
        except CarError as error:
            if error.kind == "model_load_failed":
                self._failures.note(model, load, error)
            raise


def _load_frame(model: ModelSchema) -> Load:
    source = model.source
    if isinstance(source, FakeSource):
        return Load(script=source.script)
    if isinstance(source, SystemSource):
        return Load()  # the library brings its own model
    if isinstance(source, LocalSource | MlxSource) and source.path is UNSET:
        raise missing_weights(model)
    if not isinstance(source, LocalSource | MlxSource) or not isinstance(source.path, str):
        raise CarError("internal", "a model reached a backend that does not serve its source")
    speculation = source.speculation if isinstance(source, LocalSource) else UNSET
    return Load(
        path=source.path,
        projector=projector_of(model),
        context_length=None if source.context_length is UNSET else source.context_length,
        pooling=None if source.pooling is UNSET else source.pooling,
        adapters=adapters_of(source),
        speculation=None if speculation is UNSET else speculation,
    )
