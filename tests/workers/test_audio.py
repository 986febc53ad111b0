"""Audio files of every kind, good and bad, and how long ones are cut."""

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from car_rpc.errors import CarError
from car_rpc.workers import audio
from car_rpc.workers.audio import RATE, open_audio
from car_rpc.workers.speech.pieces import MAX_PIECE, pieces
from tests.speech_data import SENTENCE, samples, sentence, written


def read(content: bytes | None, path: str = "") -> np.ndarray:
    with open_audio(content, path) as file:
        return np.concatenate(list(file.blocks()))


def refusal(content: bytes | None, path: str = "") -> CarError:
    with pytest.raises(CarError) as caught:
        read(content, path)
    return caught.value


def patched(offset: int, form: str, value: int) -> bytes:
    """The sentence with one field of its WAV header changed."""
    data = bytearray(sentence())
    struct.pack_into(form, data, offset, value)
    return bytes(data)


# Reading


def test_a_file_is_read_from_a_path_and_from_bytes_alike() -> None:
    from_path = read(None, str(SENTENCE))
    assert from_path == pytest.approx(samples(), abs=1e-6)
    assert np.array_equal(from_path, read(SENTENCE.read_bytes()))


def test_a_name_says_nothing_about_what_is_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audio.raw"
    path.write_bytes(sentence())
    assert len(read(None, str(path))) == len(samples())


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 44100, 48000, 192_000])
def test_any_rate_becomes_the_models_rate_and_keeps_its_length(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate) / 2
    values = read(written(tone, rate))
    assert len(values) == pytest.approx(2 * RATE, abs=1)
    crossings = np.count_nonzero(np.diff(np.signbit(values)))
    assert crossings == pytest.approx(2 * 440 * 2, abs=4)


@pytest.mark.parametrize("channels", [2, 6, 64])
def test_channels_are_mixed_in_equal_parts(channels: int) -> None:
    values = np.zeros((RATE, channels))
    values[:, 0] = 0.5
    assert read(written(values))[RATE // 2] == pytest.approx(0.5 / channels, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "ULAW"),
        ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)  # fmt: skip
def test_every_kind_of_file_gives_the_same_sound(kind: str, subtype: str) -> None:
    values = read(sentence(kind=kind, subtype=subtype))
    # MP3 pads, so the start is what is compared.
    like = np.corrcoef(values[: len(samples())], samples()[: len(values)])[0, 1]
    assert like > 0.95


def test_what_exceeds_full_scale_is_clipped() -> None:
    values = read(written(np.full(RATE, 7.0), subtype="FLOAT"))
    assert values.max() == 1.0


def test_the_duration_is_that_of_the_file() -> None:
    with open_audio(sentence(44_100), "") as file:
        list(file.blocks())
        assert file.duration_ms == pytest.approx(len(samples()) * 1000 / RATE, abs=1)


def test_a_length_that_a_writer_to_a_pipe_did_not_know_is_no_harm() -> None:
    assert len(read(patched(40, "<I", 0xFFFFFFFF))) == len(samples())


# Refusing

NO_AUDIO = {
    "empty": (b"", "it is empty"),
    "html": (b"<html>" * 100, "Format not recognised"),
    "a part of a header": (sentence()[:20], "Malformed"),
    "only a header": (sentence()[:44], "cut off"),
    "half a WAV": (sentence()[:40_000], "cut off"),
    "half a FLAC": (sentence(kind="FLAC")[:20_000], "audio cannot be used"),
    "half an AIFF": (sentence(kind="AIFF")[:40_000], "cut off"),
    "no samples": (written(np.zeros(0)), "no samples"),
    "no channels": (patched(22, "<H", 0), "Channel count is zero"),
    "too many channels": (patched(22, "<H", 20_000), "channels"),
    "a rate of 0": (patched(24, "<I", 0), "audio cannot be used"),
    "a rate of 1": (patched(24, "<I", 1), "sample rate is 1 Hz"),
    "an absurd rate": (patched(24, "<I", 2**31 - 1), "sample rate is 2147483647 Hz"),
    "NaN": (written(np.array([0.0, np.nan] * 500), subtype="FLOAT"), "no finite numbers"),
    "infinity": (written(np.array([0.0, np.inf] * 500), subtype="FLOAT"), "no finite numbers"),
}


@pytest.mark.parametrize("case", NO_AUDIO)
def test_what_is_no_audio_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    content, reason = NO_AUDIO[case]
    path = tmp_path / "file.wav"
    path.write_bytes(content)
    for error in (refusal(content), refusal(None, str(path))):
        assert error.kind == "invalid_request"
        assert reason in error.detail or (not content and "from 1 to" in error.detail)
        assert "<_io" not in error.detail


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.wav", tmp_path, tmp_path / "pipe", tmp_path / ("x" * 300)):
        error = refusal(None, str(path))
        assert (error.kind, error.data["path"]) == ("io_error", str(path))
        assert str(path) in error.detail


def test_audio_that_is_too_long_is_refused_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audio, "MAX_AUDIO_S", 2)
    error = refusal(sentence())
    assert error.kind == "invalid_request"
    assert "longer than 2 s" in error.detail


def test_a_file_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.wav"
    path.write_bytes(sentence())
    monkeypatch.setattr(audio, "MAX_AUDIO_BYTES", 1000)
    assert "from 1 to 1000" in refusal(None, str(path)).detail


# Cutting


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, int(seconds * RATE)).astype(np.float32)


def test_short_audio_is_one_piece() -> None:
    values = noise(3)
    (piece,) = pieces([values[:1000], values[1000:]])
    assert piece.start == 0
    assert np.array_equal(piece.samples, values)


def test_pieces_follow_each_other_without_a_gap_and_none_is_too_long() -> None:
    values = noise(75)
    cut = list(pieces(np.array_split(values, 100)))
    assert len(cut) > 3
    assert all(MAX_PIECE // 2 <= len(piece.samples) <= MAX_PIECE for piece in cut[:-1])
    assert np.array_equal(np.concatenate([piece.samples for piece in cut]), values)
    starts = np.cumsum([0, *(len(piece.samples) for piece in cut)])
    assert [piece.start for piece in cut] == starts[:-1].tolist()


def test_long_audio_is_cut_in_its_pauses() -> None:
    values = noise(50)
    for second in (5, 13, 31):
        values[second * RATE : int((second + 0.3) * RATE)] = 0
    starts = [piece.start / RATE for piece in pieces([values])]
    assert starts[1] == pytest.approx(13.15, abs=0.1)
    assert starts[2] == pytest.approx(31.15, abs=0.1)


def test_no_audio_has_no_pieces() -> None:
    assert list(pieces([])) == []


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    path.write_bytes(written(np.zeros(10 * 60 * RATE), kind="FLAC"))
    tracemalloc.start()
    try:
        with open_audio(None, str(path)) as file:
            length = sum(len(piece.samples) for piece in pieces(file.blocks()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == 10 * 60 * RATE
    assert peak < 12_000_000  # all of it would be 38 MB
