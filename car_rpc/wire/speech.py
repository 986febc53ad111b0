"""Speech: the ``transcribe`` method."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, UnitInterval, WireStruct


class TranscribeParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``transcribe``: the speech, and what is wanted of it.

    One of ``audio_b64`` and ``audio_path`` is required; ``audio_b64`` wins over ``audio_path``.
    WAV, FLAC, Ogg, MP3 and AIFF are read, of any sample rate from 4 to 384 kHz and with any
    number of channels, up to two hours and 1 GiB.

    Attributes:
        audio_path: The file; ``~`` is the user's home, and a relative path begins at the
            working directory of the process.
        audio_b64: The bytes of such a file in base64. The event log keeps their number and
            hash instead of them.
        model: Id or name of a model with the capability ``speech_to_text``.
        language: What is spoken, such as ``en``; the model's own language when absent. A model
            that does not speak it refuses.
        prompt: Names and terms that may occur. A hint: a model that takes none ignores it.
        timestamps: Whether to say when each word was spoken.
        progress_token: Ask for ``$/progress`` notifications with this token.
    """

    audio_path: str | UnsetType = UNSET
    audio_b64: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    language: str | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    timestamps: bool = False
    progress_token: int | str | UnsetType = UNSET


class Word(WireStruct, frozen=True, kw_only=True):
    """A word and when it was spoken.

    Attributes:
        word: The word, as the model writes it.
        start_ms: Where it begins, in milliseconds from the beginning of the audio.
        end_ms: Where it ends.
        confidence: How sure the model is, from 0 to 1: the word's posterior probability.
    """

    word: str
    start_ms: NonNegative
    end_ms: NonNegative
    confidence: UnitInterval | UnsetType = UNSET


class TranscribeResult(WireStruct, frozen=True, kw_only=True):
    """Result of ``transcribe``.

    Attributes:
        text: What was said; empty where nothing was.
        model_used: Id of the model.
        language: The language that it was taken for.
        words: The words of the text in order; empty unless ``timestamps`` were asked for.
    """

    text: str
    model_used: str
    language: str
    words: list[Word]
