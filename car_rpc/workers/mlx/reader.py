"""Read logits in a cache of their own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from car_rpc.workers.judge import MAX_PROMPT_TOKENS
from car_rpc.workers.mlx.model import PREFILL_CHUNK
from car_rpc.workers.mlx.native import mx
from car_rpc.workers.prefix import common

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from car_rpc.workers.job import Job
    from car_rpc.workers.mlx.model import Model


class MlxReader:
    """A folder of MLX weights whose logits can be read.

    Args:
        model: The model.
        context_length: Tokens of context that were asked for.
    """

    def __init__(self, model: Model, context_length: int) -> None:
        self._model = model
        self.limit = min(context_length, MAX_PROMPT_TOKENS)
        self._prompt: Sequence[int] = []
        self._cache: list[Any] = []  # of the prompt

    def read(self, job: Job, prompt: Sequence[int]) -> Generator[None, None, NDArray[np.float32]]:
        """Read a prompt, a chunk a step; returns the logits of what follows it.

        What it begins with like the one before is known: documents are asked about one after the
        other, with the same question.
        """
        del job  # a chunk is short, and MLX has no way to end one early
        # The last token alone: for each that is read with it, logits would be computed as well.
        before = prompt[:-1]
        known = common(self._prompt, before) if self._model.plain_attention else 0
        if known:
            for layer in self._cache:
                layer.trim(len(self._prompt) - known)
        else:
            self._cache = self._model.make_cache()
        self._prompt = []
        for start in range(known, len(before), PREFILL_CHUNK):
            self._model.logits(before[start : start + PREFILL_CHUNK], self._cache)
            mx.eval([layer.state for layer in self._cache])
            yield
        self._prompt = prompt
        return self._logits(prompt[-1:], self._cache)[0]

    def read_on(
        self, job: Job, tokens: Sequence[int]
    ) -> Generator[None, None, Sequence[NDArray[np.float32]]]:
        """Read what may follow the last prompt; returns the logits behind each of its tokens."""
        del job
        logits = self._logits(tokens, copy.deepcopy(self._cache))
        yield
        return logits

    def _logits(self, tokens: Sequence[int], cache: list[Any]) -> list[NDArray[np.float32]]:
        rows: NDArray[np.float32] = np.array(self._model.logits(tokens, cache).astype(mx.float32))
        return list(rows)
