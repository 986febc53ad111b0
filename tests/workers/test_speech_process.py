"""The speech worker as a real process, with the real recognizer."""

from typing import Any

import msgspec
import numpy as np
import pytest

from car_rpc.wire.speech import Word
from car_rpc.wire.worker import (
    Cancel,
    Failed,
    Load,
    Loaded,
    LoadProgress,
    Reply,
    Tokenize,
    Transcribe,
    Transcribed,
)
from car_rpc.workers.runtime import EXIT_CORE_GONE
from tests.speech_data import RATE, SENTENCE, TEXT, samples, sentence, written
from tests.workers.conftest import Worker

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    worker = Worker("pocketsphinx", tmp_path_factory.mktemp("speech") / "stderr")
    assert isinstance(worker.load(), Loaded)
    yield worker
    worker.kill()


@pytest.fixture
def worker(lasting: Worker) -> Any:
    """One process for all tests; each must leave it able to work."""
    yield lasting
    assert isinstance(lasting.ask(Transcribe(id=999, audio=silence(0.2))), Reply)


def silence(seconds: float) -> bytes:
    return written(np.zeros(int(seconds * RATE)))


def heard(worker: Worker, audio: bytes | None = None, **options: Any) -> Transcribed:
    answer = worker.ask(Transcribe(id=1, audio=audio, **options))
    assert isinstance(answer, Reply), answer
    return msgspec.convert(answer.result, Transcribed)


@pytest.fixture(scope="module")
def plain(lasting: Worker) -> Transcribed:
    """The sentence as it is heard from its own file."""
    return heard(lasting, path=str(SENTENCE), timestamps=True)


def assert_in_order(words: list[Word], duration_ms: float) -> None:
    moments = [moment for word in words for moment in (word.start_ms, word.end_ms)]
    assert moments == sorted(moments)
    assert all(word.start_ms < word.end_ms for word in words)
    assert moments[-1] <= duration_ms
    assert all(isinstance(word.confidence, float) for word in words)  # decoding bounds it


# Loading


def test_loading_tells_what_was_loaded(start_worker: Any) -> None:
    worker = start_worker("pocketsphinx")
    worker.send(Load())
    assert worker.receive() == LoadProgress(percent=100.0)
    loaded = worker.receive()
    assert isinstance(loaded, Loaded)
    assert loaded.engine.startswith("pocketsphinx 5")
    assert loaded.model_bytes > 10_000_000
    assert worker.close() == EXIT_CORE_GONE


# Recognizing


def test_a_sentence_is_written_down_with_the_time_of_each_word(worker: Worker) -> None:
    said = heard(worker, path=str(SENTENCE), timestamps=True)
    assert (said.text, said.language) == (TEXT, "en")
    assert [word.word for word in said.words] == TEXT.split()
    assert_in_order(said.words, len(samples()) * 1000 / RATE)
    # The recording rises out of its noise at 0.45 s, and falls back after 2.1 s.
    assert said.words[0].start_ms == pytest.approx(430, abs=60)
    assert said.words[-1].end_ms == pytest.approx(2120, abs=60)


def test_without_timestamps_there_are_no_words(worker: Worker) -> None:
    said = heard(worker, path=str(SENTENCE))
    assert (said.text, said.words) == (TEXT, [])


@pytest.mark.parametrize(
    ("rate", "channels", "kind", "subtype"),
    [
        (16_000, 2, "WAV", "PCM_16"),
        (16_000, 6, "WAV", "FLOAT"),
        (22_050, 1, "WAV", "PCM_24"),
        (22_050, 6, "WAV", "PCM_16"),
        (44_100, 1, "WAV", "FLOAT"),
        (44_100, 2, "FLAC", "PCM_24"),
        (48_000, 2, "WAV", "PCM_24"),
        (48_000, 6, "WAV", "FLOAT"),
        (48_000, 1, "OGG", "VORBIS"),
        (44_100, 2, "MP3", "MPEG_LAYER_III"),
    ],
)
def test_the_form_of_the_audio_does_not_change_what_was_said(
    worker: Worker, plain: Transcribed, rate: int, channels: int, kind: str, subtype: str
) -> None:
    said = heard(worker, sentence(rate, channels, kind, subtype), timestamps=True)
    assert said.text == TEXT
    assert_in_order(said.words, len(samples()) * 1000 / RATE + 1)
    for word, same in zip(said.words, plain.words, strict=True):
        assert word.start_ms == pytest.approx(same.start_ms, abs=60)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_narrow_band_of_a_telephone_is_taken(worker: Worker, channels: int) -> None:
    # The model was trained on twice that band, so some of the words are others.
    said = heard(worker, sentence(8000, channels), timestamps=True)
    assert said.words
    assert_in_order(said.words, len(samples()) * 1000 / RATE + 1)


@pytest.mark.parametrize("seconds", [1 / RATE, 0.005, 0.05, 2])
def test_silence_has_no_words(worker: Worker, seconds: float) -> None:
    said = heard(worker, silence(seconds), timestamps=True)
    assert (said.text, said.words) == ("", [])


def test_long_audio_is_heard_to_its_end(worker: Worker) -> None:
    pause = np.zeros(18 * RATE)  # so it is more than one piece
    audio = written(np.concatenate([samples(), pause, samples()]))
    said = heard(worker, audio, timestamps=True)
    assert said.text == f"{TEXT} {TEXT}"
    later = 18_000 + len(samples()) * 1000 / RATE
    assert_in_order(said.words, later + len(samples()) * 1000 / RATE)
    for first, second in zip(said.words[:5], said.words[5:], strict=True):
        assert second.start_ms - first.start_ms == pytest.approx(later, abs=60)


def test_what_was_heard_before_does_not_change_what_is_heard(worker: Worker) -> None:
    first = heard(worker, path=str(SENTENCE), timestamps=True)
    loud = np.random.default_rng(1).uniform(-1, 1, 2 * RATE)
    heard(worker, written(loud))
    assert heard(worker, path=str(SENTENCE), timestamps=True) == first


@pytest.mark.parametrize("language", ["en", "EN", "en-US", "en_us", "English"])
def test_the_models_language_may_be_named(worker: Worker, language: str) -> None:
    assert heard(worker, silence(0.2), language=language).language == "en"


# Refusing


def failure(worker: Worker, request: Any) -> Failed:
    answer = worker.ask(request)
    assert isinstance(answer, Failed), answer
    return answer


@pytest.mark.parametrize("language", ["de", "en-gb", "", "klingon"])
def test_another_language_is_refused_with_those_there_are(worker: Worker, language: str) -> None:
    error = failure(worker, Transcribe(id=1, path=str(SENTENCE), language=language))
    assert error.kind == "unsupported_mode"
    assert error.data["languages"] == ["en", "en-us", "english"]
    assert "en-us" in error.detail


def test_what_is_no_audio_is_refused_and_the_worker_lives(worker: Worker) -> None:
    assert failure(worker, Transcribe(id=1, audio=b"<html>")).kind == "invalid_request"
    error = failure(worker, Transcribe(id=1, path="/nowhere/a.wav"))
    assert (error.kind, error.data) == ("io_error", {"path": "/nowhere/a.wav"})


def test_damage_in_the_middle_ends_the_job_alone(worker: Worker) -> None:
    values = np.zeros(22 * RATE)
    values[-10] = np.nan
    worker.send(
        Transcribe(id=1, audio=written(values, subtype="FLOAT")),
        Transcribe(id=2, path=str(SENTENCE)),
    )
    assert worker.collect(1)[1].kind == "invalid_request"
    assert worker.collect(2)[1].result["text"] == TEXT


def test_a_speech_model_does_nothing_else(worker: Worker) -> None:
    for request in (Tokenize(id=1, text="x"), worker.request("x")):
        assert failure(worker, request).kind == "unsupported_mode"


def test_audio_that_waits_is_bounded(worker: Worker) -> None:
    # 70 MB of silence each; the first is at work, and the fourth is beyond 256 MiB.
    audio = silence(70_000_000 / 2 / RATE)
    worker.send(*(Transcribe(id=number, audio=audio) for number in range(1, 5)))
    refused = worker.collect(4)[1]
    worker.send(*(Cancel(id=number) for number in range(1, 4)))
    assert (refused.kind, "too much audio waits" in refused.detail) == ("overloaded", True)
    for number in range(1, 4):
        assert worker.collect(number)[1].kind == "cancelled"


# Cancelling and queueing


def test_jobs_are_answered_in_order(worker: Worker) -> None:
    worker.send(*(Transcribe(id=number, path=str(SENTENCE)) for number in range(1, 4)))
    answers = [worker.until(Reply) for _ in range(3)]
    assert [answer.id for answer in answers] == [1, 2, 3]
    assert {answer.result["text"] for answer in answers} == {TEXT}


def test_a_job_can_be_cancelled_in_the_middle_and_while_it_waits(worker: Worker) -> None:
    long = sentence(times=200)  # ten minutes
    worker.send(Transcribe(id=1, audio=long), Transcribe(id=2, audio=long))
    worker.send(Transcribe(id=3, path=str(SENTENCE)))
    worker.send(Cancel(id=2), Cancel(id=1))
    assert worker.collect(2)[1].kind == "cancelled"
    assert worker.collect(1)[1].kind == "cancelled"
    assert worker.collect(3)[1].result["text"] == TEXT
