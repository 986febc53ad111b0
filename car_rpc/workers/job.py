"""A request as an engine sees it."""

from __future__ import annotations

import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from car_rpc.errors import CarError
from car_rpc.wire.worker import (
    Events,
    Failed,
    FromWorker,
    Progress,
    Rendered,
    Rendering,
    Reply,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from car_rpc.wire.events import StreamEvent
    from car_rpc.wire.inference import TokenLogprob


class Job:
    """One request: what was asked, what the core wants of it now, and the way to answer.

    The reader thread cancels, pauses and resumes while the engine is at work. A cancelled
    request is answered at once, so the core never waits for a long step; the engine looks at
    the flags between steps and then drops what it has. After the first answer nothing more is
    sent, so the core gets exactly one.

    Args:
        request: The frame that asked.
        send: Sends a frame to the core.
        on_answer: Called before the answer is sent, so that its id is free when it arrives.
        wake: Has the engine take a step soon.

    Attributes:
        cancelled: Set when the core no longer wants an answer.
        running: Cleared while the core wants no more tokens for now.
        answered: Whether the core has its answer.
    """

    def __init__(
        self,
        request: Request,
        send: Callable[[FromWorker], None],
        on_answer: Callable[[Job], None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self.running = threading.Event()
        self.running.set()
        self._send = send
        self._on_answer = on_answer
        self._wake = wake
        self.answered = False
        self._interrupt: Callable[[], None] | None = None
        self._lock = threading.RLock()  # what is sent, and the interrupt

    @property
    def id(self) -> int:
        """Id of the request."""
        return self.request.id

    def cancel(self) -> None:
        """Answer that the request is cancelled, and let the engine know."""
        self.cancelled.set()
        self.running.set()  # a paused one wakes up to be dropped
        with self._lock:
            self.fail(CarError("cancelled"))
            if self._interrupt is not None:
                self._interrupt()

    def pause(self) -> None:
        """Hold the request back until :meth:`resume`."""
        if not self.cancelled.is_set():
            self.running.clear()

    def resume(self) -> None:
        """Go on."""
        self.running.set()

    def wake(self) -> None:
        """Have the engine take a step soon; for what another thread did for the request."""
        self._wake()

    @contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Generator[None]:
        """Call ``interrupt`` from another thread when the request is cancelled meanwhile."""
        with self._lock:
            self._interrupt = interrupt
            if self.cancelled.is_set():
                interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None

    def rendering(self) -> None:
        """Say that the chat template starts to run."""
        self._say(Rendering(id=self.id))

    def rendered(self, prompt_tokens: int) -> None:
        """Say that the prompt is ready."""
        self._say(Rendered(id=self.id, prompt_tokens=prompt_tokens))

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Say how far it is."""
        self._say(Progress(id=self.id, done_bytes=done_bytes, total_bytes=total_bytes))

    def emit(self, events: Sequence[StreamEvent], logprobs: Sequence[TokenLogprob] = ()) -> None:
        """Send events and how likely tokens were, in one frame; none is fine."""
        if events or logprobs:
            self._say(Events(id=self.id, events=list(events), logprobs=list(logprobs)))

    def reply(self, result: Any = None) -> None:
        """Answer with a result.

        Raises:
            CarError: The result is too large to send; the request is then still unanswered.
        """
        self._answer(Reply(id=self.id, result=result))

    def fail(self, error: CarError) -> None:
        """Answer with an error."""
        self._answer(Failed(id=self.id, kind=error.kind, detail=error.detail, data=error.extra))

    def _say(self, frame: FromWorker) -> None:
        with self._lock:
            if not self.answered:
                self._send(frame)

    def _answer(self, frame: Reply | Failed) -> None:
        with self._lock:
            if self.answered:
                return
            self._on_answer(self)
            self._send(frame)
            self.answered = True


def request_failure(error: Exception) -> CarError:
    """The failure of a request; what is unexpected goes to standard error in full."""
    if isinstance(error, CarError):
        return error
    traceback.print_exception(error)
    if isinstance(error, MemoryError):
        return CarError("out_of_memory", "the worker ran out of memory; use a shorter prompt")
    return CarError("inference_failed", f"unexpected {type(error).__name__} in the worker")
