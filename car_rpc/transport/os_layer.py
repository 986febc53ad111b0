"""What differs between operating systems, behind one interface."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from car_rpc.transport.pumps import Reader, Writer


class OsLayer(Protocol):
    """Pipes, the parent, process trees, priorities and memory."""

    def open_reader(
        self, fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]
    ) -> Reader:
        """Read a descriptor in the way that suits it."""
        ...

    def open_writer(
        self,
        fd: int,
        take: Callable[[int], bytes],
        on_written: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> Writer:
        """Write to a descriptor in the way that suits it."""
        ...

    def reader_gone(self, fd: int) -> bool:
        """Whether the other end of an output pipe is closed."""
        ...

    def is_ancestor(self, pid: int) -> bool:
        """Whether a process is or was this one's parent, or is its parent's, and so on."""
        ...

    def watch_process(self, pid: int, on_death: Callable[[], None]) -> None:
        """Call back, in the event loop, when a process has ended."""
        ...

    def spawn_options(self) -> dict[str, Any]:
        """How to start a worker: a group of its own, no inherited descriptors."""
        ...

    def lower_priority(self, pid: int) -> None:
        """Let a process's work come after that of the app and of the core."""
        ...

    def kill_tree(self, pid: int) -> None:
        """Kill a process started with :meth:`spawn_options`, and all it started."""
        ...

    def exists(self, pid: int) -> bool:
        """Whether there is a process of this number."""
        ...

    def memory_bytes(self, pid: int) -> int | None:
        """Memory that a process takes now; ``None`` where the system does not say cheaply."""
        ...

    def return_freed_memory(self) -> None:
        """From now on, give large blocks of memory back to the system when they are freed."""
        ...


def os_layer(first_parent: int | None = None) -> OsLayer:
    """The layer of this operating system.

    Args:
        first_parent: The parent of this process when it started; by default, its parent now.
    """
    if sys.platform == "win32":
        from car_rpc.transport.os_windows import WindowsLayer  # noqa: PLC0415 - this system only

        return WindowsLayer()
    from car_rpc.transport.os_posix import PosixLayer  # noqa: PLC0415 - this system only

    return PosixLayer(first_parent)
