"""A request as an engine sees it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeAlias

from car_rpc.errors import CarError
from car_rpc.wire.worker import (
    Detokenize,
    Embed,
    Events,
    Failed,
    FromWorker,
    Generate,
    Rendered,
    Rendering,
    Reply,
    Tokenize,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from car_rpc.wire.events import StreamEvent

Request: TypeAlias = Generate | Embed | Tokenize | Detokenize


class Job:
    """One request: what was asked, what the core wants of it now, and the way to answer.

    The reader thread sets the flags at once, while the engine is at work; the engine looks at
    them between steps. The first of :meth:`reply` and :meth:`fail` answers, later ones are
    ignored, so the core gets exactly one answer.

    Args:
        request: The frame that asked.
        send: Sends a frame to the core.
        on_answer: Called before the answer is sent, so that its id is free when it arrives.

    Attributes:
        cancelled: Set when the core no longer wants an answer.
        running: Cleared while the core wants no more tokens for now.
    """

    def __init__(
        self,
        request: Request,
        send: Callable[[FromWorker], None],
        on_answer: Callable[[Job], None],
    ) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self.running = threading.Event()
        self.running.set()
        self._send = send
        self._on_answer = on_answer
        self._unanswered = threading.Lock()

    @property
    def id(self) -> int:
        """Id of the request."""
        return self.request.id

    def cancel(self) -> None:
        """Stop the request; a paused one wakes up for that."""
        self.cancelled.set()
        self.running.set()

    def pause(self) -> None:
        """Hold the request back until :meth:`resume`."""
        if not self.cancelled.is_set():
            self.running.clear()

    def resume(self) -> None:
        """Go on."""
        self.running.set()

    def rendering(self) -> None:
        """Say that the chat template starts to run."""
        self._send(Rendering(id=self.id))

    def rendered(self, prompt_tokens: int) -> None:
        """Say that the prompt is ready."""
        self._send(Rendered(id=self.id, prompt_tokens=prompt_tokens))

    def emit(self, events: Sequence[StreamEvent]) -> None:
        """Send events, in one frame; none is fine."""
        if events:
            self._send(Events(id=self.id, events=list(events)))

    def reply(self, result: Any = None) -> None:
        """Answer with a result.

        Raises:
            CarError: The result is too large to send; the request is then still unanswered.
        """
        self._answer(Reply(id=self.id, result=result))

    def fail(self, error: CarError) -> None:
        """Answer with an error."""
        self._answer(Failed(id=self.id, kind=error.kind, detail=error.detail, data=error.extra))

    def _answer(self, frame: Reply | Failed) -> None:
        if not self._unanswered.acquire(blocking=False):
            return
        self._on_answer(self)
        try:
            self._send(frame)
        except CarError:
            self._unanswered.release()
            raise
