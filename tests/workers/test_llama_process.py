"""The llama.cpp worker as a real process: files, endings, embeddings and tokens."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from car_rpc.wire.events import Stop, TextDelta, UsageEvent
from car_rpc.wire.worker import (
    Cancel,
    Detokenize,
    Events,
    Failed,
    Load,
    Loaded,
    LoadProgress,
    Pause,
    Rendering,
    Reply,
    Resume,
    Tokenize,
)
from car_rpc.workers.runtime import EXIT_CORE_GONE, EXIT_NOT_LOADED

pytest.importorskip("llama_cpp")

pytestmark = [pytest.mark.llama, pytest.mark.process]

ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)


@pytest.fixture
def worker(start_worker, model_file: Callable[..., Path]):
    worker = start_worker("llama_cpp")
    assert isinstance(worker.load(model_file()), Loaded)
    return worker


# --------------------------------------------------------------------------------- loading


def test_loading_tells_how_far_it_is(start_worker, model_file: Callable[..., Path]) -> None:
    worker = start_worker("llama_cpp")
    worker.send(Load(path=str(model_file()), context_length=300))
    percents = []
    while isinstance(frame := worker.receive(), LoadProgress):
        percents.append(frame.percent)
    assert percents == sorted(set(percents))
    assert percents[-1] == 100.0
    assert isinstance(frame, Loaded)
    assert frame.context_length == 300
    assert frame.model_bytes > 0
    assert frame.engine.startswith("llama.cpp ")


def not_gguf(folder: Path) -> Path:
    path = folder / "notes.gguf"
    path.write_text("hello", encoding="utf-8")
    return path


def folder_instead(folder: Path) -> Path:
    return folder


def named_pipe(folder: Path) -> Path:
    path = folder / "pipe.gguf"
    os.mkfifo(path)
    return path


def absent(folder: Path) -> Path:
    return folder / "absent.gguf"


@pytest.mark.parametrize(
    ("make", "kind", "advice"),
    [
        (not_gguf, "model_load_failed", "is not a GGUF file"),
        (folder_instead, "io_error", "is a folder; name the .gguf file itself"),
        (named_pipe, "io_error", "is no regular file; name the .gguf file itself"),
        (absent, "io_error", "No such file or directory; check the path"),
    ],
)
def test_a_path_that_is_no_model_is_explained(
    start_worker, tmp_path: Path, make: Callable[[Path], Path], kind: str, advice: str
) -> None:
    worker = start_worker("llama_cpp")
    path = make(tmp_path)
    answer = worker.load(path)
    assert isinstance(answer, Failed)
    assert (answer.id, answer.kind, answer.data) == (0, kind, {"path": str(path)})
    assert advice in answer.detail
    assert worker.process.wait() == EXIT_NOT_LOADED


@pytest.mark.parametrize("kept", [4, 100, 5000, -1000])
def test_a_truncated_file_is_explained(
    start_worker, model_file: Callable[..., Path], tmp_path: Path, kept: int
) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(model_file().read_bytes()[:kept])
    answer = start_worker("llama_cpp").load(path)
    assert isinstance(answer, Failed)
    assert answer.kind == "model_load_failed"
    assert f"{path} is truncated or corrupt" in answer.detail


def test_a_context_that_cannot_fit_is_refused(
    start_worker, model_file: Callable[..., Path]
) -> None:
    worker = start_worker("llama_cpp")
    path = model_file(context=2**31 - 1)
    answer = worker.load(path, context_length=2**31 - 1)  # half a terabyte
    assert isinstance(answer, Failed)
    assert answer.kind == "out_of_memory"
    assert f"{path} does not fit" in answer.detail


# --------------------------------------------------------------------------------- requests


def test_an_answer_streams(worker) -> None:
    events = worker.generate(max_tokens=8, ignore_eos=True)
    *deltas, usage, stop = events
    assert all(isinstance(event, TextDelta) for event in deltas)
    assert isinstance(usage, UsageEvent)
    assert usage.completion_tokens == 8
    assert stop == Stop(reason="max_tokens")


def test_a_running_answer_is_cancelled_and_its_slot_used_again(worker) -> None:
    expected = worker.generate("again")
    worker.send(worker.request(max_tokens=None, ignore_eos=True), Cancel(id=1))
    _, answer = worker.collect(1)
    assert answer == Failed(id=1, kind="cancelled", detail="")
    assert worker.generate("again") == expected


def test_a_paused_answer_goes_on_after_resume(worker) -> None:
    expected = worker.generate(max_tokens=200, ignore_eos=True)
    worker.send(worker.request(max_tokens=200, ignore_eos=True), Pause(id=1))
    worker.send(worker.request("other", 2))
    early, frame = [], worker.receive()
    while not (isinstance(frame, Reply) and frame.id == 2):
        if isinstance(frame, Events) and frame.id == 1:
            early += frame.events
        frame = worker.receive()
    assert not any(isinstance(event, Stop) for event in early)
    worker.send(Resume(id=1))
    late, answer = worker.collect(1)
    assert answer == Reply(id=1)
    assert early + late == expected


def test_the_worker_ends_with_its_pipe_in_the_middle_of_an_answer(worker) -> None:
    worker.send(worker.request(max_tokens=None, ignore_eos=True))
    worker.until(Events)
    assert worker.close() == EXIT_CORE_GONE


def test_an_endless_template_leaves_the_worker_killable(
    start_worker, model_file: Callable[..., Path]
) -> None:
    worker = start_worker("llama_cpp")
    worker.load(model_file(ENDLESS))
    worker.send(worker.request())
    assert worker.receive() == Rendering(id=1)
    assert worker.close() == EXIT_CORE_GONE


def test_native_messages_go_to_standard_error_with_their_level(worker) -> None:
    worker.close()
    lines = worker.stderr().splitlines()
    assert any(line.startswith("<7>llama_context:") for line in lines)


# ------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize(
    "text", ["", "hello", " two  spaces\n", "é🙂👩‍👩‍👧", "<|im_start|>x", "a\0b"]
)
def test_tokens_turn_back_into_their_text(worker, text: str) -> None:
    tokens = worker.ask(Tokenize(id=1, text=text)).result
    assert worker.ask(Detokenize(id=2, tokens=tokens)).result == text


def test_control_tokens_are_single_tokens(worker) -> None:
    assert len(worker.ask(Tokenize(id=1, text="<|im_start|>")).result) == 1


def test_a_token_beyond_the_vocabulary_is_refused(worker) -> None:
    answer = worker.ask(Detokenize(id=1, tokens=[0, 10**6]))
    assert isinstance(answer, Failed)
    assert answer.kind == "tokenization_error"
