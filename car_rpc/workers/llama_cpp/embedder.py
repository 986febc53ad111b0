"""Embed texts in a context of their own, on the same weights."""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.worker import MAX_WORKER_FRAME_BYTES, Embed, Embeddings
from car_rpc.workers.generation import context_overflow
from car_rpc.workers.llama_cpp.context import Context, DecodeError, Row
from car_rpc.workers.llama_cpp.native import BACKEND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from car_rpc.wire.models import Pooling
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.model import Model
    from car_rpc.workers.llama_cpp.vocab import Vocab

#: Longest text in tokens. Pooling needs a text in one piece, and
#: the buffers for a piece grow with its square; embedding models are made for 512 to 2048.
MAX_TEXT_TOKENS = 2048

#: Most texts and tokens of one batch (a longer text goes alone): more gain nothing on a CPU,
#: and answers that are generated meanwhile wait for a batch.
_BATCH_TEXTS = 16
_BATCH_TOKENS = 512

_FLOAT32_BYTES = 4

#: enum llama_pooling_type
_POOLING: dict[Pooling, int] = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
POOLING_RANK = _POOLING["rank"]


class Embedding:
    """One request in the making.

    Args:
        job: Where it is answered.
        texts: The tokens of each text.
    """

    def __init__(self, job: Job, texts: list[list[int]]) -> None:
        self.job = job
        self.texts = texts
        self.vectors: list[NDArray[np.float32]] = []


class Embedder:
    """Embeds texts, a batch per step, one request after the other.

    Args:
        model: The model.
        vocab: Its vocabulary.
        pooling: How token embeddings become one vector; the model's own choice when ``None``.
        context_length: Longest text that was asked for, in tokens.
    """

    def __init__(
        self, model: Model, vocab: Vocab, pooling: Pooling | None, context_length: int
    ) -> None:
        self._model = model
        self._vocab = vocab
        self._limit = min(context_length, MAX_TEXT_TOKENS)
        self._pooling = pooling_type(model, pooling)
        self._queue: deque[Embedding] = deque()

    def add(self, job: Job, request: Embed) -> None:
        """Queue a request.

        Raises:
            CarError: It cannot be done (``context_overflow``, ``unsupported_mode``,
                ``message_too_large``).
        """
        if self._pooling in (_POOLING["none"], POOLING_RANK):
            raise unsupported_mode(
                "embed", BACKEND, "its pooling gives no vector per text; set pooling to mean"
            )
        total = len(request.texts) * self._model.embedding_size * _FLOAT32_BYTES
        if total > MAX_WORKER_FRAME_BYTES:
            raise CarError(
                "message_too_large",
                f"{len(request.texts)} vectors have {total} bytes; embed fewer texts at once",
            )
        texts = [self._tokens(index, text) for index, text in enumerate(request.texts)]
        self._queue.append(Embedding(job, texts))

    def step(self) -> bool:
        """Embed one batch; returns whether there is more."""
        if self._queue:
            embedding = self._queue[0]
            try:
                complete = self._advance(embedding)
            except CarError as error:
                complete = True
                embedding.job.fail(error)
            if complete:
                self._queue.popleft()
        return bool(self._queue)

    def reset(self) -> None:
        """Forget all requests."""
        self._queue.clear()

    def _tokens(self, index: int, text: str) -> list[int]:
        tokens = self._vocab.tokenize(text, special=False, framed=True)
        if len(tokens) > self._limit:
            raise context_overflow(len(tokens), self._limit, f"text {index}", index=index)
        return tokens or [self._vocab.filler]

    def _advance(self, embedding: Embedding) -> bool:
        """Embed the next batch of a request, or answer it; returns whether it is answered."""
        if embedding.job.cancelled.is_set():
            return True
        batch = self._next_batch(embedding)
        if batch:
            embedding.vectors += self._embed(batch, embedding.job)
            return False
        data = b"".join(vector.astype("<f4").tobytes() for vector in embedding.vectors)
        embedding.job.reply(
            Embeddings(
                data=data,
                dimensions=self._model.embedding_size,
                prompt_tokens=sum(map(len, embedding.texts)),
            )
        )
        return True

    def _next_batch(self, embedding: Embedding) -> list[list[int]]:
        start = len(embedding.vectors)
        batch: list[list[int]] = []
        room = min(self._limit, _BATCH_TOKENS)
        for tokens in embedding.texts[start : start + _BATCH_TEXTS]:
            room -= len(tokens)
            if room < 0 and batch:
                break
            batch.append(tokens)
        return batch

    def _embed(self, batch: list[list[int]], job: Job) -> list[NDArray[np.float32]]:
        rows = [
            Row(token, position, sequence, output=True)
            for sequence, tokens in enumerate(batch)
            for position, token in enumerate(tokens)
        ]
        self._context.clear()
        try:
            self._context.decode(rows, job)
        except DecodeError as error:
            raise CarError(
                "inference_failed", f"llama.cpp could not embed (code {error})"
            ) from error
        size = self._model.embedding_size
        return [_unit(self._context.pooled(sequence, size)) for sequence in range(len(batch))]

    @cached_property
    def _context(self) -> Context:
        try:
            return Context(
                self._model,
                self._limit,
                n_ctx=self._limit,
                n_seq_max=_BATCH_TEXTS,
                kv_unified=True,  # texts of any length share the room
                embeddings=True,
                pooling_type=self._pooling,
            )
        except MemoryError as error:
            raise CarError(
                "out_of_memory", "no room to embed beside the model; unload another model"
            ) from error


def pooling_type(model: Model, asked: Pooling | None) -> int:
    """llama.cpp's number of a pooling; the model's own choice, else the mean, when ``None``."""
    if asked is not None:
        return _POOLING[asked]
    return int(model.architecture_value("pooling_type") or 0) or _POOLING["mean"]


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise CarError("inference_failed", "the model gave a vector without a direction")
    return vector / np.float32(length)
