"""Windows. Written for, and not run in our CI; see the README for what that means."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from car_rpc.transport.pumps import Reader, ThreadReader, ThreadWriter, Writer

#: Access right to wait for a process (winnt.h).
SYNCHRONIZE = 0x0010_0000

#: Wait for ever (winbase.h).
INFINITE = 0xFFFF_FFFF

#: CreateProcess flags (winbase.h): a group of its own, below normal priority, no console window.
NEW_GROUP = 0x0000_0200
BELOW_NORMAL = 0x0000_4000
NO_WINDOW = 0x0800_0000


class WindowsLayer:
    """Pipes cannot be polled here, so threads block in them."""

    def open_reader(
        self, fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]
    ) -> Reader:
        """Read a descriptor with a thread."""
        return ThreadReader(fd, on_data, on_eof)

    def open_writer(
        self,
        fd: int,
        take: Callable[[int], bytes],
        on_written: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> Writer:
        """Write to a descriptor with a thread."""
        return ThreadWriter(fd, take, on_written, on_broken)

    def reader_gone(self, fd: int) -> bool:
        """Unknown until the next write fails."""
        return False

    def is_ancestor(self, pid: int) -> bool:
        """Only the direct parent can be told cheaply."""
        return pid == os.getppid()

    def watch_process(self, pid: int, on_death: Callable[[], None]) -> None:
        """Wait for the process's handle in a thread."""
        loop = asyncio.get_running_loop()

        def wait() -> None:
            kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]  # Windows only
            handle = kernel.OpenProcess(SYNCHRONIZE, False, pid)
            if handle:
                kernel.WaitForSingleObject(handle, INFINITE)
                kernel.CloseHandle(handle)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(on_death)

        threading.Thread(target=wait, name="car-rpc-parent", daemon=True).start()

    def spawn_options(self) -> dict[str, Any]:
        """A process group of its own, below normal priority."""
        return {"creationflags": NEW_GROUP | BELOW_NORMAL | NO_WINDOW}

    def lower_priority(self, pid: int) -> None:
        """Set when the process is created."""

    def kill_tree(self, pid: int) -> None:
        """``taskkill`` ends a process with its descendants."""
        subprocess.run(
            ["taskkill", "/T", "/F", "/PID", str(pid)],  # noqa: S607 - found on the system path
            capture_output=True,
            check=False,
            timeout=5,
        )

    def exists(self, pid: int) -> bool:
        """Whether there is a process of this number."""
        kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]  # Windows only
        handle = kernel.OpenProcess(SYNCHRONIZE, False, pid)
        if handle:
            kernel.CloseHandle(handle)
        return bool(handle)

    def memory_bytes(self, pid: int) -> int | None:
        """It is not asked here: what was estimated counts."""
        return None

    def return_freed_memory(self) -> None:
        """The system's heap does so by itself."""
