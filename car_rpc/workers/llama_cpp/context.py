"""A llama.cpp context: the memory and the buffers that decoding works in."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from car_rpc.workers.llama_cpp.native import cpu_threads, lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.model import Model

# llama.cpp asks this function many times per batch whether to stop. A Python function would
# take the interpreter's lock each time; C's strlen has the right form, as the length of a text
# is 0 (go on) or 1 (stop) by its first byte.
_IS_SET = ctypes.cast(ctypes.CDLL(None).strlen, lib.ggml_abort_callback)


class DecodeError(Exception):
    """llama_decode failed; the text is its code."""


class Row(NamedTuple):
    """One token of a batch.

    Attributes:
        token: The token.
        position: Its place in the sequence, from 0.
        sequence: The sequence that it belongs to.
        output: Whether something is read from it afterwards.
    """

    token: int
    position: int
    sequence: int
    output: bool


class Context:
    """A context with one batch to fill.

    Args:
        model: The model; its weights are shared by all contexts.
        capacity: Most tokens of one batch.
        **settings: Members of ``llama_context_params``.

    Raises:
        MemoryError: llama.cpp could not create it.
    """

    def __init__(self, model: Model, capacity: int, **settings: Any) -> None:
        self._params = lib.llama_context_default_params()
        threads = cpu_threads(model.size_bytes)
        defaults = {
            "n_batch": capacity,
            "n_ubatch": capacity,
            "n_threads": threads,
            "n_threads_batch": threads,
        }
        for name, value in {**defaults, **settings}.items():
            setattr(self._params, name, value)
        self.handle: Any = lib.llama_init_from_model(model.handle, self._params)
        if not self.handle:
            raise MemoryError
        self._encodes = bool(lib.llama_model_has_encoder(model.handle))
        self._memory: Any = lib.llama_get_memory(self.handle)
        self._batch: Any = lib.llama_batch_init(capacity, 0, 1)
        self._abort = ctypes.create_string_buffer(2)
        lib.llama_set_abort_callback(self.handle, _IS_SET, self._abort)

    def decode(self, rows: Sequence[Row], owner: Job | None = None) -> None:
        """Run the model over a batch.

        Args:
            rows: The batch.
            owner: The request that the whole batch belongs to; cancelling it ends the run.

        Raises:
            DecodeError: It failed; the sequences of the batch must be dropped.
        """
        batch = self._batch
        for index, row in enumerate(rows):
            batch.token[index] = row.token
            batch.pos[index] = row.position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row.sequence
            batch.logits[index] = row.output
        batch.n_tokens = len(rows)
        run = lib.llama_encode if self._encodes else lib.llama_decode
        with owner.interruptible(self._interrupt) if owner is not None else nullcontext():
            code: int = run(self.handle, batch)
        self._abort[0] = b"\0"
        if code != 0:
            raise DecodeError(str(code))

    def _interrupt(self) -> None:
        self._abort[0] = b"\1"

    def logits(self, index: int, size: int) -> NDArray[np.float32]:
        """Logits of the batch's row ``index``; valid until the next batch."""
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self.handle, index), shape=(size,))

    def pooled(self, sequence: int, size: int) -> NDArray[np.float32]:
        """A copy of the pooled embedding of a sequence in the last batch."""
        vector = lib.llama_get_embeddings_seq(self.handle, sequence)
        return np.ctypeslib.as_array(vector, shape=(size,)).copy()

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def cut(self, sequence: int, length: int) -> bool:
        """Forget all but the first tokens of a sequence; tells whether its memory can do so."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def clear(self) -> None:
        """Forget everything. An encoder has no memory to forget."""
        if self._memory:
            lib.llama_memory_clear(self._memory, True)
