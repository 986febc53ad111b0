"""Make vectors of texts from what the model knows before it would choose a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from car_rpc.errors import unsupported_mode
from car_rpc.workers.embedding import MAX_TEXT_TOKENS
from car_rpc.workers.mlx.native import BACKEND, mx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from car_rpc.wire.models import Pooling
    from car_rpc.workers.job import Job
    from car_rpc.workers.mlx.model import Model
    from car_rpc.workers.mlx.vocab import Vocab


class MlxEncoder:
    """A folder of MLX weights that makes vectors.

    Args:
        model: The model.
        vocab: Its vocabulary.
        pooling: How the vectors of tokens become one.
        context_length: Longest text that was asked for, in tokens.
    """

    def __init__(self, model: Model, vocab: Vocab, pooling: Pooling, context_length: int) -> None:
        self._model = model
        self._vocab = vocab
        self._pooling = pooling
        self.dimensions = model.hidden_size
        self.limit = min(context_length, MAX_TEXT_TOKENS)

    def check(self) -> None:
        """Refuse where the pooling or the architecture gives no vector per text."""
        if self._pooling == "none":
            raise unsupported_mode(
                "embed", BACKEND, "its pooling gives no vector per text; set pooling to mean"
            )
        if not self.dimensions:
            raise unsupported_mode(
                "embed", BACKEND, "this architecture does not show its hidden states"
            )

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, at least one."""
        tokens = self._vocab.tokenize(text, special=False, framed=True)
        return tokens or [self._vocab.filler]

    def encode(self, batch: Sequence[list[int]], owner: Job | None) -> list[NDArray[np.float32]]:
        """The pooled vector of each text."""
        del owner  # a batch is short, and MLX has no way to end one early
        longest = max(map(len, batch))
        # No token of these models sees a later one, so what fills up a row changes nothing.
        rows = mx.array([tokens + [0] * (longest - len(tokens)) for tokens in batch])
        hidden: NDArray[np.float32] = np.array(self._model.hidden_states(rows).astype(mx.float32))
        return [self._pool(row[: len(tokens)]) for row, tokens in zip(hidden, batch, strict=True)]

    def _pool(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        chosen = {"mean": vectors, "cls": vectors[:1], "last": vectors[-1:]}[self._pooling]
        mean: NDArray[np.float32] = chosen.mean(axis=0)
        return mean
