"""A llama.cpp context: the memory and the buffers that decoding works in."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from car_rpc.workers.llama_cpp.native import lib
from car_rpc.workers.llama_cpp.state import HEADER_BYTES, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.model import Model

# llama.cpp asks this function many times per batch whether to stop. A Python function would
# take the interpreter's lock each time; C's strlen has the right form, as the length of a text
# is 0 (go on) or 1 (stop) by its first byte.
_IS_SET = ctypes.cast(ctypes.CDLL(None).strlen, lib.ggml_abort_callback)


class DecodeError(Exception):
    """llama_decode failed; the text is its code."""

    @property
    def interrupted(self) -> bool:
        """Whether the owner of the batch was cancelled."""
        return self.args == (_ABORTED,)


_pointer_to: Any = ctypes.POINTER


def _pointer(address: int, kind: Any) -> Any:
    return ctypes.cast(address, _pointer_to(kind))


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


#: enum llama_flash_attn_type
FLASH_AUTO, _FLASH_OFF = -1, 0

#: LLAMA_STATE_SEQ_FLAGS_NONE, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_WHOLE, _PART = 0, 1

#: llama.cpp lays out what it computes behind the list of the outputs, a 32-bit number for each.
#: Where that list does not fill its last line of the processor's cache (64 bytes), all behind it
#: crosses lines, and vectors of 512 bits are read so slowly that a prompt takes 40 % longer.
_OUTPUTS_OF_A_LINE = 16

#: What llama_decode returns where the abort callback ended it.
_ABORTED = 2


def leaves_out_flash_attention() -> bool:
    """Whether contexts do without flash attention unless they ask for it."""
    return not lib.llama_supports_gpu_offload()


class Context:
    """A context with one batch to fill.

    On a processor flash attention is left out: with it a token behind 3,000 others takes three
    times as long, and its numbers depend on the threads and on what else is in the batch. Who only
    reads whole texts asks for it, as that takes half the time with it, and so does who answers
    short requests (:mod:`~car_rpc.workers.llama_cpp.generators`).
    Layers with a sliding window remember no more than that, which for Gemma 3 is a third of what
    all of it would take; checkpoints make up for it (:mod:`~car_rpc.workers.llama_cpp.sequences`).

    Args:
        model: The model; its weights are shared by all contexts.
        capacity: Most tokens of one batch.
        outputs: Most of them that something is read from; ``None`` for all.
        **settings: Members of ``llama_context_params``.

    Raises:
        MemoryError: llama.cpp could not create it.
    """

    def __init__(
        self, model: Model, capacity: int, outputs: int | None = None, **settings: Any
    ) -> None:
        self._params = lib.llama_context_default_params()
        defaults = {
            "n_batch": capacity,
            "n_ubatch": capacity,
            "n_outputs_max": -(-(outputs or capacity) // _OUTPUTS_OF_A_LINE) * _OUTPUTS_OF_A_LINE,
            "swa_full": False,
            "flash_attn_type": _FLASH_OFF if leaves_out_flash_attention() else FLASH_AUTO,
        }
        for name, value in {**defaults, **settings}.items():
            setattr(self._params, name, value)
        self.handle: Any = lib.llama_init_from_model(model.handle, self._params)
        if not self.handle:
            raise MemoryError
        model.adapt(self.handle)
        self._threads = model.threads
        self._encodes = bool(lib.llama_model_has_encoder(model.handle))
        self._memory: Any = lib.llama_get_memory(self.handle)
        self._batch = _Batch(capacity)
        self._sequences = int(self._params.n_seq_max)
        self._recurs = model.recurs
        #: Whether what is remembered of a sequence can move to a context with more of them.
        self.can_move = model.can_move
        # A window that all of a sequence fits into forgets nothing.
        self._window = model.window if self.room > model.window else 0
        self._abort = ctypes.create_string_buffer(2)
        lib.llama_set_abort_callback(self.handle, _IS_SET, self._abort)

    @property
    def room(self) -> int:
        """Tokens of one sequence."""
        return int(lib.llama_n_ctx_seq(self.handle))

    def decode(self, rows: Sequence[Row], owner: Job | None = None) -> None:
        """Run the model over a batch.

        Args:
            rows: The batch.
            owner: The request that the whole batch belongs to; cancelling it ends the run.

        Raises:
            DecodeError: It failed; the sequences of the batch must be dropped.
        """
        run = lib.llama_encode if self._encodes else lib.llama_decode
        self.run(lambda: run(self.handle, self._batch.of(rows)), owner)

    def run(self, act: Callable[[], int], owner: Job | None) -> None:
        """Let a native function use the context.

        Args:
            act: Calls it; returns its code, which is 0 when all went well.
            owner: The request that it works for; cancelling it ends the run.

        Raises:
            DecodeError: It failed.
        """
        threads = self._threads.count()
        lib.llama_set_n_threads(self.handle, threads, threads)
        with owner.interruptible(self._interrupt) if owner is not None else nullcontext():
            code = act()
        self._abort[0] = b"\0"
        if code != 0:
            raise DecodeError(code)

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

    @property
    def can_cut(self) -> bool:
        """Whether a sequence can be cut anywhere, at any time."""
        return not (self._recurs or self._window)

    def shortest(self, sequence: int) -> int:
        """The fewest tokens that a sequence can be cut to."""
        if self.can_cut:
            return 0
        if self._recurs:
            return int(lib.llama_memory_seq_pos_max(self._memory, sequence)) + 1
        # The token behind the cut looks back at one fewer than the window is long
        # (llama_hparams::is_masked_swa).
        first = int(lib.llama_memory_seq_pos_min(self._memory, sequence))
        return first + self._window - 1 if first > 0 else 0

    def cut(self, sequence: int, length: int) -> bool:
        """Forget all but the first tokens of a sequence; tells whether its memory can do so.

        Of a sliding window llama.cpp itself does not tell.
        """
        return length >= self.shortest(sequence) and self._cut(sequence, length)

    def _cut(self, sequence: int, length: int) -> bool:
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def state_bytes(self, sequence: int) -> int:
        """Size of what :meth:`save` copies."""
        return int(lib.llama_state_seq_get_size_ext(self.handle, sequence, _WHOLE))

    def save(self, sequence: int) -> State:
        """A copy of what is remembered of a sequence."""
        return self._saved(sequence, _WHOLE)

    def restore(self, sequence: int, state: State) -> bool:
        """Let an empty sequence be what was saved; tells whether there was room.

        The state may come from a context with another number of sequences.
        """
        return self._restored(sequence, state, _WHOLE)

    def save_part(self, sequence: int) -> State:
        """A copy of the part that cannot be cut: the window, or the state of recurrent layers."""
        return self._saved(sequence, _PART)

    def rewind(self, sequence: int, part: State, length: int) -> bool:
        """Cut a sequence to the length at which a part was saved; tells whether it succeeded."""
        return self._restored(sequence, part, _PART) and self._cut(sequence, length)

    def _saved(self, sequence: int, which: int) -> State:
        size, part = (
            int(lib.llama_state_seq_get_size_ext(self.handle, sequence, flags))
            for flags in (which, _PART)
        )
        data = np.empty(size, dtype=np.uint8)
        pointer = _pointer(data.ctypes.data, ctypes.c_uint8)
        lib.llama_state_seq_get_data_ext(self.handle, pointer, size, sequence, which)
        # First comes the attention cache that can be cut, then what cannot: the part.
        middle = size - part + HEADER_BYTES
        caches = [(HEADER_BYTES, middle)] if middle > HEADER_BYTES else []
        if not self._recurs:
            caches.append((middle, size))
        return State(data, caches)

    def _restored(self, sequence: int, state: State, which: int) -> bool:
        data = state.for_sequences(self._sequences)
        pointer = _pointer(data.ctypes.data, ctypes.c_uint8)
        restored = lib.llama_state_seq_set_data_ext(
            self.handle, pointer, data.nbytes, sequence, which
        )
        return bool(restored)

    def close(self) -> None:
        """Free it; nothing can be done with it any more."""
        lib.llama_free(self.handle)

    def clear(self) -> None:
        """Forget everything. An encoder has no memory to forget."""
        if self._memory:
            lib.llama_memory_clear(self._memory, True)


class _Batch:
    """A ``llama_batch`` over arrays, which take a row in a tenth of the time of its fields."""

    def __init__(self, capacity: int) -> None:
        self._tokens, self._positions, self._counts, self._sequences = np.ones(
            (4, capacity), dtype=np.int32
        )
        self._outputs = np.zeros(capacity, dtype=np.int8)
        start, size = self._sequences.ctypes.data, self._sequences.itemsize
        addresses = (ctypes.c_void_p * capacity)(*(start + row * size for row in range(capacity)))
        self._sequence_of_row = addresses
        self._batch = lib.llama_batch(
            token=_pointer(self._tokens.ctypes.data, lib.llama_token),
            pos=_pointer(self._positions.ctypes.data, lib.llama_pos),
            n_seq_id=_pointer(self._counts.ctypes.data, ctypes.c_int32),
            seq_id=_pointer(ctypes.addressof(addresses), _pointer_to(lib.llama_seq_id)),
            logits=_pointer(self._outputs.ctypes.data, ctypes.c_int8),
        )

    def of(self, rows: Sequence[Row]) -> Any:
        """The batch with these rows; valid until the next."""
        count = self._batch.n_tokens = len(rows)
        tokens, positions, sequences, outputs = zip(*rows, strict=True)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._sequences[:count] = sequences
        self._outputs[:count] = outputs
        return self._batch
