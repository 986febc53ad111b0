"""Long audio in pieces that a recognizer can take as one utterance each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from car_rpc.workers.audio import RATE, Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Longest piece, in samples: what is searched again at the end of a piece, and what a cancel
#: may have to wait for, grows with it.
MAX_PIECE = 20 * RATE

#: What loudness is measured over, in samples: 20 ms.
_WINDOW = RATE // 50

#: Windows of a pause between words: 200 ms.
_PAUSE = 10


class Piece(NamedTuple):
    """A stretch of the audio; ``start`` is the index of its first sample."""

    start: int
    samples: Samples


def pieces(blocks: Iterable[Samples]) -> Iterator[Piece]:
    """Join blocks and cut them again, where it is quietest in the later half of a piece."""
    held, start = np.empty(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > MAX_PIECE:
            cut = _quietest(held[:MAX_PIECE])
            yield Piece(start, held[:cut])
            held, start = held[cut:], start + cut
    if len(held):
        yield Piece(start, held)


def _quietest(samples: Samples) -> int:
    """Index of the middle of the quietest pause in the later half."""
    half = len(samples) // 2
    windows = samples[half:][: half // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    energy = np.square(windows, dtype=np.float64).mean(axis=1)
    pauses = np.convolve(energy, np.ones(_PAUSE), mode="valid")
    return half + (int(pauses.argmin()) + _PAUSE // 2) * _WINDOW
