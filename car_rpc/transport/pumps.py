"""Move bytes between descriptors and the event loop.

Two variants behind one shape: polled, for what the operating system can poll, and threads, for
everything else (files, Windows pipes).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Protocol

#: Bytes read at once: what a pipe of Linux holds, and little enough that the C library takes the
#: memory from its heap. Larger reads would map and unmap pages for the smallest message.
READ_BYTES = 64 * 1024

#: Chunks that a reader's thread may be ahead of the event loop.
MAX_UNDELIVERED = 4

#: Bytes taken for one write.
WRITE_BYTES = 256 * 1024

#: Bytes written in one turn of the event loop, so that a flood leaves room for the rest.
TURN_BYTES = 1024 * 1024


class Reader(Protocol):
    """Delivers what arrives on a descriptor."""

    def pause(self) -> None:
        """Take no more input for now."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def close(self) -> None:
        """Deliver nothing more."""
        ...


class Writer(Protocol):
    """Writes what a source has, whenever it is told that there is something."""

    def kick(self) -> None:
        """There is something to write, and soon there may be more to go with it."""
        ...

    def write(self) -> None:
        """There may be something to write, and nothing more comes now."""
        ...

    async def flush(self, timeout_s: float) -> bool:
        """Return when everything is written, or after a while; tells whether it was."""
        ...

    def close(self) -> None:
        """Write nothing more, and leave the descriptor as it was."""
        ...


class PolledReader:
    """Reads a descriptor that can be polled.

    Args:
        fd: The descriptor; it becomes non-blocking.
        on_data: Gets each chunk.
        on_eof: Called once at the end of the stream.
    """

    def __init__(
        self, fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._on_data = on_data
        self._on_eof = on_eof
        self._loop = asyncio.get_running_loop()
        self._open = True
        # The description behind the descriptor may be shared with whoever started us.
        self._was_blocking = os.get_blocking(fd)
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._ready)

    def pause(self) -> None:
        """Take no more input for now."""
        self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Go on."""
        if self._open:
            self._loop.add_reader(self._fd, self._ready)

    def close(self) -> None:
        """Deliver nothing more, and leave the descriptor as it was."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            os.set_blocking(self._fd, self._was_blocking)

    def _ready(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._on_data(data)
        else:
            self.close()
            self._on_eof()


class ThreadReader:
    """Reads a descriptor with a thread that blocks in it; see :class:`PolledReader`."""

    def __init__(
        self, fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._on_data = on_data
        self._on_eof = on_eof
        self._loop = asyncio.get_running_loop()
        self._may_read = threading.Event()
        self._may_read.set()
        self._delivered = threading.Semaphore(MAX_UNDELIVERED)
        self._open = True
        threading.Thread(target=self._run, name="car-rpc-reader", daemon=True).start()

    def pause(self) -> None:
        """Take no more input for now; what is being read still arrives."""
        self._may_read.clear()

    def resume(self) -> None:
        """Go on."""
        self._may_read.set()

    def close(self) -> None:
        """Deliver nothing more."""
        self._open = False

    def _run(self) -> None:
        data = b"-"
        while data:
            self._may_read.wait()
            self._delivered.acquire()
            try:
                data = os.read(self._fd, READ_BYTES)
            except OSError:
                data = b""
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        self._delivered.release()
        if not self._open:
            return
        if data:
            self._on_data(data)
        else:
            self._open = False
            self._on_eof()


class _WriterBase:
    """What both writers share: take from the source, wake whoever flushes."""

    def __init__(
        self,
        fd: int,
        take: Callable[[int], bytes],
        on_written: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._fd = fd
        self._take = take
        self._on_written = on_written
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._broken = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def flush(self, timeout_s: float) -> bool:
        """Return when everything is written, or after a while; tells whether it was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._idle.is_set():  # there may be more by the time it is woken
                    await self._idle.wait()
        return self._idle.is_set() and not self._broken

    def close(self) -> None:
        """Write nothing more, and leave the descriptor as it was."""
        self._broken = True

    def _break(self) -> None:
        self._broken = True
        self._idle.set()
        self._on_broken()


class PolledWriter(_WriterBase):
    """Writes to a descriptor that can be polled.

    Args:
        fd: The descriptor; it becomes non-blocking.
        take: Gives the next bytes, about as many as asked for, or none.
        on_written: Called after some were written.
        on_broken: Called once when nobody reads any more.
    """

    def __init__(
        self,
        fd: int,
        take: Callable[[int], bytes],
        on_written: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        super().__init__(fd, take, on_written, on_broken)
        self._chunk: bytes | memoryview = b""
        self._scheduled = False
        self._blocked = False
        self._was_blocking = os.get_blocking(fd)
        os.set_blocking(fd, False)

    def kick(self) -> None:
        """Write at the end of this turn of the loop, together with what else comes in it."""
        if not self._scheduled and not self._blocked and not self._broken:
            self._scheduled = True
            self._idle.clear()
            self._loop.call_soon(self._write_kicked)

    def write(self) -> None:
        """Write at once, up to what one turn of the loop may."""
        if self._blocked or self._broken:
            return
        room = TURN_BYTES
        try:
            while room > 0:
                chunk = self._chunk or self._take(WRITE_BYTES)
                if not chunk:
                    self._idle.set()
                    break
                self._chunk = chunk
                written = os.write(self._fd, chunk)
                self._chunk = memoryview(chunk)[written:] if written < len(chunk) else b""
                room -= written
            else:
                self.kick()
        except BlockingIOError:
            self._blocked = True
            self._idle.clear()
            self._loop.add_writer(self._fd, self._unblocked)
        except OSError:
            self._break()
            return
        self._on_written()

    def _write_kicked(self) -> None:
        self._scheduled = False
        self.write()

    def close(self) -> None:
        """Write nothing more, and leave the descriptor as it was."""
        super().close()
        self._loop.remove_writer(self._fd)
        os.set_blocking(self._fd, self._was_blocking)

    def _unblocked(self) -> None:
        self._loop.remove_writer(self._fd)
        self._blocked = False
        self.write()


class ThreadWriter(_WriterBase):
    """Writes with a thread that blocks in the descriptor; see :class:`PolledWriter`."""

    def __init__(
        self,
        fd: int,
        take: Callable[[int], bytes],
        on_written: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        super().__init__(fd, take, on_written, on_broken)
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._scheduled = False
        self._writing = False
        threading.Thread(target=self._run, name="car-rpc-writer", daemon=True).start()

    def kick(self) -> None:
        """Hand the next bytes to the thread unless it is writing."""
        if not self._scheduled and not self._writing and not self._broken:
            self._scheduled = True
            self._idle.clear()
            self._loop.call_soon(self._hand_over)

    def write(self) -> None:
        """Hand over what there is, together with what else comes in this turn of the loop."""
        self.kick()

    def _hand_over(self) -> None:
        self._scheduled = False
        chunk = self._take(WRITE_BYTES)
        if chunk:
            self._writing = True
            self._chunks.put(chunk)
        else:
            self._idle.set()

    def _run(self) -> None:
        while True:
            data = self._chunks.get()
            outcome = self._written
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                outcome = self._break
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(outcome)

    def _written(self) -> None:
        self._writing = False
        self._on_written()
        self._hand_over()
