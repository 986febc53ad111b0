"""What is not needed leaves the memory of a process: a model's file, and what was freed."""

import ctypes
import mmap
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from car_rpc.wire.worker import Loaded
from tests.workers.test_engines import chat, run

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

from benchmarks.local.model import Shape, _write
from car_rpc.workers.llama_cpp import model as models
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.native import lib
from car_rpc.workers.llama_cpp.pages import own_bytes, release
from tests.workers.test_llama_prefix import load

pytestmark = [
    pytest.mark.llama,
    pytest.mark.skipif(sys.platform != "linux", reason="nothing is let go of elsewhere"),
]

#: What the kernel brings back with a page that is read (fault_around_bytes), for each of the few
#: weights of a small model that are read from the file all the same.
AROUND = 65536


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8 MB in 4 bits, which most processors want in another layout."""
    path = tmp_path_factory.mktemp("pages") / "q4_0.gguf"
    _write(path, Shape("tiny", 4, 512, 8, 4, 64, 1536, 2000))
    return path


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let llama.cpp compute with weights as they are in the file."""
    defaults = lib.llama_model_default_params

    def params() -> Any:
        made = defaults()
        made.use_extra_bufts = False
        return made

    monkeypatch.setattr(lib, "llama_model_default_params", params)


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Callable[[str], tuple[Path, mmap.mmap]]]:
    """Maps a file of 1 MiB, all of it in memory."""
    opened: list[mmap.mmap] = []

    def make(name: str) -> tuple[Path, mmap.mmap]:
        path = tmp_path / name
        path.write_bytes(b"\1" * 2**20)
        with path.open("rb") as file:
            opened.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        assert sum(opened[-1][:: mmap.PAGESIZE]) == 2**20 // mmap.PAGESIZE
        return path, opened[-1]

    yield make
    for each in opened:
        each.close()


def resident_bytes(path: Path, process: int | str = "self") -> int:
    """How much of a file a process has in memory."""
    resident, is_file = 0, False
    for line in Path(f"/proc/{process}/smaps").read_bytes().split(b"\n"):
        first, *others = line.split(maxsplit=5)[:6] or [b""]
        if b"-" in first:
            is_file = others[4:] == [os.fsencode(path.resolve())]
        elif is_file and first == b"Rss:":
            resident += int(others[0]) * 1024
    return resident


@pytest.mark.parametrize("name", ["a b.gguf", "\u2028\v.gguf", "\udcff.gguf"])
def test_a_file_leaves_the_memory_of_the_process_and_can_still_be_read(
    mapped: Callable[[str], tuple[Path, mmap.mmap]], tmp_path: Path, name: str
) -> None:
    path, content = mapped(name)
    other, _ = mapped("other.gguf")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert resident_bytes(path) == resident_bytes(other) == 2**20
    release([str(link)])
    assert resident_bytes(path) == 0
    assert resident_bytes(other) == 2**20
    assert content[:] == b"\1" * 2**20


def test_what_is_locked_in_memory_stays(
    mapped: Callable[[str], tuple[Path, mmap.mmap]],
) -> None:
    path, content = mapped("locked.gguf")
    start = int(
        next(
            line.split("-")[0]
            for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
            if line.endswith(str(path))
        ),
        16,
    )
    if ctypes.CDLL(None).mlock(ctypes.c_void_p(start), ctypes.c_size_t(len(content))):
        pytest.skip("this process must not lock so much")
    release([str(path)])
    assert resident_bytes(path) == 2**20


def test_memory_of_its_own_is_told() -> None:
    before = own_bytes()
    taken = b"\1" * 2**26
    assert own_bytes() - before > len(taken) // 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others do not hold on to memory")
def test_large_blocks_leave_the_process_when_they_are_freed() -> None:
    """As the states of prompts do; also where a block behind them is still in use."""
    for _ in range(2):  # the first that is freed would teach glibc to keep others
        before = own_bytes()
        blocks = [np.ones(2**23, np.uint8) for _ in range(8)]
        assert own_bytes() - before > 7 * 2**23
        del blocks[:-1]
        assert own_bytes() - before < 2 * 2**23
        del blocks


@pytest.mark.process
def test_a_worker_does_not_hold_weights_twice(
    start_worker: Callable[..., Any], quantized: Path
) -> None:
    worker = start_worker("llama_cpp")
    assert isinstance(worker.load(quantized), Loaded)
    log = worker.stderr()
    if "AMX model buffer" not in log and "REPACK model buffer" not in log:
        pytest.skip("this processor computes with the weights as they are in the file")
    assert resident_bytes(quantized, worker.process.pid) <= AROUND


def test_weights_that_are_computed_with_as_they_are_stay(in_place: None, quantized: Path) -> None:
    load(quantized, 512)
    assert resident_bytes(quantized) > quantized.stat().st_size // 2


def test_answers_are_the_same(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(engine: LlamaEngine) -> Any:
        (asked,) = run(engine, chat("Tell me.", max_tokens=40, ignore_eos=True))
        return asked.events

    released: list[list[str]] = []

    def note(paths: list[str]) -> None:
        released.append(paths)
        release(paths)

    monkeypatch.setattr(models, "own_bytes", iter([0, 2**30] * 2).__next__)
    monkeypatch.setattr(models, "release", note)
    first = answer(load(quantized, 512))
    assert released == [[str(quantized)]]
    monkeypatch.setattr(models, "release", lambda _: None)
    assert answer(load(quantized, 512)) == first
