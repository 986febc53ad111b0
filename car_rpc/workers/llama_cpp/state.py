"""What llama.cpp saves of a sequence, and how another context takes it.

A state is a mark, the number of the sequence, and what each kind of layer remembers of it
(llama.cpp, ``llama_context::state_seq_write_data`` and the ``state_write`` of each memory). An
attention cache says of how many sequences it is, and then of each how many tokens it holds, which
is none but for the saved one. So a state from a context with two sequences is refused by one with
four, though all that differs are some zeros. Recurrent layers say nothing of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_WORD = np.dtype(np.uint32).itemsize

#: The mark and the number of the sequence.
HEADER_BYTES = 2 * _WORD


@dataclass(eq=False, frozen=True)
class State:
    """A saved state, or a part of one.

    Attributes:
        data: The state as llama.cpp wrote it.
        caches: Where the attention caches in it begin and end; in bytes, in ascending order.
    """

    data: NDArray[np.uint8]
    caches: Sequence[tuple[int, int]]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.data.nbytes

    def for_sequences(self, count: int) -> NDArray[np.uint8]:
        """The state as a context with so many sequences would have saved it of its first."""
        number = _word(self.data, _WORD)
        pieces: list[NDArray[np.uint8]] = []
        end = 0
        for begin, cache_end in self.caches:
            sequences = _word(self.data, begin)
            if sequences == count:
                continue
            first = begin + _WORD * (1 + number)
            last = cache_end - _WORD * (sequences - number - 1)
            others = np.zeros(count - 1, np.uint32)
            pieces += [
                self.data[end:begin],
                np.array([count], np.uint32).view(np.uint8),
                self.data[first:last],
                others.view(np.uint8),
            ]
            end = cache_end
        return np.concatenate([*pieces, self.data[end:]]) if pieces else self.data


def _word(data: NDArray[np.uint8], begin: int) -> int:
    return int.from_bytes(data[begin : begin + _WORD].tobytes(), "little")
