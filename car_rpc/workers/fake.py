"""A worker that plays a script instead of running a model."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from car_rpc.errors import KINDS, CarError, unsupported_mode
from car_rpc.wire.script import (
    Action,
    Crash,
    Emit,
    Fail,
    Print,
    Sleep,
    check,
    expand,
    last_user_text,
)
from car_rpc.wire.worker import Generate, Load, Loaded
from car_rpc.workers.job import request_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.wire.models import ScriptedFailure
    from car_rpc.workers.job import Job

#: Context that a scripted model claims when nobody asks for another, in tokens.
_CONTEXT_LENGTH = 8192


class FakeEngine:
    """Plays the script of the Load frame for each Generate, each in a thread of its own."""

    def __init__(self) -> None:
        self._load = Load()

    def load(self, load: Load, progress: Callable[[float], None]) -> Loaded:
        """Check the script."""
        try:
            check(load.script)
        except ValueError as error:
            raise CarError("model_load_failed", f"the script is wrong: {error}") from error
        self._load = load
        progress(100.0)
        return Loaded(context_length=load.context_length or _CONTEXT_LENGTH, engine="fake")

    def start(self, job: Job) -> None:
        """Start to play; a scripted model only generates."""
        if not isinstance(job.request, Generate):
            mode = type(job.request).__name__.lower()
            raise unsupported_mode(mode, "fake", "a scripted model only generates")
        threading.Thread(target=self._play, args=(job, job.request), daemon=True).start()

    def step(self) -> bool:
        """Nothing: the work is done in threads."""
        return False

    def reset(self) -> None:
        """Nothing: no step ever raises."""

    def _play(self, job: Job, request: Generate) -> None:
        try:
            job.rendering()
            job.rendered(prompt_tokens=0)
            for action in expand(self._load.script, last_user_text(request.messages)):
                job.running.wait()
                if job.cancelled.is_set():
                    return
                _act(job, action)
            job.reply()
        except Exception as error:  # noqa: BLE001 - the core must hear of every failure
            job.fail(request_failure(error))


def make_engine() -> FakeEngine:
    """An engine with no script yet."""
    return FakeEngine()


def _act(job: Job, action: Action) -> None:
    if isinstance(action, Emit):
        job.emit([action.event])
    elif isinstance(action, Sleep):
        job.cancelled.wait(action.ms / 1000)
    elif isinstance(action, Print):
        os.write(1, action.text.encode())
    elif isinstance(action, Fail):
        raise _failure(action.failure)
    elif isinstance(action, Crash):
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        job.cancelled.wait()


def _failure(failure: ScriptedFailure) -> CarError:
    data: dict[str, Any] = {
        name: getattr(failure, name)
        for name in ("status", "retry_after_ms")
        if getattr(failure, name) is not UNSET
    }
    kind = failure.kind if failure.kind in KINDS else "inference_failed"
    return CarError(kind, failure.message, **data)
