"""What remembering a sequence takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from car_rpc.workers.llama_cpp.context import Context, Row

if TYPE_CHECKING:
    from car_rpc.workers.llama_cpp.model import Model

#: llama.cpp makes the caches of windows a multiple of so many tokens (llama_kv_cache_iswa).
_WINDOW_STEP = 256


class Footprint(NamedTuple):
    """What remembering a sequence takes, in bytes.

    Attributes:
        fixed: Whatever its length: the states of recurrent layers.
        per_token: For each token.
        per_window_token: For each token that the layers with a sliding window remember.
        window: How many these are at most.
    """

    fixed: int
    per_token: int
    per_window_token: int
    window: int

    def of(self, tokens: int) -> int:
        """For a sequence of so many tokens."""
        in_window = min(tokens, self.window)
        return self.fixed + self.per_token * tokens + self.per_window_token * in_window


def footprint(model: Model, chunk: int) -> Footprint:
    """The footprint of a model's sequences.

    Where all layers are of one kind it follows from what the file says. Otherwise which layer
    remembers how much is known to llama.cpp alone, so that two short sequences are read, and the
    sizes of their states are compared. That brings the weights into memory, for which otherwise the
    first answer would wait.

    Args:
        model: The model.
        chunk: Most tokens that are read at once.

    Raises:
        MemoryError: There is no room for a small context.
    """
    if not (model.recurs or model.window):
        return Footprint(0, model.kv_bytes_per_token(), 0, 0)
    sizes = {"n_ctx": 2 * _WINDOW_STEP, "n_seq_max": 2, "outputs": 2}
    context = Context(model, chunk, **sizes, kv_unified=False)
    try:
        context.decode([Row(0, 0, 0, False), Row(0, 0, 1, False), Row(0, 1, 1, True)])
        whole_of_one, whole_of_two = (context.save(number).nbytes for number in (0, 1))
        part_of_one, part_of_two = (context.save_part(number).nbytes for number in (0, 1))
    finally:
        context.close()
    per_window_token = part_of_two - part_of_one
    return Footprint(
        fixed=part_of_one - per_window_token,
        per_token=whole_of_two - whole_of_one - per_window_token,
        per_window_token=per_window_token,
        window=-(-(model.window + chunk) // _WINDOW_STEP) * _WINDOW_STEP,
    )
