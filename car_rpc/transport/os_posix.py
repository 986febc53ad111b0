"""Linux and macOS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from car_rpc.transport.pumps import (
    PolledReader,
    PolledWriter,
    Reader,
    ThreadReader,
    ThreadWriter,
    Writer,
)

#: How often a process is looked at where the system cannot tell of its end, in seconds.
POLL_S = 0.5

#: Niceness of workers above the core's, so that it answers while a model decodes; low enough to
#: keep most of the speed beside other work.
WORKER_NICENESS = 5

#: Options of mallopt(3): blocks from 128 KiB on are mapped each for itself, and a free end of the
#: heap beyond 1 MiB is given back. Left alone, glibc raises the first to the size of any such block
#: that is freed, up to 32 MiB, and then keeps the memory of large messages in a heap full of holes.
#: All threads share one heap: they run in turns, and each one's own would have holes of its own.
_MALLOC_OPTIONS = {
    -3: 128 * 1024,  # M_MMAP_THRESHOLD
    -1: 1024 * 1024,  # M_TRIM_THRESHOLD
    -8: 1,  # M_ARENA_MAX
}

#: Longest chain of parents that is followed.
MAX_ANCESTORS = 64

#: Set to any value to use threads even where polling works (for tests of that variant).
FORCE_THREADS = "CAR_RPC_THREAD_IO"


class PosixLayer:
    """Pipes are polled; regular files and terminals get threads.

    Files cannot be polled, and a terminal shares its flags with the shell.

    Args:
        first_parent: The parent of this process when it started; by default, its parent now.
    """

    def __init__(self, first_parent: int | None = None) -> None:
        # A parent that dies young is nobody's ancestor any more when its number arrives.
        self._first_parent = first_parent or os.getppid()

    def open_reader(
        self, fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]
    ) -> Reader:
        """Read a descriptor in the way that suits it."""
        kind = PolledReader if _pollable(fd) else ThreadReader
        return kind(fd, on_data, on_eof)

    def open_writer(
        self,
        fd: int,
        take: Callable[[int], bytes],
        on_written: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> Writer:
        """Write to a descriptor in the way that suits it."""
        kind = PolledWriter if _pollable(fd) else ThreadWriter
        return kind(fd, take, on_written, on_broken)

    def reader_gone(self, fd: int) -> bool:
        """Whether the other end of an output pipe is closed."""
        poll = select.poll()
        poll.register(fd, 0)
        return any(flags & (select.POLLERR | select.POLLHUP) for _, flags in poll.poll(0))

    def is_ancestor(self, pid: int) -> bool:
        """Whether a process is or was this one's parent, or is its parent's, and so on."""
        if pid == self._first_parent:
            return True
        current = os.getppid()
        for _ in range(MAX_ANCESTORS):
            if current == pid:
                return True
            if current <= 1:
                return False
            current = _parent_of(current)
        return False

    def watch_process(self, pid: int, on_death: Callable[[], None]) -> None:
        """Call back, in the event loop, when a process has ended."""
        loop = asyncio.get_running_loop()
        if hasattr(os, "pidfd_open"):
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                loop.call_soon(on_death)
                return
            except OSError:  # a kernel or sandbox without pidfd
                pass
            else:
                loop.add_reader(fd, _once(loop, fd, on_death))
                return
        threading.Thread(
            target=_poll_until_gone, args=(pid, loop, on_death), name="car-rpc-parent", daemon=True
        ).start()

    def spawn_options(self) -> dict[str, Any]:
        """How to start a worker: a session of its own, so that one signal ends its tree."""
        return {"start_new_session": True, "close_fds": True}

    def lower_priority(self, pid: int) -> None:
        """Let a process's work come after that of the app and of the core."""
        with contextlib.suppress(OSError):
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, pid, ours + WORKER_NICENESS)

    def kill_tree(self, pid: int) -> None:
        """Kill a process started with :meth:`spawn_options`, and all it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def exists(self, pid: int) -> bool:
        """Whether there is a process of this number."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # somebody else's
            return True
        return True

    def memory_bytes(self, pid: int) -> int | None:
        """Memory that a process takes now, where there is ``/proc`` (proc(5), ``statm``)."""
        try:
            pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def return_freed_memory(self) -> None:
        """Hold glibc to the thresholds that it begins with; other allocators need no telling."""
        if sys.platform != "linux":
            return
        import ctypes  # noqa: PLC0415 - not at start-up

        with contextlib.suppress(OSError, AttributeError):  # another library, such as musl
            libc = ctypes.CDLL(None)
            for option, value in _MALLOC_OPTIONS.items():
                libc.mallopt(option, value)
            libc.malloc_trim(0)


def _pollable(fd: int) -> bool:
    if FORCE_THREADS in os.environ:
        return False
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _parent_of(pid: int) -> int:
    try:
        if sys.platform == "linux":
            # The name, in parentheses, may hold anything; the parent is the second field
            # behind it (proc(5)).
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            return int(status.rpartition(")")[2].split()[1])
        output = subprocess.run(
            ["/bin/ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, check=False, timeout=1
        ).stdout
        return int(output or b"0")
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return 0


def _once(
    loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None]
) -> Callable[[], None]:
    def ready() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        callback()

    return ready


def _poll_until_gone(
    pid: int, loop: asyncio.AbstractEventLoop, on_death: Callable[[], None]
) -> None:
    pause = threading.Event()
    while _exists(pid):
        pause.wait(POLL_S)
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(on_death)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
