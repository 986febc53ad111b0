"""One worker process: spawn it, talk to it in frames, notice its death."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from car_rpc.backends.local.advice import advised
from car_rpc.backends.local.child import Child
from car_rpc.backends.local.stderr import leveled
from car_rpc.engine.ports import HearLogprobs, unheard
from car_rpc.errors import CarError
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.worker import (
    MAX_WORKER_FRAME_BYTES,
    Cancel,
    Events,
    Failed,
    FromWorker,
    Generate,
    Load,
    Loaded,
    LoadProgress,
    Pause,
    Progress,
    Rendered,
    Rendering,
    Reply,
    Resume,
    ToWorker,
)

#: Unread events of a request at which its sequence is parked until they are taken. A few
#: hundred tokens keep a slow reader's stream busy without holding more than some kilobytes.
PAUSE_AT_EVENTS = 256

#: How long events that come soon after others wait for more, in seconds: half of a frame on a
#: screen, which nobody sees. Each time that some are passed on takes the core and the app as long
#: as a small model takes for a token.
EVENTS_WAIT_S = 0.008

#: How long a chat template may take to render, in seconds. Templates come from untrusted
#: files; real ones take milliseconds.
RENDER_TIMEOUT_S = 10.0

#: How long a worker has to confirm a cancel, in seconds, before it is taken for hung.
CANCEL_TIMEOUT_S = 10.0

#: How long a worker that closed its pipe may take to end, in seconds.
EXIT_TIMEOUT_S = 1.0

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(FromWorker).decode


class ProcessControl(Protocol):
    """What the operating system does for workers."""

    def spawn_options(self) -> dict[str, Any]:
        """Keyword arguments for starting one."""
        ...

    def lower_priority(self, pid: int) -> None:
        """Let its work come after that of the app and of the core."""
        ...

    def kill_tree(self, pid: int) -> None:
        """Kill it and whatever it started."""
        ...

    def exists(self, pid: int) -> bool:
        """Whether there is a process of this number."""
        ...

    def memory_bytes(self, pid: int) -> int | None:
        """Memory that it takes now; ``None`` where that is not known."""
        ...


Answer: TypeAlias = Reply | Failed | CarError


class _Call:
    """One request that the worker has not finished."""

    def __init__(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        self.on_progress = on_progress
        self.events: list[StreamEvent] = []
        self.hear_logprobs: HearLogprobs = unheard
        self.generates = False
        self.answer: Answer | None = None
        self.changed = asyncio.Event()
        self.paused = False
        self.render_timer: asyncio.TimerHandle | None = None
        self._told_s = -math.inf
        self._tell_timer: asyncio.TimerHandle | None = None

    def hear(self, events: Sequence[StreamEvent]) -> None:
        self.events += events
        if self._tell_timer is None:
            loop = asyncio.get_running_loop()
            wait_s = self._told_s + EVENTS_WAIT_S - loop.time()
            if wait_s <= 0:
                self._tell()
            else:
                self._tell_timer = loop.call_later(wait_s, self._tell)

    def _tell(self) -> None:
        self._tell_timer = None
        self._told_s = asyncio.get_running_loop().time()
        self.changed.set()

    async def answered(self) -> Answer:
        while self.answer is None:
            self.changed.clear()
            await self.changed.wait()
        return self.answer

    def finish(self, answer: Answer) -> None:
        if self.answer is None:
            self.answer = answer
        self.rendered()
        if self._tell_timer is not None:
            self._tell_timer.cancel()
        self.changed.set()

    def rendered(self) -> None:
        if self.render_timer is not None:
            self.render_timer.cancel()
            self.render_timer = None


class WorkerProcess:
    """A running worker with one model in it. Create it with :meth:`start`.

    Args:
        name: Name for the log.
        control: What the operating system does for workers.
    """

    def __init__(self, name: str, control: ProcessControl) -> None:
        #: Called once when the process dies without having been told to stop.
        self.on_death: Callable[[CarError], None] | None = None
        self._stopping = False
        self._child = Child(self)
        self._name = name
        self._control = control
        self._logger = logging.getLogger(f"car_rpc.worker.{name}")
        self._calls: dict[int, _Call] = {}
        self._next_id = 1
        self._load = Load()
        self._loaded: Loaded | None = None
        #: Why it takes no more requests; set before it is killed, or when it died by itself.
        self._ending: CarError | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, engine: str, name: str, control: ProcessControl) -> WorkerProcess:
        """Start a worker for an engine; nothing is loaded yet.

        Raises:
            CarError: ``device_error`` when the process cannot be started.
        """
        # -P: no module of the current directory, whatever it is
        return await cls.run([sys.executable, "-P", "-m", "car_rpc.workers", engine], name, control)

    @classmethod
    async def run(cls, command: list[str], name: str, control: ProcessControl) -> WorkerProcess:
        """Start a program that is a worker; see :meth:`start`."""
        worker = cls(name, control)
        try:
            await worker._child.start(command, control.spawn_options())
        except OSError as error:
            raise CarError("device_error", f"cannot start a worker process: {error}") from error
        control.lower_priority(worker.pid)
        return worker

    @property
    def alive(self) -> bool:
        """Whether the process can still take requests."""
        return self._ending is None

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._child.pid

    async def load(self, load: Load) -> Loaded:
        """Load the model; the first thing to do with a worker.

        Raises:
            CarError: ``model_load_failed`` and the like, or ``worker_crashed``.
        """
        self._load = load
        call = self._calls[0] = _Call()
        self._send(_encode(load))
        try:
            result = _result(await call.answered())
        finally:
            self._calls.pop(0, None)
        if not isinstance(result, Loaded):
            raise CarError("internal", "the worker answered a load with something else")
        return result

    async def request(
        self,
        make: Callable[[int], ToWorker],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Send a request that has no events and wait for its result.

        Args:
            make: Makes the frame for an id.
            on_progress: Takes how far it is: bytes that are done, and bytes in all.

        Raises:
            CarError: What the worker answered, or ``worker_crashed``.
        """
        request_id, call = self._begin(make, on_progress)
        try:
            answer = await call.answered()
        finally:
            await self._end(request_id, call)
        return _result(answer)

    async def generate(
        self, make: Callable[[int], Generate], hear_logprobs: HearLogprobs
    ) -> AsyncGenerator[StreamEvent, None]:
        """Run a generation; yields its events. Closing it cancels and awaits confirmation.

        Args:
            make: Makes its frame, given its id.
            hear_logprobs: Takes how likely tokens were, where the frame asks for it.

        Raises:
            CarError: What the worker answered, or ``worker_crashed``.
        """
        request_id, call = self._begin(make)
        call.generates, call.hear_logprobs = True, hear_logprobs
        try:
            while True:
                while call.events:
                    events, call.events = call.events, []
                    for event in events:
                        yield event
                if call.paused:
                    call.paused = False
                    self._send(_encode(Resume(id=request_id)))
                if call.answer is not None:
                    break
                await call.changed.wait()
                call.changed.clear()
        finally:
            await self._end(request_id, call)
        _result(call.answer)

    async def stop(self) -> None:
        """End the process and everything it started; returns when it is gone."""
        self._stopping = True
        self._kill(CarError("worker_crashed", f"the process of {self._name} was stopped"))
        await self._child.gone()

    def _begin(
        self,
        make: Callable[[int], ToWorker],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> tuple[int, _Call]:
        if self._ending is not None:
            raise self._ending
        request_id = self._next_id
        body = _encode(make(request_id))
        if len(body) > MAX_WORKER_FRAME_BYTES:
            detail = f"a local model takes requests of up to {MAX_WORKER_FRAME_BYTES} bytes"
            raise CarError("message_too_large", detail)
        self._next_id += 1
        call = self._calls[request_id] = _Call(on_progress)
        self._send(body)
        return request_id, call

    async def _end(self, request_id: int, call: _Call) -> None:
        """Make sure that the worker is done with a request."""
        call.rendered()
        try:
            if call.answer is None:
                self._send(_encode(Cancel(id=request_id)))
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await call.answered()
        except TimeoutError:
            self._kill(CarError("worker_crashed", f"{self._name} did not react to a cancel"))
        finally:
            self._calls.pop(request_id, None)

    def _arm_render_timer(self, call: _Call) -> None:
        call.render_timer = asyncio.get_running_loop().call_later(
            RENDER_TIMEOUT_S, self._render_overdue, call
        )

    def _render_overdue(self, call: _Call) -> None:
        problem = f"the chat template of {self._name} did not finish in {RENDER_TIMEOUT_S:.0f} s"
        self._kill(CarError("worker_crashed", f"stopped, because {problem}"))
        call.finish(CarError("invalid_request", f"{problem}; use a model file with another one"))

    def _kill(self, reason: CarError) -> None:
        self._ending = self._ending or reason
        if self._child.running:
            self._control.kill_tree(self._child.pid)

    def _send(self, body: bytes) -> None:
        if self._ending is None:
            self._child.send(body)

    # What its child tells.

    def hear(self, frame: bytes) -> None:
        """It sent this."""
        self._accept(_decode(frame))

    def silent(self, problem: Exception | None) -> None:
        """It sends nothing more, and so must end."""
        if problem is not None:
            self._kill(CarError("worker_crashed", f"{self._name} sent a bad frame: {problem}"))
        loop = asyncio.get_running_loop()
        self._end_timer = loop.call_later(EXIT_TIMEOUT_S, self._lived_on)

    def wrote(self, line: str) -> None:
        """It wrote this to its standard error."""
        self._logger.log(*leveled(line))

    def ended(self, returncode: int) -> None:
        """It has ended."""
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._ending = self._ending or CarError(
            "worker_crashed",
            f"the process of {self._name} ended {_how(returncode)};"
            " the next request starts a fresh one",
        )
        for call in self._calls.values():
            call.finish(self._ending)
        if self.on_death is not None and not self._stopping:
            self.on_death(self._ending)

    def _lived_on(self) -> None:
        self._kill(CarError("worker_crashed", f"{self._name} closed its pipe and lived on"))

    def _accept(self, frame: FromWorker) -> None:
        if isinstance(frame, LoadProgress):
            return
        call = self._calls.get(0 if isinstance(frame, Loaded) else frame.id)
        if call is None:
            return
        match frame:
            case Events():
                call.hear(frame.events)
                call.hear_logprobs(frame.logprobs)
                if not call.paused and len(call.events) >= PAUSE_AT_EVENTS:
                    call.paused = True
                    self._send(_encode(Pause(id=frame.id)))
            case Progress(done_bytes=done, total_bytes=total):
                if call.on_progress is not None:
                    call.on_progress(done, total)
            case Rendering():
                self._arm_render_timer(call)
            case Rendered():
                call.rendered()
            case Loaded():
                self._loaded = frame
                call.finish(Reply(id=0, result=frame))
            case _:
                call.finish(advised(frame, self._load, self._loaded, generates=call.generates))


def _result(answer: Answer | None) -> Any:
    match answer:
        case Reply():
            return answer.result
        case CarError():
            raise answer
        case Failed():
            try:
                raise CarError(answer.kind, answer.detail, **answer.data)
            except KeyError:
                raise CarError("inference_failed", answer.detail) from None
        case None:
            raise CarError("cancelled")


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"with exit code {returncode}"
    with contextlib.suppress(ValueError):
        return f"by signal {signal.Signals(-returncode).name}"
    return f"by signal {-returncode}"
