"""Run one session over the claimed streams, from the first byte to an empty process table.

Whatever ends the session (end of input, a signal, a dead parent, a client that reads no more,
``exit``) takes the same path: cancel, answer, stop workers, write out the log, exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from car_rpc.config import Settings
from car_rpc.host import logs
from car_rpc.host.bootstrap import Bootstrap
from car_rpc.host.greeting import installed_backends
from car_rpc.host.runner import RunnerHost
from car_rpc.host.session import Session
from car_rpc.host.waiting import Waiting
from car_rpc.protocol.connection import Connection
from car_rpc.transport.claim import Claimed
from car_rpc.transport.os_layer import OsLayer, os_layer
from car_rpc.wire.lifecycle import InitializeParams, LogParams

if TYPE_CHECKING:
    from car_rpc.host.approver import ApproverHost
    from car_rpc.host.cassette import CassetteApp
    from car_rpc.host.dispatch import Dispatching
    from car_rpc.host.trace import Trace
    from car_rpc.host.wiring import App

logger = logging.getLogger(__name__)

#: Bounds of the steps of stopping, in seconds; with the watchdog below, everything is over 2 s
#: after it began.
CANCEL_S = 0.4
LOG_S = 0.5
FLUSH_S = 0.3
WATCHDOG_S = 1.8

#: How often to look whether anybody still reads the answers that are waited for, in seconds.
#: The ends of a dead app's pipes close one after the other.
LOOK_S = 0.1


#: Exit code when what was written could not all be read.
READER_GONE = 4

#: Exit code when a cassette was not written, or ``strict`` and not played as it was recorded.
NOT_AS_RECORDED = 5


class Ending(NamedTuple):
    """Why the session ends, with which exit code, and how long requests may finish first."""

    reason: str
    exit_code: int
    drain_s: float = 0.0


def run(settings: Settings, claimed: Claimed, bootstrap: Bootstrap) -> int:
    """Serve until the session ends.

    Args:
        settings: What was asked for.
        claimed: The wire's descriptors.
        bootstrap: What was done before.

    Returns:
        The exit code: 0 after the end of input or ``shutdown`` and ``exit``, 1 after ``exit``
        alone, 3 when the parent died, 4 when the client reads no more, 5 when a cassette was
        not written or, in the mode ``strict``, not played as it was recorded, 128 plus the
        signal's number after a signal.
    """
    handler, captured_fd = logs.start(settings.log_level)
    server = _Server(settings, claimed, bootstrap, os_layer(bootstrap.first_parent))
    exit_code = asyncio.run(server.serve(captured_fd))
    handler.flush_within(FLUSH_S)
    return exit_code


class _Server:
    """The session's host: descriptors, signals, the parent, and the way out."""

    def __init__(
        self, settings: Settings, claimed: Claimed, bootstrap: Bootstrap, layer: OsLayer
    ) -> None:
        self._settings = settings
        self._claimed = claimed
        self._layer = layer
        self._bootstrap = bootstrap
        self._app: App | CassetteApp | None = None
        self._cassette: CassetteApp | None = None
        self._drain: asyncio.Task[None] | None = None
        self._allowed_paths: list[Path] = []
        self._approves = False
        bootstrap.mark("modules")

    async def serve(self, captured_fd: int) -> int:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._ending: asyncio.Future[Ending] = loop.create_future()
        self._connection: Connection[Waiting] = Connection(
            self._settings.max_message_bytes, self._settings.framing
        )
        self._trace = self._open_trace()
        self._writer = self._layer.open_writer(
            self._claimed.writer_fd,
            self._take_output,
            self._written,
            lambda: self._end(Ending("the client reads no more", READER_GONE)),
        )
        self.kick = self._writer.kick
        self._runner = RunnerHost(self._connection, self.kick)
        self._session = Session(
            settings=self._settings,
            session_id=self._bootstrap.session_id,
            connection=self._connection,
            runner=self._runner,
            host=self,
            startup_ms=self._bootstrap.startup_ms,
        )
        self._captured = self._layer.open_reader(captured_fd, logs.take_captured, _nothing)
        self._watch_signals()
        if self._settings.parent_pid is not None:
            self._watch(self._settings.parent_pid)
        if self._bootstrap.has_read:
            self._session.take_over(self._bootstrap)
            self._writer.kick()
        self._reading = True
        self._reader = self._layer.open_reader(
            self._claimed.reader_fd, self._received, self._input_ended
        )
        self._bootstrap.mark("ready")
        ending = await self._ending
        written = await self._stop(ending)
        if not written:
            return ending.exit_code or READER_GONE
        if self._cassette is not None and not self._cassette.kept:
            return ending.exit_code or NOT_AS_RECORDED
        return ending.exit_code

    # Input and output

    def _received(self, data: bytes) -> None:
        if self._trace is not None:
            self._trace.received(data)
        self._session.receive(data)
        self._writer.write()
        if not self._connection.wants_input:
            self._reading = False
            self._reader.pause()

    def _take_output(self, limit_bytes: int) -> bytes:
        data = self._connection.take_output(limit_bytes)
        if self._trace is not None:
            self._trace.sent(data)
        return data

    def _open_trace(self) -> Trace | None:
        if self._settings.trace is None:
            return None
        from car_rpc.host.trace import open_trace  # noqa: PLC0415 - only for who wants one

        return open_trace(
            self._settings.trace, self._settings.max_message_bytes, self._settings.framing
        )

    def _written(self) -> None:
        self._session.output_taken()
        if not self._reading and self._connection.wants_input:
            self._reading = True
            self._reader.resume()

    def _input_ended(self) -> None:
        self._session.receive_eof()
        self._writer.kick()
        self._runner.abandon()
        self._end(Ending("the input ended", 0, self._settings.drain_ms / 1000))

    # What ends the session

    def exit(self, code: int) -> None:
        self._end(Ending("exit", code))

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)
        elif self._drain is not None and not ending.drain_s:
            # Something more urgent came while requests were finishing.
            self._drain.cancel()

    def _watch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            ending = Ending(f"signal {number.name}", 128 + number)
            try:
                self._loop.add_signal_handler(number, self._end, ending)
            except NotImplementedError:  # Windows: the default handlers stay
                return

    def _watch(self, pid: int) -> None:
        self._layer.watch_process(pid, lambda: self._end(Ending(f"process {pid} died", 3)))

    def initialized(self, params: InitializeParams) -> None:
        self._bootstrap.mark("initialize")
        self._allowed_paths = [Path(path) for path in params.allowed_paths]
        self._approves = params.capabilities.approve
        capability = params.capabilities.log
        if isinstance(capability, msgspec.Struct):
            logs.add(logs.ForwardHandler(capability.level, self._forward_log))
        if params.process_id is not None:
            self._watch_app(params.process_id)

    def _watch_app(self, pid: int) -> None:
        # An app in another container knows its own number, which here is nobody's or a stranger's.
        if self._layer.is_ancestor(pid):
            self._watch(pid)
        else:
            logger.warning("process %d is not an ancestor of this one and is not watched", pid)

    def _forward_log(self, level: str, message: str, source: str) -> None:
        payload = msgspec.json.encode(LogParams(level=level, message=message, source=source))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._session.send_log, payload)

    async def load(self) -> Dispatching:
        self._layer.return_freed_memory()  # before the first thread, which follows it
        # In a thread: the imports and the database take a while, and pings go on meanwhile.
        self._app = await asyncio.to_thread(self._make_app)
        self._layer.return_freed_memory()
        self._bootstrap.mark("engine")
        self._app.begin_session()
        return self._app.dispatcher

    def _make_app(self) -> App | CassetteApp:
        if self._settings.cassette is None:
            return self._make_engine()
        from car_rpc.host.cassette import CassetteApp  # noqa: PLC0415 - only for who has one

        self._cassette = CassetteApp(self._settings, self._bootstrap.session_id, self._make_engine)
        return self._cassette

    def _make_engine(self) -> App:
        from car_rpc.host.wiring import App  # noqa: PLC0415 - not at start-up

        return App(
            self._settings,
            self._bootstrap.session_id,
            self._layer,
            self._runner,
            self._approver(),
            self._allowed_paths,
        )

    def _approver(self) -> ApproverHost:
        from car_rpc.host.approver import ApproverHost  # noqa: PLC0415 - not at start-up

        return ApproverHost(self._connection, self._writer.kick, announced=self._approves)

    def backends(self) -> dict[str, dict[str, Any]]:
        """Which engines are installed."""
        cassette = self._settings.cassette
        if cassette is None or cassette.records:
            return installed_backends()
        from car_rpc.cassette.file import recorded_backends  # noqa: PLC0415 - only for who has one

        return recorded_backends(cassette.path) or installed_backends()

    async def _stop(self, ending: Ending) -> bool:
        """Take the way out; tells whether everything was written."""
        logger.info("stopping: %s", ending.reason)
        self._connection.step("close")
        if ending.drain_s:
            await self._finish_requests(ending.drain_s)
        # Not cancelled: it also covers what Python itself does at the end.
        watchdog = threading.Timer(WATCHDOG_S, os._exit, [ending.exit_code])
        watchdog.daemon = True
        watchdog.start()
        self._session.cancel_all()
        await self._session.answered(CANCEL_S)
        # Whoever has not confirmed its cancel by now is not waited for.
        self._runner.abandon()
        if self._app is not None:
            await self._app.stop_backends()
            await self._session.answered(CANCEL_S)
            await self._app.close(ending.reason, LOG_S)
        written = await self._writer.flush(FLUSH_S)
        if self._trace is not None:
            self._trace.ended(ending.exit_code)
        # In the reverse order of opening: both may be one description, whose first state counts.
        self._reader.close()
        self._writer.close()
        return written

    async def _finish_requests(self, timeout_s: float) -> None:
        """Let requests finish for a while, as long as somebody reads their answers."""
        self._drain = asyncio.create_task(self._finish(timeout_s))
        while not (self._drain.done() or self._layer.reader_gone(self._claimed.writer_fd)):
            await asyncio.wait([self._drain], timeout=LOOK_S)
        self._drain.cancel()

    async def _finish(self, drain_s: float) -> None:
        """Let requests finish, and whoever reads the output catch up."""
        deadline = self._loop.time() + drain_s
        await self._session.finish_requests(drain_s)
        await self._session.answered(CANCEL_S)
        await self._writer.flush(max(0.0, deadline - self._loop.time()))


def _nothing() -> None:
    """The pipe of captured prints ends with the process."""
