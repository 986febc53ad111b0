"""The recognizer of pocketsphinx, a short chunk of audio at a time."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pocketsphinx  # pyright: ignore[reportMissingTypeStubs] - it ships none

from car_rpc.errors import CarError
from car_rpc.workers.audio import RATE, Samples

if TYPE_CHECKING:
    from collections.abc import Generator

#: The library is compiled and has no types.
_pocketsphinx: Any = pocketsphinx

#: The model that the package carries.
MODEL = "en-us"

#: Samples decoded at once: 100 ms. The library holds Python's lock meanwhile, so this is how
#: long a cancel waits to be heard.
_CHUNK = RATE // 10

#: Frames of the decoder's segments last 10 ms.
_FRAME_MS = 10

#: Silence and noise, which the dictionary spells <sil>, [NOISE] or ++UH++.
_FILLER = re.compile(r"<.*>|\[.*\]|\+\+.*\+\+")

#: Number of an alternate pronunciation, as in "and(2)".
_ALTERNATE = re.compile(r"\(\d+\)$")


class Heard(NamedTuple):
    """A word; times in milliseconds from the beginning of the samples."""

    word: str
    start_ms: int
    end_ms: int
    confidence: float


class Recognizer:
    """Recognizes American English.

    Raises:
        CarError: ``model_load_failed`` when the package lacks its model.
    """

    def __init__(self) -> None:
        folder = Path(_pocketsphinx.get_model_path(MODEL))
        files = {
            "hmm": str(folder / MODEL),
            "lm": str(folder / f"{MODEL}.lm.bin"),
            "dict": str(folder / f"cmudict-{MODEL}.dict"),
        }
        try:
            self._decoder = _pocketsphinx.Decoder(samprate=RATE, loglevel="ERROR", **files)
        except RuntimeError as error:
            raise CarError(
                "model_load_failed",
                f"pocketsphinx cannot load its model from {folder} ({error});"
                " install it as a wheel of version 5 or later",
            ) from error
        self.model_bytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        self.version = f"pocketsphinx {importlib.metadata.version('pocketsphinx')}"

    def begin(self) -> None:
        """Forget the last recording: the same audio gives the same words, whatever came before."""
        # What it has learnt of the noise and of the microphone, in a tenth of a millisecond.
        self._decoder.reinit_feat()

    def recognize(self, samples: Samples) -> Generator[None, None, list[Heard]]:
        """Recognize one utterance; yields between chunks and returns the words."""
        data = (samples * np.float32(32767)).astype("<i2")
        self._decoder.start_utt()
        try:
            for start in range(0, len(data), _CHUNK):
                self._decoder.process_raw(data[start : start + _CHUNK].tobytes())
                yield
        finally:
            self._decoder.end_utt()
        return [
            Heard(
                _ALTERNATE.sub("", segment.word),
                segment.start_frame * _FRAME_MS,
                (segment.end_frame + 1) * _FRAME_MS,
                round(min(max(segment.prob, 0.0), 1.0), 4),
            )
            for segment in self._decoder.seg() or ()
            if not _FILLER.fullmatch(segment.word)
        ]
