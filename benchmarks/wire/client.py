"""One neutral client for every peer: raw pipes, messages counted and not interpreted."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

READ_BYTES = 1024 * 1024
#: Longest wait for a peer that should answer within milliseconds, in seconds.
TIMEOUT_S = 60.0

Framing = Literal["ndjson", "lsp"]


class PeerFailed(Exception):
    """A peer ended or fell silent."""


def wrap(payload: bytes, framing: Framing) -> bytes:
    """A message as it goes on the wire."""
    if framing == "lsp":
        return b"Content-Length: %d\r\n\r\n%b" % (len(payload), payload)
    return payload + b"\n"


class Wire:
    """A running peer.

    Args:
        command: How to start it.
        framing: What it speaks.
        env: Variables added to its environment.
    """

    def __init__(self, command: Sequence[str], framing: Framing, env: dict[str, str]) -> None:
        self.framing = framing
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **env},
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin = self.process.stdin.fileno()
        self._stdout = self.process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._unsent = memoryview(b"")
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._needed = 0

    def send(self, *payloads: bytes) -> None:
        """Send messages; what does not fit into the pipe goes while :meth:`receive` waits."""
        data = b"".join([wrap(payload, self.framing) for payload in payloads])
        self._unsent = memoryview(bytes(self._unsent) + data) if self._unsent else memoryview(data)
        self._write()

    def receive(self) -> list[bytes]:
        """Wait for messages; at least one comes.

        Raises:
            PeerFailed: None came.
        """
        while True:
            ready = self._poll.poll(TIMEOUT_S * 1000)
            if not ready:
                raise PeerFailed("it fell silent")
            for fd, _ in ready:
                if fd == self._stdin:
                    self._write()
                elif messages := self._read():
                    return messages

    def ask(self, payload: bytes) -> bytes:
        """Send a request; returns the last message of the read that brings its answer."""
        self.send(payload)
        return self.receive()[-1]

    def wait_for(self, wanted: Callable[[bytes], bool]) -> bytes:
        """The first message that is wanted; what comes before it is dropped."""
        while True:
            for message in self.receive():
                if wanted(message):
                    return message

    def cpu_s(self) -> float:
        """CPU time of all its threads so far, in seconds."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def memory_bytes(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            self._poll.register(self._stdin, select.POLLOUT)
            return
        try:
            self._poll.unregister(self._stdin)
        except KeyError:
            return

    def _read(self) -> list[bytes]:
        data = os.read(self._stdout, READ_BYTES)
        if not data:
            raise PeerFailed("it ended")
        self._partial.append(data)
        self._partial_bytes += len(data)
        if self.framing == "ndjson":
            return self._lines() if b"\n" in data else []
        return self._frames() if self._partial_bytes >= self._needed else []

    def _lines(self) -> list[bytes]:
        *lines, rest = b"".join(self._partial).split(b"\n")
        self._keep(rest)
        return lines

    def _frames(self) -> list[bytes]:
        data = b"".join(self._partial)
        frames: list[bytes] = []
        start = self._needed = 0
        while (body := data.find(b"\r\n\r\n", start) + 4) > 3:
            length = data.index(b"Content-Length:", start) + 15
            end = body + int(data[length : data.index(b"\r\n", length)])
            if end > len(data):
                self._needed = end - start
                break
            frames.append(data[body:end])
            start = end
        self._keep(data[start:])
        return frames

    def _keep(self, rest: bytes) -> None:
        self._partial = [rest] if rest else []
        self._partial_bytes = len(rest)
