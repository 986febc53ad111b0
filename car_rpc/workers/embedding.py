"""Embed texts, a batch per step: what every engine does around its own model."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np

from car_rpc.errors import CarError
from car_rpc.wire.worker import MAX_WORKER_FRAME_BYTES, Embed, Embeddings
from car_rpc.workers.generation import context_overflow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from car_rpc.workers.job import Job

#: Longest text in tokens. Pooling needs a text in one piece, and
#: the buffers for a piece grow with its square; embedding models are made for 512 to 2048.
MAX_TEXT_TOKENS = 2048

#: Most texts and tokens of one batch (a longer text goes alone): more gain nothing on a CPU,
#: and answers that are generated meanwhile wait for a batch.
BATCH_TEXTS = 32
BATCH_TOKENS = 256

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

    def encode(
        self, batch: Sequence[list[int]], owner: Job | None
    ) -> Sequence[NDArray[np.float32]]:
        """A vector of any length for each text; cancelling the owner of all may end it early."""
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

    @property
    def waiting(self) -> Iterator[list[int]]:
        """The texts that have no vector yet."""
        return islice(self.texts, len(self.vectors), None)


class Embedder:
    """Embeds texts, a batch per step, in the order of requests; small ones share a batch.

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
        wanted = [each for each in self._queue if not each.job.cancelled.is_set()]
        self._queue = deque(wanted)
        texts = ((each, tokens) for each in wanted for tokens in each.waiting)
        batch = list(islice(texts, BATCH_TEXTS))
        size = batch_size([tokens for _, tokens in batch], self._encoder.limit)
        if size:
            self._embed(batch[:size])
        while self._queue and len(self._queue[0].vectors) == len(self._queue[0].texts):
            self._answer(self._queue.popleft())
        return bool(self._queue)

    def reset(self) -> None:
        """Forget all requests."""
        self._queue.clear()

    def _tokens(self, index: int, text: str) -> list[int]:
        tokens = self._encoder.tokenize(text)
        if len(tokens) > self._encoder.limit:
            raise context_overflow(len(tokens), self._encoder.limit, f"text {index}", index=index)
        return tokens

    def _embed(self, batch: Sequence[tuple[Embedding, list[int]]]) -> None:
        embeddings = list(dict.fromkeys(each for each, _ in batch))
        owner = embeddings[0].job if len(embeddings) == 1 else None
        try:
            vectors = self._encoder.encode([tokens for _, tokens in batch], owner)
        except CarError as error:
            for each in embeddings:
                self._fail(each, error)
            return
        for (each, _), vector in zip(batch, vectors, strict=True):
            try:
                each.vectors.append(_unit(vector))
            except CarError as error:
                self._fail(each, error)

    def _answer(self, embedding: Embedding) -> None:
        data = b"".join(vector.astype("<f4").tobytes() for vector in embedding.vectors)
        result = Embeddings(
            data=data,
            dimensions=self._encoder.dimensions,
            prompt_tokens=sum(map(len, embedding.texts)),
        )
        try:
            embedding.job.reply(result)
        except CarError as error:
            embedding.job.fail(error)

    def _fail(self, embedding: Embedding, error: CarError) -> None:
        embedding.job.fail(error)
        if embedding in self._queue:
            self._queue.remove(embedding)


def batch_size(texts: Iterable[Sequence[int]], limit: int) -> int:
    """How many of some texts go into one batch, the first in any case.

    Args:
        texts: Their tokens.
        limit: Most tokens that the model takes at once.
    """
    room = min(limit, BATCH_TOKENS)
    count = 0
    for tokens in texts:
        room -= len(tokens)
        if count and (room < 0 or count == BATCH_TEXTS):
            break
        count += 1
    return count


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise CarError("inference_failed", "the model gave a vector without a direction")
    return vector / np.float32(length)
