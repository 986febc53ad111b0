"""Make vectors of texts in a context of their own, on the same weights."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.workers.embedding import BATCH_TEXTS, MAX_TEXT_TOKENS
from car_rpc.workers.llama_cpp.context import FLASH_AUTO, Context, DecodeError, Row
from car_rpc.workers.llama_cpp.native import BACKEND

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from car_rpc.wire.models import Pooling
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.model import Model
    from car_rpc.workers.llama_cpp.vocab import Vocab

#: enum llama_pooling_type
_POOLING: dict[Pooling, int] = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
POOLING_RANK = _POOLING["rank"]


class LlamaEncoder:
    """A GGUF model that makes vectors.

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
        self._pooling = pooling_type(model, pooling)
        self.dimensions = model.embedding_size
        self.limit = min(context_length, MAX_TEXT_TOKENS)

    def check(self) -> None:
        """Refuse where the pooling gives no vector per text."""
        if self._pooling in (_POOLING["none"], POOLING_RANK):
            raise unsupported_mode(
                "embed", BACKEND, "its pooling gives no vector per text; set pooling to mean"
            )

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, at least one."""
        tokens = self._vocab.tokenize(text, special=False, framed=True)
        return tokens or [self._vocab.filler]

    def encode(self, batch: Sequence[list[int]], owner: Job | None) -> list[NDArray[np.float32]]:
        """The pooled vector of each text."""
        self._context.clear()
        try:
            self._context.decode(rows_of(batch), owner)
        except DecodeError as error:
            raise CarError(
                "inference_failed", f"llama.cpp could not embed (code {error})"
            ) from error
        return [self._context.pooled(index, self.dimensions) for index in range(len(batch))]

    @cached_property
    def _context(self) -> Context:
        try:
            return Context(
                self._model,
                self.limit,
                n_ctx=self.limit,
                n_seq_max=BATCH_TEXTS,
                kv_unified=True,  # texts of any length share the room
                embeddings=True,
                pooling_type=self._pooling,
                flash_attn_type=FLASH_AUTO,
            )
        except MemoryError as error:
            raise CarError(
                "out_of_memory", "no room to embed beside the model; unload another model"
            ) from error


def rows_of(texts: Sequence[list[int]]) -> list[Row]:
    """A batch of texts, each a sequence by its number, of which everything is read."""
    return [
        Row(token, position, sequence, output=True)
        for sequence, tokens in enumerate(texts)
        for position, token in enumerate(tokens)
    ]


def pooling_type(model: Model, asked: Pooling | None) -> int:
    """llama.cpp's number of a pooling; the model's own choice, else the mean, when ``None``."""
    if asked is not None:
        return _POOLING[asked]
    return int(model.architecture_value("pooling_type") or 0) or _POOLING["mean"]
