"""Audio files of any kind as blocks of mono samples at the rate that a model takes.

A file is read a block at a time, so memory does not grow with its length. Nobody vouches for
its content: what is wrong with it is an ``invalid_request`` that says so.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs] - it ships none
import soxr  # pyright: ignore[reportMissingTypeStubs] - it ships none
from numpy.typing import NDArray

from car_rpc.errors import CarError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

Samples: TypeAlias = NDArray[np.float32]

#: Samples per second that speech models take.
RATE = 16_000

#: Largest file, in bytes.
MAX_AUDIO_BYTES = 1024**3

#: Longest audio, in seconds.
MAX_AUDIO_S = 2 * 60 * 60

#: Sample rates that are taken for real, in Hz: from below telephony to above studio equipment.
MIN_FILE_RATE, MAX_FILE_RATE = 4_000, 384_000

#: Values read at once, over all channels.
_BLOCK_VALUES = 64 * 1024

#: Where libsndfile notes that the samples are fewer than the file's header says.
_CUT_OFF = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be \d+\)", re.MULTILINE)

#: Sizes from here on mean "unknown": programs that write to a pipe put them (SoX 0x7FFFF000,
#: ffmpeg 0xFFFFFFFF).
_UNKNOWN_SIZE = 0x7FFF_F000


class Audio:
    """An open audio file. Create it with :func:`open_audio`."""

    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self._rate: int = file.samplerate
        self._read = 0
        if not MIN_FILE_RATE <= self._rate <= MAX_FILE_RATE:
            raise _invalid(
                f"its sample rate is {self._rate} Hz; give one from {MIN_FILE_RATE} to"
                f" {MAX_FILE_RATE} Hz"
            )
        declared = _CUT_OFF.search(file.extra_info)
        if declared is not None and int(declared[1]) < _UNKNOWN_SIZE:
            raise _cut_off()

    @property
    def duration_ms(self) -> int:
        """Length of what was read so far, rounded up to a millisecond."""
        return -(-self._read * 1000 // self._rate)

    def blocks(self, rate: int = RATE) -> Iterator[Samples]:
        """Mono samples from -1 to 1.

        Args:
            rate: How many a second.

        Raises:
            CarError: ``invalid_request`` when the file is damaged, empty or too long.
        """
        resampler = soxr.ResampleStream(self._rate, rate, num_channels=1, dtype="float32")
        for block in self._mono():
            yield _limited(resampler.resample_chunk(block))
        yield _limited(resampler.resample_chunk(np.empty(0, np.float32), last=True))

    def _mono(self) -> Iterator[Samples]:
        frames = max(1, _BLOCK_VALUES // self._file.channels)
        while len(block := self._file.read(frames, dtype="float32", always_2d=True)):
            if not np.isfinite(block).all():
                raise _invalid("some of its samples are no finite numbers")
            self._read += len(block)
            if self._read > MAX_AUDIO_S * self._rate:
                raise _invalid(f"it is longer than {MAX_AUDIO_S} s; send it in parts")
            yield block.mean(axis=1, dtype=np.float32)
        if not self._read:
            raise _invalid("it holds no samples")
        # The length of an MP3 file may be a guess from its first frames.
        if self._read < self._file.frames and self._file.format != "MP3":
            raise _cut_off()


@contextmanager
def open_audio(content: bytes | None, path: str) -> Generator[Audio]:
    """Open a file that was sent, or else the one at a path.

    Raises:
        CarError: ``io_error`` for a path that cannot be read, ``invalid_request`` for what is
            no audio; also for what the library finds wrong while the file is open.
    """
    if content == b"":
        raise _invalid("it is empty")
    try:
        if content is not None:
            with soundfile.SoundFile(io.BytesIO(content)) as file:
                yield Audio(file)
        else:
            # By descriptor: the library guesses from names, and `.raw` is no guess to make.
            with (
                _open(path) as stream,
                soundfile.SoundFile(stream.fileno(), closefd=False) as file,
            ):
                yield Audio(file)
    except soundfile.LibsndfileError as error:
        raise _invalid(f"{error.error_string} Send WAV, FLAC, Ogg, MP3 or AIFF") from None


def _open(name: str) -> io.BufferedReader:
    path = Path(name)
    try:
        if not path.is_file() and path.exists():
            raise CarError("io_error", f"cannot read {name}: it is no file", path=name)
        stream = path.open("rb")
    except OSError as error:
        raise CarError("io_error", f"cannot read {name}: {error.strerror}", path=name) from None
    size = path.stat().st_size
    if not 0 < size <= MAX_AUDIO_BYTES:
        stream.close()
        raise _invalid(f"it has {size} bytes; from 1 to {MAX_AUDIO_BYTES} are taken")
    return stream


def _limited(samples: Samples) -> Samples:
    # Floating-point files may exceed full scale, and resampling may, too.
    return np.clip(samples, -1.0, 1.0)


def _cut_off() -> CarError:
    return _invalid("it is cut off: its header says that there is more; send the whole file")


def _invalid(problem: str) -> CarError:
    return CarError("invalid_request", f"the audio cannot be used: {problem}")
