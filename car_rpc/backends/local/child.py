"""A child process: the frames that it sends, what it writes to its standard error, and its end.

A frame reaches its owner in the turn of the event loop that reads it. A stream reader of asyncio
would take three turns, and much more code and memory, for each token of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

from car_rpc.wire.worker import MAX_WORKER_FRAME_BYTES

#: Longest line of standard error that is passed on as one, in bytes.
MAX_STDERR_LINE_BYTES = 8 * 1024

#: Bytes read at once: little enough that the C library takes the memory from its heap. The 256 KiB
#: that asyncio reads would be mapped and unmapped for each token.
READ_BYTES = 64 * 1024

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_LENGTH = struct.Struct(">I")


class Owner(Protocol):
    """Who is told of a child."""

    def hear(self, frame: bytes) -> None:
        """It sent this. Who raises hears no more of it."""
        ...

    def silent(self, problem: Exception | None) -> None:
        """It sends nothing more: it closed its output, or what it sent was wrong."""
        ...

    def wrote(self, line: str) -> None:
        """It wrote this line to its standard error."""
        ...

    def ended(self, returncode: int) -> None:
        """It has ended, and is silent."""
        ...


class Child(asyncio.SubprocessProtocol):
    """A child, once it is started.

    Args:
        owner: Who is told of it.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._frames = Frames()
        self._lines = Lines()
        self._silent = False
        self._exited = False
        self._open = {_STDOUT, _STDERR}
        self._gone = asyncio.get_running_loop().create_future()

    async def start(self, command: Sequence[str], options: dict[str, Any]) -> None:
        """Start the process.

        Args:
            command: The program and its arguments.
            options: As of :class:`subprocess.Popen`.

        Raises:
            OSError: It cannot be started.
        """
        loop = asyncio.get_running_loop()
        await loop.subprocess_exec(lambda: self, *command, **options)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._transport.get_pid()

    @property
    def running(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self._transport.get_returncode() is None

    def send(self, body: bytes) -> None:
        """Send a frame. What is sent to a child that is gone is void."""
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(_STDIN))
        with contextlib.suppress(ConnectionError, RuntimeError):
            stdin.write(_LENGTH.pack(len(body)) + body)

    async def gone(self) -> None:
        """Return when it has ended, and nobody can write to its pipes any more."""
        await asyncio.shield(self._gone)

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It runs."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        stdout = cast("asyncio.ReadTransport", self._transport.get_pipe_transport(_STDOUT))
        stdout.set_protocol(_Inline(self._hear, stdout.get_protocol()))
        stdout.max_size = READ_BYTES  # type: ignore[attr-defined]  # of POSIX; Windows reads 64 KiB anyway

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It wrote something."""
        if fd == _STDOUT:  # before this was set to come inline
            self._hear(data)
        else:
            self._write(self._lines.split(data))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """It closed a pipe."""
        self._open.discard(fd)
        if fd == _STDOUT:
            self._end_hearing(None)
        elif fd == _STDERR:
            self._write(self._lines.rest())
        self._look()

    def process_exited(self) -> None:
        """It has ended."""
        self._exited = True
        self._tell_end()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, and so have its pipes."""
        if not self._gone.done():
            self._gone.set_result(None)

    def _hear(self, data: bytes) -> None:
        if self._silent:
            return
        try:
            for frame in self._frames.split(data):
                self._owner.hear(frame)
        except Exception as error:  # noqa: BLE001 - whatever it sent, its requests must end
            self._end_hearing(error)

    def _end_hearing(self, problem: Exception | None) -> None:
        if not self._silent:
            self._silent = True
            self._owner.silent(problem)
            self._tell_end()

    def _tell_end(self) -> None:
        if self._silent and self._exited:
            self._owner.ended(self._transport.get_returncode() or 0)

    def _look(self) -> None:
        if self._exited and not self._open:
            self._transport.close()  # its input as well, which others may hold open

    def _write(self, lines: Iterator[bytes]) -> None:
        for line in lines:
            self._owner.wrote(line.decode(errors="replace").rstrip())


class _Inline(asyncio.Protocol):
    """Passes on what arrives at once, and leaves the end to the protocol before it."""

    def __init__(self, take: Callable[[bytes], None], before: asyncio.BaseProtocol) -> None:
        self._take = take
        self._before = before

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)


class Frames:
    """Splits a stream into frames: the length of each in four bytes, then so many."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def split(self, data: bytes) -> Iterator[bytes]:
        """The frames that are whole with these bytes.

        Raises:
            ValueError: A frame is longer than it may be.
        """
        buffer = self._buffer
        buffer += data
        begin = 0
        while len(buffer) >= begin + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, begin)
            if length > MAX_WORKER_FRAME_BYTES:
                raise ValueError(f"{length} bytes are too many")
            body = begin + _LENGTH.size
            if len(buffer) < body + length:
                break
            begin = body + length
            yield bytes(buffer[body:begin])
        del buffer[:begin]


class Lines:
    """Splits a stream into lines, and those that are too long into several."""

    def __init__(self) -> None:
        self._buffer = b""

    def split(self, data: bytes) -> Iterator[bytes]:
        """The lines that are whole with these bytes."""
        *lines, rest = (self._buffer + data).split(b"\n")
        whole = len(rest) - len(rest) % MAX_STDERR_LINE_BYTES
        self._buffer = rest[whole:]
        for line in (*lines, *([rest[:whole]] if whole else ())):
            for begin in range(0, max(1, len(line)), MAX_STDERR_LINE_BYTES):
                yield line[begin : begin + MAX_STDERR_LINE_BYTES]

    def rest(self) -> Iterator[bytes]:
        """What is left at the end."""
        if self._buffer:
            yield self._buffer
        self._buffer = b""
