"""A TCP proxy that breaks connections in a chosen way, in front of any server of HTTP/1.1."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import Any, NamedTuple

from tests.servers.listening import close, listening


class Fault(Enum):
    """What goes wrong, once so many bytes of the response have passed."""

    RESET = auto()  # the connection is cut off
    TRUNCATE = auto()  # it is closed as if all were sent
    STALL = auto()  # nothing more comes
    SLOW_HEADERS = auto()  # the headers come byte by byte, the rest as it is
    RATE_LIMIT = auto()  # 429 with Retry-After instead of the response
    BAD_GATEWAY = auto()  # an error event with 502 after the next whole event
    FORBIDDEN = auto()  # the same with 403, inside of a 502
    GOAWAY = auto()  # the same with a gateway's words for HTTP/2's farewell


class Plan(NamedTuple):
    """What happens to one response.

    Attributes:
        fault: What goes wrong, if anything.
        after_bytes: After how many bytes of the response; a shorter one passes whole.
        retry_after_s: What a refusal says.
    """

    fault: Fault | None = None
    after_bytes: int = 0
    retry_after_s: int = 7


#: What the servers between us and a model say in the middle of an answer.
_ERROR_EVENTS: dict[Fault | None, Any] = {
    Fault.BAD_GATEWAY: {"code": 502, "message": "bad gateway"},
    Fault.FORBIDDEN: {"code": 502, "metadata": {"raw": '{"error": {"code": 403}}'}},
    Fault.GOAWAY: {"message": "http2: server sent GOAWAY and closed the connection"},
}


class FaultProxy:
    """Passes on what a server and its clients say, up to the planned faults.

    Attributes:
        open: How many connections from clients are open.
        struck: The plans whose fault has happened, in order.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._plans: deque[Plan] = deque()
        self.open = 0
        self.struck: list[Plan] = []
        self._changed = asyncio.Condition()
        self.url = ""

    def plan(self, *plans: Plan) -> None:
        """What happens to the next responses, one each; later ones pass as they are."""
        self._plans = deque(plans)

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
        upstream_reader, upstream = await asyncio.open_connection(*self._target)
        await self._count(1)
        response = _Response(Plan())

        async def ask() -> None:
            nonlocal response
            while data := await reader.read(65536):
                if response.begun:
                    response = _Response(self._plans.popleft() if self._plans else Plan())
                upstream.write(data)
                await upstream.drain()

        async def answer() -> None:
            while data := await upstream_reader.read(65536):
                passing, strikes = response.take(data)
                await response.send(writer, passing)
                if strikes:
                    self.struck.append(response.plan)
                    await response.strike(writer)
                    return

        response.begun = True
        both = asyncio.create_task(ask()), asyncio.create_task(answer())
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            await close(upstream)
            writer.close()
            await self._count(-1)

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.open += change
            self._changed.notify_all()


class _Response:
    """One response on its way, and where its fault is.

    Attributes:
        begun: Whether anything of it has come; what the client says next is the next request.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.begun = False
        self._seen = bytearray()

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What passes of the next bytes, and whether the fault comes behind it."""
        self.begun = True
        before = len(self._seen)
        self._seen += data
        at = self._fault_at()
        return (data, False) if at is None else (data[: max(0, at - before)], True)

    def _fault_at(self) -> int | None:
        """Behind which byte the fault comes, once that is known."""
        fault, after = self.plan.fault, self.plan.after_bytes
        if fault in (None, Fault.SLOW_HEADERS):
            return None
        if fault is Fault.RATE_LIMIT:
            return 0
        if fault in _ERROR_EVENTS:
            return _event_end(bytes(self._seen), after)
        return after if len(self._seen) >= after else None

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Pass bytes on."""
        head = len(self._seen) == len(data) and self.plan.fault is Fault.SLOW_HEADERS
        slow_bytes = data.find(b"\r\n\r\n") if head else 0
        for position in range(slow_bytes):
            writer.write(data[position : position + 1])
            await writer.drain()
            await asyncio.sleep(0.001)  # so that each one goes out for itself
        writer.write(data[slow_bytes:])
        await writer.drain()

    async def strike(self, writer: asyncio.StreamWriter) -> None:
        """Let the fault happen; returns when the connection is to be closed."""
        fault = self.plan.fault
        if fault is Fault.STALL:
            await asyncio.Event().wait()  # until the client goes away
        elif fault is Fault.RESET:
            _send_reset(writer)
        elif fault is Fault.RATE_LIMIT:
            writer.write(_refusal(self.plan.retry_after_s))
        elif fault in _ERROR_EVENTS:
            event = b"data: %b\n\n" % json.dumps({"error": _ERROR_EVENTS[fault]}).encode()
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event) if self._chunked else event)
        with suppress(ConnectionError):
            await writer.drain()

    @property
    def _chunked(self) -> bool:
        return b"chunked" in self._seen.partition(b"\r\n\r\n")[0].lower()


def _event_end(seen: bytes, after: int) -> int | None:
    """Where the first event ends that ends after so many bytes, its chunk's end included."""
    head, _, _ = seen.partition(b"\r\n\r\n")
    mark = b"\n\n\r\n" if b"chunked" in head.lower() else b"\n\n"
    at = seen.find(mark, max(after, len(head) + 4))
    return None if at < 0 else at + len(mark)


def _refusal(retry_after_s: int) -> bytes:
    body = b'{"error": {"message": "slow down"}}'
    head = (
        f"HTTP/1.1 429 Too Many Requests\r\nretry-after: {retry_after_s}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _send_reset(writer: asyncio.StreamWriter) -> None:
    # Closing a socket that does not linger sends a reset instead of an end.
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
