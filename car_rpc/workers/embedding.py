"""Embed texts, a batch per step: what every engine does around its own model."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from car_rpc.errors import CarError
from car_rpc.wire.worker import MAX_WORKER_FRAME_BYTES, Embed, Embeddings
from car_rpc.workers.generation import context_overflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from car_rpc.workers.job import Job

#: Longest text in tokens. Pooling needs a text in one piece, and
#: the buffers for a piece grow with its square; embedding models are made for 512 to 2048.
MAX_TEXT_TOKENS = 2048

#: Most texts and tokens of one batch (a longer text goes alone): more gain nothing on a CPU,
#: and answers that are generated meanwhile wait for a batch.
BATCH_TEXTS = 16
BATCH_TOKENS = 512

_FLOAT32_BYTES = 4


class TextEncoder(Protocol):
    """A model that makes vectors."""

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        ...

    @property
    def limit(self) -> int:
        """Longest text in tokens."""
        ...

    def check(self) -> None:
        """Raises CarError where it makes no vector per text."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, at least one."""
        ...

    def encode(self, batch: Sequence[list[int]], job: Job) -> Sequence[NDArray[np.float32]]:
        """A vector of any length for each text; the job may be cancelled meanwhile."""
        ...


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
        encoder: The model.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._queue: deque[Embedding] = deque()

    def add(self, job: Job, request: Embed) -> None:
        """Queue a request.

        Raises:
            CarError: It cannot be done (``context_overflow``, ``unsupported_mode``,
                ``message_too_large``).
        """
        self._encoder.check()
        total = len(request.texts) * self._encoder.dimensions * _FLOAT32_BYTES
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
        tokens = self._encoder.tokenize(text)
        if len(tokens) > self._encoder.limit:
            raise context_overflow(len(tokens), self._encoder.limit, f"text {index}", index=index)
        return tokens

    def _advance(self, embedding: Embedding) -> bool:
        """Embed the next batch of a request, or answer it; returns whether it is answered."""
        if embedding.job.cancelled.is_set():
            return True
        batch = self._next_batch(embedding)
        if batch:
            vectors = self._encoder.encode(batch, embedding.job)
            embedding.vectors += map(_unit, vectors)
            return False
        data = b"".join(vector.astype("<f4").tobytes() for vector in embedding.vectors)
        embedding.job.reply(
            Embeddings(
                data=data,
                dimensions=self._encoder.dimensions,
                prompt_tokens=sum(map(len, embedding.texts)),
            )
        )
        return True

    def _next_batch(self, embedding: Embedding) -> list[list[int]]:
        start = len(embedding.vectors)
        batch: list[list[int]] = []
        room = min(self._encoder.limit, BATCH_TOKENS)
        for tokens in embedding.texts[start : start + BATCH_TEXTS]:
            room -= len(tokens)
            if room < 0 and batch:
                break
            batch.append(tokens)
        return batch


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise CarError("inference_failed", "the model gave a vector without a direction")
    return vector / np.float32(length)
