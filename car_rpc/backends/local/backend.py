"""Models that run in worker processes of this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import stat
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any

import msgspec
from msgspec import UNSET

from car_rpc.backends.local.process import ProcessControl, WorkerProcess
from car_rpc.backends.local.sampling import to_worker
from car_rpc.engine.ports import (
    Availability,
    EmbeddingBatch,
    EventSink,
    GenerateCall,
    LogEntry,
    Recording,
    Transcript,
)
from car_rpc.errors import CarError
from car_rpc.registry.gguf import read_header
from car_rpc.registry.weights import missing_weights
from car_rpc.wire.content import Message
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import (
    FakeSource,
    LocalSource,
    MlxSource,
    ModelSchema,
    ModelSource,
    SystemSource,
)
from car_rpc.wire.worker import (
    AnswerPrefix,
    Detokenize,
    Embed,
    Embeddings,
    Load,
    Loaded,
    Rank,
    Score,
    Tokenize,
    Transcribe,
    Transcribed,
)

#: What no engine for language models does, whatever weights it is given.
_MEDIA = frozenset({"speech_to_text", "text_to_speech", "image_generation", "video_generation"})

#: Permissions of a file that everybody may read.
_ALL_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH

_PRESENT = Availability(available=True, weights_ready=True)
_UNSERVED = Availability(available=False, weights_ready=True)
_ABSENT = Availability(available=False, weights_ready=False)


class LocalBackend:
    """Runs each model in a worker of its own, started when it is first needed.

    Args:
        engine: Name of the worker's engine.
        module: Library that the engine needs, for :meth:`availability`; ``None`` for none.
        sink: The event log, for loads and crashes.
        control: What the operating system does for workers.
    """

    def __init__(
        self,
        engine: str,
        module: str | None,
        sink: EventSink,
        control: ProcessControl,
    ) -> None:
        self._engine = engine
        self._module = module
        self._sink = sink
        self._control = control
        self._workers: dict[bytes, _Slot] = {}

    @cached_property
    def installed(self) -> bool:
        """Whether the engine's library is there. Does not import it."""
        return self._module is None or importlib.util.find_spec(self._module) is not None

    def availability(self, model: ModelSchema) -> Availability:
        """Whether the library and the weights are on this machine, and go together."""
        if not _has_weights(model.source):
            return _ABSENT
        served = self._engine not in ("llama_cpp", "mlx") or not _MEDIA.issuperset(
            model.capabilities
        )
        return _PRESENT if served and self.installed else _UNSERVED

    def continues_turns(self, model: ModelSchema, request: GenerateRequest) -> bool:
        """Whether the worker's engine can go on from the beginning of an answer."""
        return self._engine in ("llama_cpp", "mlx")

    def judges(self, model: ModelSchema) -> bool:
        """Whether the worker's engine can be asked how likely an answer is."""
        return self._engine == "llama_cpp"

    async def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        """Run one attempt on the model's worker."""
        # What cannot be served is refused before a model is loaded for it.
        frame = to_worker(call.model, call.request, self._engine, 0)
        if call.continuation is not None:
            text, reasoning = call.continuation
            prefix = AnswerPrefix(text=text, reasoning=reasoning)
            frame = msgspec.structs.replace(frame, prefix=prefix)
        worker = await self._worker(call.model)
        stream = worker.generate(
            lambda frame_id: msgspec.structs.replace(frame, id=frame_id), call.hear_logprobs
        )
        async with aclosing(stream) as events:
            async for event in events:
                yield event

    async def embed(self, model: ModelSchema, texts: Sequence[str]) -> EmbeddingBatch:
        """Embed texts on the model's worker."""
        worker = await self._worker(model)
        result = await worker.request(lambda frame_id: Embed(id=frame_id, texts=list(texts)))
        vectors = msgspec.convert(result, Embeddings)
        return EmbeddingBatch(vectors.data, vectors.dimensions, vectors.prompt_tokens)

    async def score(
        self, model: ModelSchema, messages: Sequence[Message], answers: Sequence[str]
    ) -> list[float]:
        """The log-probability of each answer to a conversation."""
        worker = await self._worker(model)
        result = await worker.request(
            lambda frame_id: Score(id=frame_id, messages=[*messages], answers=[*answers])
        )
        return msgspec.convert(result, list[float])

    async def rank(
        self, model: ModelSchema, query: str, documents: Sequence[str], instruction: str
    ) -> list[float]:
        """How well each document fits a query."""
        worker = await self._worker(model)
        result = await worker.request(
            lambda frame_id: Rank(
                id=frame_id, query=query, documents=[*documents], instruction=instruction
            )
        )
        return msgspec.convert(result, list[float])

    async def tokenize(self, model: ModelSchema, text: str) -> list[int]:
        """Token ids of a text."""
        worker = await self._worker(model)
        result = await worker.request(lambda frame_id: Tokenize(id=frame_id, text=text))
        return msgspec.convert(result, list[int])

    async def detokenize(self, model: ModelSchema, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        worker = await self._worker(model)
        result = await worker.request(lambda frame_id: Detokenize(id=frame_id, tokens=list(tokens)))
        return msgspec.convert(result, str)

    async def transcribe(self, model: ModelSchema, recording: Recording) -> Transcript:
        """Write down what is said, on the model's worker."""
        worker = await self._worker(model)
        result = await worker.request(
            lambda frame_id: Transcribe(id=frame_id, **recording._asdict())
        )
        said = msgspec.convert(result, Transcribed)
        return Transcript(said.text, said.language, said.words)

    async def release(self, model: ModelSchema) -> None:
        """End the worker of a model, so that its files can go.

        Raises:
            CarError: ``conflict`` while it loads or answers a request.
        """
        try:
            key = msgspec.msgpack.encode(_load_frame(model))
        except CarError:  # without weights it has no worker
            return
        slot = self._workers.get(key)
        if slot is None:
            return
        if slot.busy:
            raise CarError(
                "conflict", f"{model.id} is at work; try again when it is done", model=model.id
            )
        del self._workers[key]
        await self._unload(slot)

    async def close(self) -> None:
        """Kill all workers; returns when they are gone."""
        slots, self._workers = list(self._workers.values()), {}
        await asyncio.gather(*map(self._unload, slots), return_exceptions=True)

    async def _unload(self, slot: _Slot) -> None:
        pid = await slot.close()
        if pid is not None:
            self._note("model_unload", slot.model, pid=pid)

    async def _worker(self, model: ModelSchema) -> WorkerProcess:
        """The live worker that has the model loaded; starts one if there is none.

        Registry entries that differ only in their name share a worker, and requests that come
        during a load wait for the same one.
        """
        if not self.installed:
            raise CarError(
                "model_load_failed",
                f"{model.id} needs the library {self._module}, which is not installed;"
                f" install car-rpc with the extra that brings it (`car-rpc doctor` names it)",
                model=model.id,
            )
        load = _load_frame(model)
        key = msgspec.msgpack.encode(load)
        slot = self._workers.get(key)
        if slot is None or slot.dead:
            starting = asyncio.create_task(self._start(model, load))
            slot = self._workers[key] = _Slot(model, starting)
        # A caller that gives up must not take the load away from the others.
        return await asyncio.shield(slot.starting)

    async def _start(self, model: ModelSchema, load: Load) -> WorkerProcess:
        if self._engine == "llama_cpp" and "rerank" in model.capabilities:
            # In a thread: a header is long.
            has_head = await asyncio.to_thread(_has_rank_head, model, load)
            load = msgspec.structs.replace(load, has_rank_head=has_head)
        worker = await WorkerProcess.start(self._engine, model.id, self._control)
        worker.on_death = lambda death: self._note("worker_crash", model, reason=death.message)
        try:
            loaded: Loaded = await worker.load(load)
        except BaseException:
            await worker.stop()
            raise
        self._note("model_load", model, pid=worker.pid, engine=loaded.engine)
        return worker

    def _note(self, event_type: str, model: ModelSchema, **data: Any) -> None:
        self._sink.append(LogEntry(event_type, {"model": model.id, **data}))


class _Slot:
    """A worker that is starting or running."""

    def __init__(self, model: ModelSchema, starting: asyncio.Task[WorkerProcess]) -> None:
        self.model = model
        self.starting = starting
        # Somebody may have given up waiting; the failure still reaches whoever waits.
        starting.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def dead(self) -> bool:
        task = self.starting
        if not task.done():
            return False
        return task.cancelled() or task.exception() is not None or not task.result().alive

    @property
    def busy(self) -> bool:
        return not self.dead and (not self.starting.done() or self.starting.result().busy)

    async def close(self) -> int | None:
        """Stop the worker; returns the pid of one that had the model loaded until now."""
        self.starting.cancel()
        await asyncio.wait([self.starting])
        if self.starting.cancelled() or self.starting.exception() is not None:
            return None
        worker = self.starting.result()
        was_alive = worker.alive
        await worker.stop()
        return worker.pid if was_alive else None


def _has_rank_head(model: ModelSchema, load: Load) -> bool:
    """Whether the model's file has a head for ranking. Some conversions of rerankers lost it.

    Raises:
        CarError: ``model_load_failed`` when there is none and it was asked for.
    """
    try:
        with open(load.path, "rb") as file:  # noqa: PTH123 - as the file is named in the frame
            has_head = read_header(file).has_rank_head
    except (OSError, ValueError):
        return True  # whatever is wrong with it, the worker says
    if load.pooling == "rank" and not has_head:
        raise CarError(
            "model_load_failed",
            f"the `pooling` of {model.id} is `rank`, and its file has no head for ranking"
            " (no tensor `cls.weight` or `cls.output.weight`); register it without `pooling`,"
            " or another file of the model",
            model=model.id,
        )
    return has_head


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
    return Load(
        path=source.path,
        context_length=None if source.context_length is UNSET else source.context_length,
        pooling=None if source.pooling is UNSET else source.pooling,
    )


def _has_weights(source: ModelSource) -> bool:
    if not isinstance(source, LocalSource | MlxSource):
        return True
    if not isinstance(source.path, str):
        return False
    # Every decision looks at every file, so the system is asked as little as possible.
    path = source.path if isinstance(source, LocalSource) else f"{source.path}/config.json"
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - once per model at every decision
        return stat.S_ISREG(mode) and (mode & _ALL_READ == _ALL_READ or os.access(path, os.R_OK))
    except (OSError, ValueError):  # it is not there, or its name cannot be
        return False
