"""The process's own log: lines on standard error, written so that nothing ever waits for them.

What Python or native code prints by mistake is read back and becomes a log line too.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

#: Most lines that wait for a slow reader of standard error; older ones are dropped.
MAX_WAITING_LINES = 2000

#: Longest line that is kept, in characters.
MAX_LINE_CHARS = 8000

captured_logger = logging.getLogger("car_rpc.captured")


class StderrHandler(logging.Handler):
    """Writes lines to a descriptor from a thread of its own and drops the oldest if it stalls.

    Args:
        fd: The real standard error.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._lines: deque[str] = deque(maxlen=MAX_WAITING_LINES)
        self._dropped = 0
        self._wake = threading.Condition()
        self._busy = False
        threading.Thread(target=self._run, name="car-rpc-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; never blocks."""
        line = self.format(record)[:MAX_LINE_CHARS]
        with self._wake:
            if len(self._lines) == MAX_WAITING_LINES:
                self._dropped += 1
            self._lines.append(line)
            self._wake.notify_all()

    def flush_within(self, timeout_s: float) -> None:
        """Wait, bounded, until everything queued is written."""
        with self._wake:
            self._wake.wait_for(lambda: not self._lines and not self._busy, timeout_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: bool(self._lines))
                self._busy = True
                lines = [*self._lines]
                self._lines.clear()
                if self._dropped:
                    lines.insert(0, f"({self._dropped} log lines were dropped)")
                    self._dropped = 0
            if not self._write("".join(f"{line}\n" for line in lines).encode(errors="replace")):
                return

    def _write(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # another process made the shared descriptor non-blocking
                select.select([], [self._fd], [])
            except OSError:  # nobody reads standard error any more
                return False
        return True


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        text = f"{moment[:-6]}Z {record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class ForwardHandler(logging.Handler):
    """Hands records to the client that asked for them.

    Args:
        level: Least severe level.
        forward: Takes level, message and source; called in any thread.
    """

    def __init__(self, level: str, forward: Callable[[str, str, str], None]) -> None:
        super().__init__(level.upper())
        self._forward = forward

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record."""
        message = record.getMessage()[:MAX_LINE_CHARS]
        self._forward(record.levelname.lower(), message, record.name)


class _PrintLog(io.TextIOBase):
    """What ``sys.stdout`` and ``sys.stderr`` are while the wire is claimed."""

    def __init__(self) -> None:
        self._partial = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            captured_logger.info("%s", line)
        self._partial = self._partial[-MAX_LINE_CHARS:]
        return len(text)


def start(level: str) -> tuple[StderrHandler, int]:
    """Send the log to standard error, and descriptors 1 and 2 into the log.

    Returns:
        The handler, and the descriptor that native prints can be read from.
    """
    real_stderr = os.dup(2)
    captured_fd, print_fd = os.pipe()
    # A full pipe drops what native code prints instead of stopping it.
    os.set_blocking(print_fd, False)
    os.set_blocking(captured_fd, False)
    os.dup2(print_fd, 1)
    os.dup2(print_fd, 2)
    os.close(print_fd)
    sys.stdout = sys.stderr = _PrintLog()
    handler = StderrHandler(real_stderr)
    handler.setFormatter(_Formatter())
    handler.setLevel(level.upper())
    logging.getLogger().setLevel(level.upper())
    add(handler)
    logging.raiseExceptions = False
    return handler, captured_fd


def add(handler: logging.Handler) -> None:
    """Add a handler, and let through what its level asks for."""
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(root.level, handler.level))


def take_captured(data: bytes) -> None:
    """Turn what native code printed into log lines."""
    for line in data.decode(errors="replace").splitlines():
        captured_logger.info("%s", line[:MAX_LINE_CHARS])
