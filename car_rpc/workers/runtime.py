"""Runs an engine inside a worker process; knows nothing of models.

Three threads: the reader takes frames off the pipe, applies Cancel, Pause and Resume at once and
ends the process when the core is gone, even while native code is at work. The main thread is
the engine's: libraries such as llama.cpp want one thread per context. The watchdog ends the
process when the engine hangs.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from typing import TYPE_CHECKING, NoReturn, Protocol

from car_rpc.errors import CarError
from car_rpc.wire.worker import (
    Cancel,
    Failed,
    FromWorker,
    Load,
    Loaded,
    LoadProgress,
    Pause,
    Resume,
    ToWorker,
)
from car_rpc.workers.job import Job, request_failure
from car_rpc.workers.pipe import FrameReader, FrameWriter
from car_rpc.workers.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.transport.claim import Claimed

#: The core closed the pipe, which is how a worker is told to end.
EXIT_CORE_GONE = 0
#: The model did not load; Failed said why.
EXIT_NOT_LOADED = 1
#: EX_SOFTWARE of sysexits.h: the engine hangs.
EXIT_HUNG = 70
#: EX_DATAERR of sysexits.h: a frame was not of the vocabulary, so core and worker do not match.
EXIT_BAD_FRAME = 65


class Engine(Protocol):
    """What a worker needs of a model library. All methods run on the main thread."""

    def load(self, load: Load, progress: Callable[[float], None]) -> Loaded:
        """Load the model; ``progress`` takes percent. Raises CarError."""
        ...

    def start(self, job: Job) -> None:
        """Take a request and return soon; it is answered now or in later steps.

        A job that is cancelled is answered already: the engine only drops it.

        What is raised here becomes the job's answer.
        """
        ...

    def step(self) -> bool:
        """Do a short piece of the work at hand.

        Returns:
            Whether there is more to do before the next frame arrives.
        """
        ...

    def reset(self) -> None:
        """Forget all work: a step raised, and all its jobs are answered."""
        ...


class Runtime:
    """One worker's life.

    Args:
        claimed: The private descriptors of the wire.
        make_engine: Makes the engine; may import what is not installed.
        exit_process: Ends the process at once; only tests pass another.
    """

    def __init__(
        self,
        claimed: Claimed,
        make_engine: Callable[[], Engine],
        exit_process: Callable[[int], NoReturn] = os._exit,
    ) -> None:
        self._reader = FrameReader(claimed.reader_fd)
        self._writer = FrameWriter(claimed.writer_fd)
        self._make_engine = make_engine
        self._exit = exit_process
        self._watchdog = Watchdog(self._end_hung)
        self._jobs: dict[int, Job] = {}
        # New jobs in order; None only wakes the engine, because a flag changed.
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def run(self) -> NoReturn:
        """Load, then serve until the core is gone."""
        first = self._read()
        if not isinstance(first, Load):
            self._bad_frame(f"the first frame is {type(first).__name__}, not Load")
        threading.Thread(target=self._read_frames, name="reader", daemon=True).start()
        engine = self._load(first)
        self._watchdog.start()
        busy = False
        while True:
            self._admit(engine, wait=not busy)
            busy = self._step(engine)

    # -------------------------------------------------------------------- the reader thread

    def _read(self) -> ToWorker:
        try:
            return self._reader.read()
        except (EOFError, OSError):
            self._exit(EXIT_CORE_GONE)
        except ValueError as error:
            self._bad_frame(str(error))

    def _read_frames(self) -> None:
        while True:
            self._take(self._read())

    def _take(self, frame: ToWorker) -> None:
        if isinstance(frame, Load):
            self._bad_frame("a second Load")
        if isinstance(frame, Cancel | Pause | Resume):
            job = self._jobs.get(frame.id)
            if job is None:  # answered already: the two frames passed each other
                return
            if isinstance(frame, Cancel):
                job.cancel()
            elif isinstance(frame, Pause):
                job.pause()
            else:
                job.resume()
            self._inbox.put(None)
            return
        if frame.id in self._jobs:
            self._bad_frame(f"request {frame.id} is not answered yet")
        job = self._jobs[frame.id] = Job(
            frame, self._send, self._forget, lambda: self._inbox.put(None)
        )
        self._inbox.put(job)

    def _bad_frame(self, problem: str) -> NoReturn:
        _log(f"worker ends: bad frame: {problem}")
        self._exit(EXIT_BAD_FRAME)

    # ------------------------------------------------------------------------ the main thread

    def _load(self, load: Load) -> Engine:
        try:
            engine = self._make_engine()
            self._send(engine.load(load, lambda percent: self._send(LoadProgress(percent=percent))))
        except Exception as error:  # noqa: BLE001 - the core must hear of every failure
            failure = _load_failure(error, load)
            self._send(Failed(id=0, kind=failure.kind, detail=failure.detail, data=failure.extra))
            self._exit(EXIT_NOT_LOADED)
        return engine

    def _admit(self, engine: Engine, *, wait: bool) -> None:
        """Start the jobs that have come in; with ``wait``, sleep until something does."""
        try:
            job = self._inbox.get(block=wait)
            while True:
                if job is not None and not job.answered:
                    self._start(engine, job)
                job = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _start(self, engine: Engine, job: Job) -> None:
        try:
            with self._watchdog.step():
                engine.start(job)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the worker
            job.fail(request_failure(error))

    def _step(self, engine: Engine) -> bool:
        try:
            with self._watchdog.step():
                return engine.step()
        except Exception as error:  # noqa: BLE001 - nor must a bad step
            failure = request_failure(error)
            for job in list(self._jobs.values()):
                job.fail(failure)
            engine.reset()
            return False

    def _end_hung(self) -> None:
        _log("<3>worker ends: the engine hangs; the core starts a fresh worker when needed")
        self._exit(EXIT_HUNG)

    def _send(self, frame: FromWorker) -> None:
        try:
            self._writer.write(frame)
        except OSError:
            self._exit(EXIT_CORE_GONE)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)


def _load_failure(error: Exception, load: Load) -> CarError:
    if isinstance(error, CarError):
        return error
    traceback.print_exception(error)
    model = load.path or "its model"
    if isinstance(error, ImportError):
        return CarError(
            "model_load_failed",
            f"{error.name or 'a library'} is not installed, so {model} cannot be loaded;"
            " install the extra that this kind of model needs",
        )
    if isinstance(error, MemoryError):
        return CarError("out_of_memory", f"{model} does not fit; use a smaller model")
    return CarError("model_load_failed", f"unexpected {type(error).__name__} for {model}")


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
