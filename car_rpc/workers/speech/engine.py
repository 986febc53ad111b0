"""The engine that a worker runs for speech: one recording after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.speech import Word
from car_rpc.wire.worker import Load, Loaded, Transcribe, Transcribed
from car_rpc.workers.audio import RATE, Audio, open_audio
from car_rpc.workers.serial import SerialQueue, Work
from car_rpc.workers.speech.pieces import pieces
from car_rpc.workers.speech.recognizer import Recognizer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from car_rpc.workers.job import Job

#: Name of the backend in errors.
BACKEND = "pocketsphinx"

#: The language of the model, and the names it may be asked for by.
LANGUAGE = "en"
LANGUAGE_NAMES = (LANGUAGE, "en-us", "english")

#: Most bytes of audio that wait for their turn.
MAX_WAITING_BYTES = 256 * 1024 * 1024


class SpeechEngine:
    """Writes down what is said."""

    _recognizer: Recognizer

    def __init__(self) -> None:
        self._queue = SerialQueue()

    def load(self, load: Load, progress: Callable[[float], None]) -> Loaded:
        """Load the model that the library carries."""
        self._recognizer = Recognizer()
        progress(100.0)
        return Loaded(
            context_length=0,
            model_bytes=self._recognizer.model_bytes,
            engine=self._recognizer.version,
        )

    def start(self, job: Job) -> None:
        """Queue a recording."""
        request = job.request
        if not isinstance(request, Transcribe):
            mode = type(request).__name__.lower()
            raise unsupported_mode(mode, BACKEND, "a speech model only transcribes")
        _check_language(request.language)
        waiting = [*(waiting.request for waiting in self._queue.jobs), request]
        size = sum(len(r.audio or b"") for r in waiting if isinstance(r, Transcribe))
        if size > MAX_WAITING_BYTES:
            raise CarError("overloaded", "too much audio waits already; wait for responses")
        self._queue.add(job, self._transcribe(request))

    def step(self) -> bool:
        """Decode a chunk."""
        return self._queue.step()

    def reset(self) -> None:
        """Forget all work."""
        self._queue.reset()

    def _transcribe(self, request: Transcribe) -> Work:
        try:
            with open_audio(request.audio, request.path) as audio:
                self._recognizer.begin()
                words = yield from self._words(audio)
        except CarError as error:
            if error.kind != "invalid_request":  # it names the file
                raise
            place = "$.audio_path" if request.audio is None else "$.audio_b64"
            detail = f"{error.detail} - at `{place}`"
            raise CarError(error.kind, detail, path=place) from error
        return Transcribed(
            text=" ".join(word.word for word in words),
            language=LANGUAGE,
            words=words if request.timestamps else [],
        )

    def _words(self, audio: Audio) -> Generator[None, None, list[Word]]:
        words: list[Word] = []
        for piece in pieces(audio.blocks()):
            start_ms = piece.start * 1000 // RATE
            heard = yield from self._recognizer.recognize(piece.samples)
            words += [
                Word(
                    word=word,
                    start_ms=start_ms + begin,
                    # The decoder's last frame may reach beyond the samples.
                    end_ms=min(start_ms + end, audio.duration_ms),
                    confidence=confidence,
                )
                for word, begin, end, confidence in heard
            ]
        return words


def make_engine() -> SpeechEngine:
    """An engine with no model yet."""
    return SpeechEngine()


def _check_language(asked: str | None) -> None:
    if asked is not None and asked.lower().replace("_", "-") not in LANGUAGE_NAMES:
        languages = list(LANGUAGE_NAMES)
        raise CarError(
            "unsupported_mode",
            f"this model does not speak {asked!r}; leave out `language` or use one of"
            f" {', '.join(languages)}",
            languages=languages,
        )
