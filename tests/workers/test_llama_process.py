"""What only the llama.cpp worker does as a real process: its files, its messages."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from car_rpc.wire.worker import Failed
from car_rpc.workers.runtime import EXIT_NOT_LOADED

pytest.importorskip("llama_cpp")

pytestmark = [pytest.mark.llama, pytest.mark.process]


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


@pytest.mark.parametrize(
    ("make", "kind", "advice"),
    [
        (not_gguf, "model_load_failed", "is not a GGUF file"),
        (folder_instead, "io_error", "is a folder; name the .gguf file itself"),
        (named_pipe, "io_error", "is no regular file; name the .gguf file itself"),
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


def test_native_messages_go_to_standard_error_with_their_level(
    start_worker, model_file: Callable[..., Path]
) -> None:
    worker = start_worker("llama_cpp")
    worker.load(model_file())
    worker.close()
    lines = worker.stderr().splitlines()
    assert any(line.startswith("<7>llama_context:") for line in lines)
