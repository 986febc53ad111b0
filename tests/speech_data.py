"""The recorded sentence, in every form that audio comes in."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

SENTENCE = Path(__file__).parent / "data" / "go-somewhere.wav"
TEXT = "go somewhere and do something"
RATE = 16_000


def samples() -> Any:
    """The sentence as float32, 16,000 a second."""
    return soundfile.read(SENTENCE, dtype="float32")[0]


def written(values: Any, rate: int = RATE, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """An audio file with these values in it."""
    file = io.BytesIO()
    soundfile.write(file, values, rate, format=kind, subtype=subtype)
    return file.getvalue()


def sentence(
    rate: int = RATE, channels: int = 1, kind: str = "WAV", subtype: str = "PCM_16", times: int = 1
) -> bytes:
    """The sentence, said `times` times, as a file of this form."""
    values = np.tile(samples(), times)
    if rate != RATE:
        values = soxr.resample(values, RATE, rate)
    return written(np.repeat(values[:, None], channels, axis=1), rate, kind, subtype)
