"""``transcribe`` on the real process, from the request to the recognizer and back."""

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import ROOT, Core, StartCore, assert_gone, is_response, wait_until
from tests.speech_data import SENTENCE, TEXT, sentence

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

MODEL = "system/pocketsphinx:en-us"


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    core = Core(tmp_path_factory.mktemp("speech") / "state")
    core.initialize()
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()


@pytest.fixture
def core(lasting: Core) -> Iterator[Core]:
    """One process for all tests that do no harm; each ends with a ping."""
    yield lasting
    lasting.ping()


@pytest.fixture
def own_core(start_core: StartCore) -> Core:
    """A process for a test that does harm."""
    core = start_core("--drain-ms", "0")
    core.initialize()
    return core


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of speech, which nobody waits for."""
    path = tmp_path_factory.mktemp("audio") / "long.wav"
    path.write_bytes(sentence(times=200))
    return path


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def start_long(core: Core, path: Path) -> Any:
    """A request that the recognizer is in the middle of."""
    request = core.ask("transcribe", {"audio_path": str(path)})
    wait_until(lambda: len(core.tree()) == 2)
    worker = core.worker()
    began = worker.cpu_times().user
    # Loading takes less than that; the rest is decoding.
    wait_until(lambda: worker.cpu_times().user - began > 2.0)
    assert core.responses(request) == 0
    return request


# Answering


def test_a_recording_is_written_down(core: Core) -> None:
    params = {"audio_path": str(SENTENCE), "timestamps": True}
    result = core.call("transcribe", params)
    words = result.pop("words")
    assert result == {"text": TEXT, "model_used": MODEL, "language": "en"}
    assert [word["word"] for word in words] == TEXT.split()
    assert set(words[0]) == {"word", "start_ms", "end_ms", "confidence"}


def test_audio_may_come_in_the_request_and_wins_over_a_path(core: Core) -> None:
    audio = encoded(sentence(44_100, 2))
    for params in ({"audio_b64": audio}, {"audio_b64": audio, "audio_path": "/nowhere"}):
        assert core.call("transcribe", params)["text"] == TEXT
    error = core.fail("transcribe", {"audio_b64": "", "audio_path": str(SENTENCE)})
    assert error["data"]["kind"] == "invalid_request"


def test_a_relative_path_begins_at_the_working_directory_of_the_process(core: Core) -> None:
    path = SENTENCE.relative_to(ROOT)
    assert core.call("transcribe", {"audio_path": str(path)})["text"] == TEXT


def test_a_model_may_be_named_and_a_hint_does_no_harm(core: Core) -> None:
    params = {"audio_path": str(SENTENCE), "model": "pocketsphinx", "prompt": "somewhere"}
    assert core.call("transcribe", params)["model_used"] == MODEL


def test_progress_is_told_to_those_who_ask(core: Core) -> None:
    core.call("transcribe", {"audio_path": str(SENTENCE), "progress_token": "p"})
    values = [
        message["params"]["value"]["kind"]
        for message in core.messages
        if message.get("method") == "$/progress" and message["params"]["token"] == "p"
    ]
    assert (values[0], values[-1]) == ("begin", "end")
    assert set(values[1:-1]) <= {"report"}


def test_the_process_says_that_speech_is_installed(start_core: StartCore) -> None:
    capabilities = start_core().initialize()["capabilities"]
    assert "transcribe" in capabilities["methods"]
    assert capabilities["backends"]["system"] == {"available": True}


def test_the_user_may_register_the_speech_of_the_system(core: Core) -> None:
    source = {"type": "system", "engine": "pocketsphinx"}
    mine = core.register("me/hear:1", source, "speech_to_text")
    params = {"audio_path": str(SENTENCE), "model": mine}
    assert core.call("transcribe", params)["model_used"] == mine
    core.call("models.unregister", {"model": mine})


def test_many_requests_are_all_answered(core: Core) -> None:
    requests = [core.ask("transcribe", {"audio_path": str(SENTENCE)}) for _ in range(4)]
    for request in requests:
        assert core.response(request, timeout=120)["result"]["text"] == TEXT


# The event log


def test_the_log_keeps_audio_in_a_file_of_its_own(core: Core) -> None:
    audio = sentence()
    core.call("transcribe", {"audio_b64": encoded(audio), "unknown": 1})
    # The last first: others have asked this core before.
    events = core.call("eventlog.query", {"order": "desc"})["events"]
    request = next(event for event in events if event["type"] == "request")
    assert request["data"]["method"] == "transcribe"
    assert request["data"]["params"] == {
        "audio_b64": {"sha256": hashlib.sha256(audio).hexdigest()},
        "unknown": 1,
    }
    (named,) = request["data"]["blobs"]
    assert (named["at"], named["bytes"]) == ("/params/audio_b64", len(audio))
    (file,) = core.state_dir.glob(f"car.blobs/*/{named['sha256']}")
    assert file.read_bytes() == audio
    assert encoded(audio)[1000:1100] not in str(events)
    assert next(e["type"] for e in events if e.get("trace_id") == request["trace_id"]) == (
        "completion"
    )


# Refusing


@pytest.mark.parametrize(
    ("params", "kind", "path"),
    [
        ({}, "invalid_params", "$.audio_path"),
        ({"audio_path": ""}, "invalid_params", "$.audio_path"),
        ({"audio_path": "a\0b"}, "invalid_params", "$.audio_path"),
        ({"audio_path": "~nobody-of-that-name/x"}, "invalid_params", "$.audio_path"),
        ({"audio_path": 1}, "invalid_params", "$.audio_path"),
        ({"audio_b64": "@@@@"}, "invalid_params", "$.audio_b64"),
        ({"audio_b64": "AAA"}, "invalid_params", "$.audio_b64"),
        ({"audio_b64": "data:audio/wav;base64,AAAA"}, "invalid_params", "$.audio_b64"),
        ({"audio_b64": "é"}, "invalid_params", "$.audio_b64"),
        ({"audio_path": "/nowhere/a.wav"}, "io_error", "/nowhere/a.wav"),
        ({"audio_b64": "AAAA"}, "invalid_request", "$.audio_b64"),
        ({"audio_path": __file__}, "invalid_request", "$.audio_path"),
        ({"audio_path": "/x", "language": "fr"}, "unsupported_mode", None),
        ({"audio_path": "/x", "model": "demo/tiny-chat:gguf"}, "unsupported_mode", None),
        ({"audio_path": "/x", "model": "nobody"}, "model_not_found", None),
    ],
)
def test_a_bad_request_is_refused_by_name(
    core: Core, params: dict[str, Any], kind: str, path: str | None
) -> None:
    error = core.fail("transcribe", params)
    assert (error["data"]["kind"], error["data"].get("path")) == (kind, path)
    assert "Traceback" not in error["message"]


def test_a_chat_model_that_claims_to_hear_is_refused(core: Core) -> None:
    demo = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"
    deaf = core.register("me/deaf:1", {"type": "local", "path": str(demo)}, "speech_to_text")
    error = core.fail("transcribe", {"audio_path": str(SENTENCE), "model": deaf})
    assert error["data"]["kind"] == "unsupported_mode"
    core.call("models.unregister", {"model": deaf})


def test_an_unknown_engine_of_the_system_is_refused(core: Core) -> None:
    source = {"type": "system", "engine": "telepathy"}
    model = {"id": "me/mind:1", "source": source, "capabilities": ["speech_to_text"]}
    error = core.fail("models.register", {"model": model})
    assert error["data"]["path"] == "$.model.source.engine"


# Cancelling and crashing


def test_a_job_is_cancelled_in_the_middle_and_the_worker_lives_on(
    own_core: Core, long_file: Path
) -> None:
    request = start_long(own_core, long_file)
    worker = own_core.worker()
    own_core.ping()
    own_core.cancel(request)
    error = own_core.response(request)["error"]
    assert (error["code"], error["data"]["kind"]) == (-32800, "cancelled")
    assert own_core.call("transcribe", {"audio_path": str(SENTENCE)})["text"] == TEXT
    assert own_core.worker().pid == worker.pid


def test_kill_9_of_the_worker_costs_its_requests_only_time(own_core: Core, long_file: Path) -> None:
    long = start_long(own_core, long_file)
    short = own_core.ask("transcribe", {"audio_path": str(SENTENCE)})
    own_core.ping()  # the second one is with the worker, too
    worker = own_core.worker()
    worker.kill()
    own_core.cancel(long)
    assert own_core.response(long)["error"]["data"]["kind"] == "cancelled"
    assert own_core.response(short)["result"]["text"] == TEXT
    assert_gone([worker])
    assert own_core.worker().pid != worker.pid
    assert own_core.call("eventlog.query", {"types": ["worker_crash"]})["events"]


def test_the_end_of_input_amid_a_job_leaves_no_process(own_core: Core, long_file: Path) -> None:
    request = start_long(own_core, long_file)
    processes = own_core.tree()
    own_core.close_stdin()
    assert own_core.wait() == 0
    assert_gone(processes)
    own_core.ended_output()
    assert own_core.response(request)["error"]["code"] == -32800
    assert sum(is_response(message) for message in own_core.messages) == 2


def test_audio_outside_the_allowed_paths_is_the_apps_to_name(core: Core, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(sentence(kind="FLAC"))
    assert core.call("transcribe", {"audio_path": str(path)})["text"] == TEXT
    path.chmod(0o000)
    if os.geteuid():  # root reads everything
        error = core.fail("transcribe", {"audio_path": str(path)})
        assert error["data"]["kind"] == "io_error"
