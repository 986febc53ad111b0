"""A worker's life, with a tiny engine behind real pipes."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.transport.claim import Claimed
from car_rpc.wire.worker import (
    MAX_WORKER_FRAME_BYTES,
    Cancel,
    Failed,
    FromWorker,
    Load,
    Loaded,
    LoadProgress,
    Pause,
    Reply,
    Resume,
    Tokenize,
    ToWorker,
)
from car_rpc.workers import runtime, watchdog
from car_rpc.workers.job import Job
from car_rpc.workers.pipe import FrameWriter
from car_rpc.workers.runtime import (
    EXIT_BAD_FRAME,
    EXIT_CORE_GONE,
    EXIT_HUNG,
    EXIT_NOT_LOADED,
    Runtime,
)
from car_rpc.workers.watchdog import Watchdog


class TinyEngine:
    """Does what the text of a Tokenize frame says."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.started: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.blocked = threading.Event()
        self.release = threading.Event()
        self.resets = 0

    def load(self, load: Load, progress: Callable[[float], None]) -> Loaded:
        if load.path == "absent":
            raise CarError("io_error", "absent: no such file")
        if load.path == "odd":
            raise RuntimeError("secret")
        if load.path == "large":
            raise MemoryError
        progress(50.0)
        return Loaded(context_length=8)

    def start(self, job: Job) -> None:
        text = job.request.text
        if text == "raise":
            raise RuntimeError("secret")
        if text == "memory":
            raise MemoryError
        if text == "refuse":
            raise CarError("context_overflow", "too long", prompt_tokens=9)
        if text == "twice":
            job.reply(1)
            job.reply(2)
            job.fail(CarError("cancelled"))
        elif text == "huge":
            job.reply(b"x" * MAX_WORKER_FRAME_BYTES)
        elif text == "hello":
            job.reply("world")
        else:
            self.jobs[text] = job
        self.started.put(job)

    def step(self) -> bool:
        if "explode" in self.jobs:
            raise RuntimeError("secret")
        if "break" in self.jobs:
            self.blocked.set()
            self.release.wait()
            raise RuntimeError("secret")
        if "block" in self.jobs:
            self.blocked.set()
            self.release.wait()
            self.jobs.pop("block").reply()
        return False

    def reset(self) -> None:
        self.resets += 1
        self.jobs.clear()


class Core:
    """The core's side of the pipes."""

    def __init__(self, make_engine: Callable[[], TinyEngine]) -> None:
        worker_in, self._to_worker = os.pipe()
        self._from_worker, worker_out = os.pipe()
        # Only the core's ends are closed: a worker's thread may still read its own, and a
        # number that is free again would be the next test's pipe.
        self._open = {self._to_worker, self._from_worker}
        self._decoder = msgspec.msgpack.Decoder(FromWorker)
        self._exits: queue.Queue[int] = queue.Queue()
        runtime = Runtime(Claimed(worker_in, worker_out), make_engine, self._record_exit)
        threading.Thread(target=runtime.run, daemon=True).start()

    def _record_exit(self, code: int) -> NoReturn:
        self._exits.put(code)
        while True:  # a process would have ended: nothing may follow
            threading.Event().wait()

    def send(self, *frames: ToWorker) -> None:
        for frame in frames:
            self.send_body(msgspec.msgpack.encode(frame))

    def send_body(self, body: bytes) -> None:
        os.write(self._to_worker, len(body).to_bytes(4, "big") + body)

    def send_bytes(self, data: bytes) -> None:
        os.write(self._to_worker, data)

    def receive(self) -> FromWorker:
        length = int.from_bytes(os.read(self._from_worker, 4), "big")
        return self._decoder.decode(os.read(self._from_worker, length))

    def hang_up(self) -> None:
        self._close(self._to_worker)

    def stop_listening(self) -> None:
        self._close(self._from_worker)

    def exit_code(self) -> int:
        code = self._exits.get(timeout=10)
        self._exits.put(code)
        return code

    def close(self) -> None:
        self.hang_up()
        self.exit_code()
        self.stop_listening()

    def _close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            os.close(fd)


@pytest.fixture
def engine() -> TinyEngine:
    return TinyEngine()


@pytest.fixture
def unloaded(engine: TinyEngine) -> Iterator[Core]:
    core = Core(lambda: engine)
    yield core
    core.close()


@pytest.fixture
def core(unloaded: Core) -> Core:
    unloaded.send(Load())
    assert unloaded.receive() == LoadProgress(percent=50.0)
    assert unloaded.receive() == Loaded(context_length=8)
    return unloaded


def ask(core: Core, text: str, request_id: int = 1) -> FromWorker:
    core.send(Tokenize(id=request_id, text=text))
    return core.receive()


def settle(core: Core) -> None:
    """Returns once the worker has taken all frames sent so far."""
    assert ask(core, "hello", 999) == Reply(id=999, result="world")


def test_a_request_is_answered(core: Core) -> None:
    assert ask(core, "hello") == Reply(id=1, result="world")


def test_a_request_is_answered_once(core: Core) -> None:
    assert ask(core, "twice") == Reply(id=1, result=1)
    settle(core)


def test_a_refusal_carries_its_data(core: Core) -> None:
    assert ask(core, "refuse") == Failed(
        id=1, kind="context_overflow", detail="too long", data={"prompt_tokens": 9}
    )


def test_an_unexpected_failure_is_answered_and_survived(
    core: Core, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(core, "raise") == Failed(
        id=1, kind="inference_failed", detail="unexpected RuntimeError in the worker"
    )
    settle(core)
    assert "secret" in capfd.readouterr().err


def test_running_out_of_memory_is_told_apart(core: Core) -> None:
    answer = ask(core, "memory")
    assert isinstance(answer, Failed)
    assert answer.kind == "out_of_memory"


def test_a_failing_step_fails_all_requests_and_is_survived(core: Core, engine: TinyEngine) -> None:
    core.send(Tokenize(id=1, text="wait"), Tokenize(id=2, text="explode"))
    answers = [core.receive(), core.receive()]
    assert {(answer.id, answer.kind) for answer in answers} == {
        (1, "inference_failed"),
        (2, "inference_failed"),
    }
    settle(core)
    assert engine.resets == 1


def test_a_request_that_a_failing_step_has_answered_is_not_begun(
    core: Core, engine: TinyEngine
) -> None:
    core.send(Tokenize(id=1, text="break"))
    engine.blocked.wait()
    core.send(Tokenize(id=2, text="hello"), Tokenize(id=3, text="hello"), Cancel(id=3))
    assert core.receive() == Failed(id=3, kind="cancelled", detail="")
    engine.release.set()
    assert {core.receive().id, core.receive().id} == {1, 2}
    settle(core)
    assert [engine.started.get().id for _ in range(2)] == [1, 999]


def test_an_answer_that_is_too_large_is_a_failure(core: Core) -> None:
    answer = ask(core, "huge")
    assert isinstance(answer, Failed)
    assert answer.kind == "message_too_large"


def test_a_request_is_cancelled(core: Core) -> None:
    core.send(Tokenize(id=1, text="wait"), Cancel(id=1))
    assert core.receive() == Failed(id=1, kind="cancelled", detail="")


def test_cancelling_an_answered_request_does_nothing(core: Core) -> None:
    ask(core, "hello")
    core.send(Cancel(id=1), Pause(id=1), Resume(id=1))
    settle(core)


def test_flags_change_while_the_engine_is_at_work(core: Core, engine: TinyEngine) -> None:
    core.send(Tokenize(id=1, text="wait"), Tokenize(id=2, text="block"))
    job = engine.started.get(timeout=10)
    assert engine.blocked.wait(10)
    core.send(Pause(id=1), Cancel(id=1))
    assert core.receive() == Failed(id=1, kind="cancelled", detail="")
    assert job.cancelled.is_set()
    assert job.running.is_set()
    engine.release.set()
    assert core.receive() == Reply(id=2)


def test_a_request_is_paused_and_resumed(core: Core, engine: TinyEngine) -> None:
    core.send(Tokenize(id=1, text="wait"), Pause(id=1))
    settle(core)
    job = engine.started.get(timeout=10)
    assert not job.running.is_set()
    core.send(Resume(id=1))
    assert job.running.wait(10)


def test_a_cancelled_request_is_not_paused_again(core: Core, engine: TinyEngine) -> None:
    core.send(Tokenize(id=1, text="block"))
    assert engine.blocked.wait(10)
    job = engine.started.get(timeout=10)
    core.send(Pause(id=1), Cancel(id=1), Pause(id=1))
    assert core.receive() == Failed(id=1, kind="cancelled", detail="")
    engine.release.set()
    settle(core)
    assert job.running.is_set()


def test_a_request_cancelled_before_its_turn_does_not_start(core: Core, engine: TinyEngine) -> None:
    core.send(Tokenize(id=1, text="block"))
    assert engine.blocked.wait(10)
    core.send(Tokenize(id=2, text="wait"), Cancel(id=2))
    assert core.receive() == Failed(id=2, kind="cancelled", detail="")
    engine.release.set()
    assert core.receive() == Reply(id=1)
    settle(core)
    assert "wait" not in engine.jobs


# -------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("path", "kind", "detail"),
    [
        ("absent", "io_error", "absent: no such file"),
        ("odd", "model_load_failed", "unexpected RuntimeError for odd"),
        ("large", "out_of_memory", "large does not fit; use a smaller model"),
    ],
)
def test_a_model_that_does_not_load_is_explained(
    unloaded: Core, path: str, kind: str, detail: str
) -> None:
    unloaded.send(Load(path=path))
    assert unloaded.receive() == Failed(id=0, kind=kind, detail=detail)
    assert unloaded.exit_code() == EXIT_NOT_LOADED


def test_a_library_that_is_missing_is_named() -> None:
    def make() -> TinyEngine:
        raise ModuleNotFoundError(name="llama_cpp")

    core = Core(make)
    core.send(Load(path="a.gguf"))
    answer = core.receive()
    assert isinstance(answer, Failed)
    assert answer.kind == "model_load_failed"
    assert "llama_cpp is not installed, so a.gguf cannot be loaded" in answer.detail
    core.close()


# --------------------------------------------------------------------------------- endings


def test_the_worker_ends_with_the_core(unloaded: Core) -> None:
    unloaded.hang_up()
    assert unloaded.exit_code() == EXIT_CORE_GONE


def test_the_worker_ends_with_the_core_while_the_engine_is_at_work(
    core: Core, engine: TinyEngine
) -> None:
    core.send(Tokenize(id=1, text="block"))
    assert engine.blocked.wait(10)
    core.hang_up()
    assert core.exit_code() == EXIT_CORE_GONE


def test_the_worker_ends_when_nobody_listens(core: Core) -> None:
    core.stop_listening()
    core.send(Tokenize(id=1, text="hello"))
    assert core.exit_code() == EXIT_CORE_GONE


@pytest.mark.parametrize(
    "send",
    [
        lambda core: core.send(Load()),
        lambda core: core.send(Tokenize(id=1, text="wait"), Tokenize(id=1, text="wait")),
        lambda core: core.send_body(b"\xc1"),
        lambda core: core.send_body(msgspec.msgpack.encode({"type": "nonsense"})),
        lambda core: core.send_bytes((MAX_WORKER_FRAME_BYTES + 1).to_bytes(4, "big")),
    ],
    ids=["second load", "duplicate id", "no msgpack", "unknown type", "too large"],
)
def test_a_bad_frame_ends_the_worker(core: Core, send: Callable[[Core], None]) -> None:
    send(core)
    assert core.exit_code() == EXIT_BAD_FRAME


def test_the_first_frame_must_be_load(unloaded: Core) -> None:
    unloaded.send(Tokenize(id=1, text="hello"))
    assert unloaded.exit_code() == EXIT_BAD_FRAME


def test_a_frame_larger_than_the_pipe_arrives_whole() -> None:
    reader, writer = os.pipe()
    frame = Reply(id=1, result=b"x" * 1_000_000)
    thread = threading.Thread(target=FrameWriter(writer).write, args=(frame,))
    thread.start()
    with os.fdopen(reader, "rb") as stream:
        body = stream.read(int.from_bytes(stream.read(4), "big"))
    thread.join()
    os.close(writer)
    assert msgspec.msgpack.decode(body, type=FromWorker) == frame


def test_an_engine_that_hangs_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch, engine: TinyEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watchdog, "TICK_S", 0)
    monkeypatch.setattr(runtime, "Watchdog", lambda on_hang: Watchdog(on_hang, lambda: 0.0))
    core = Core(lambda: engine)
    core.send(Load(), Tokenize(id=1, text="block"))
    assert core.exit_code() == EXIT_HUNG
    assert "the engine hangs" in capfd.readouterr().err
    engine.release.set()
    core.stop_listening()
    core.hang_up()
