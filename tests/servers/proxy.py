"""A TCP proxy that breaks connections in a chosen way, in front of any server."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import NamedTuple

from tests.servers.listening import close, listening


class Fault(Enum):
    """What goes wrong, once so many bytes of the response have passed."""

    RESET = auto()  # the connection is cut off
    TRUNCATE = auto()  # it is closed as if all were sent
    STALL = auto()  # nothing more comes
    RATE_LIMIT = auto()  # 429 with Retry-After instead of the response
    BAD_GATEWAY = auto()  # an error event with 502 after the next whole event


class Plan(NamedTuple):
    """A fault, and after how many bytes of the response."""

    fault: Fault | None = None
    after_bytes: int = 0


_REFUSAL = json.dumps({"error": {"message": "slow down"}}).encode()
_RATE_LIMITED = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-type: application/json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_REFUSAL), _REFUSAL)
)
_BAD_GATEWAY = b'data: {"error": {"code": 502, "message": "bad gateway"}}\n\n'


class FaultProxy:
    """Passes on what a server and its clients say, up to the planned fault.

    Attributes:
        plan: For the connections that come next.
        open: How many connections from clients are open.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.plan = Plan()
        self.open = 0
        self._changed = asyncio.Condition()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[FaultProxy, None]:
        """Listen until the block ends."""
        async with listening(self._serve) as self.url:
            yield self

    async def no_connection(self) -> None:
        """Wait until every client has closed its connection."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.open == 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plan = self.plan
        upstream_reader, upstream = await asyncio.open_connection(*self._target)
        await self._count(1)
        up = asyncio.create_task(_copy(reader, upstream))
        down = asyncio.create_task(_respond(upstream_reader, writer, plan))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            if plan.fault is Fault.STALL:
                await up  # until the client gives up a connection on which nothing more comes
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            await close(upstream)
            writer.close()
            await self._count(-1)

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.open += change
            self._changed.notify_all()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, plan: Plan) -> None:
    with suppress(ConnectionError):
        if plan.fault is None:
            await _copy(reader, writer)
            return
        passed = await _pass(reader, writer, plan)
        if plan.fault is Fault.RATE_LIMIT:
            writer.write(_RATE_LIMITED)
        elif plan.fault is Fault.BAD_GATEWAY:
            writer.write(_error_event(chunked=b"chunked" in passed))
        elif plan.fault is Fault.RESET:
            _send_reset(writer)
        await writer.drain()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, plan: Plan) -> bytes:
    """Pass on as much as is planned; returns it."""
    if plan.fault is Fault.RATE_LIMIT:
        await reader.read(1)
        return b""
    passed = bytearray()
    while plan.fault is Fault.BAD_GATEWAY or len(passed) < plan.after_bytes:
        data = await reader.read(65536)
        if not data:
            break
        passed += data
        end = _event_end(bytes(passed), plan.after_bytes)
        if plan.fault is Fault.BAD_GATEWAY and end is not None:
            writer.write(data[: len(data) - (len(passed) - end)])
            break
        keep = len(data)
        if plan.fault is not Fault.BAD_GATEWAY:
            keep -= max(0, len(passed) - plan.after_bytes)
        writer.write(data[:keep])
        await writer.drain()
    return bytes(passed)


def _event_end(passed: bytes, after: int) -> int | None:
    """Where the first event ends that ends after so many bytes, its chunk's end included."""
    head_end = passed.find(b"\r\n\r\n")
    mark = b"\n\n\r\n" if b"chunked" in passed[:head_end].lower() else b"\n\n"
    at = passed.find(mark, max(after, head_end + 4))
    return None if head_end < 0 or at < 0 else at + len(mark)


def _error_event(*, chunked: bool) -> bytes:
    if not chunked:
        return _BAD_GATEWAY
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(_BAD_GATEWAY), _BAD_GATEWAY)


def _send_reset(writer: asyncio.StreamWriter) -> None:
    # Closing a socket that does not linger sends a reset instead of an end.
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
