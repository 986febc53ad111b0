"""A local HTTP server that answers from a script and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.servers.listening import listening


class Action(Enum):
    """A part of a reply that is no bytes."""

    RESET = auto()  # cut the connection off
    CLOSE = auto()  # close it before the end of the reply
    STALL = auto()  # wait for the client to go away


RESET, CLOSE, STALL = Action


class Reply(NamedTuple):
    """What the server answers to one request.

    Attributes:
        parts: The body in the order in which it is written; strings are encoded, events are
            waited for.
        status: HTTP status.
        headers: Further headers.
        media_type: Of the body.
        chunked: Whether chunked transfer coding frames the body; else the connection's end does.
        stall: Whether not even the headers are sent.
    """

    parts: Sequence[bytes | str | Action | asyncio.Event] = ()
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    media_type: str = "text/event-stream"
    chunked: bool = True
    stall: bool = False


class Asked(NamedTuple):
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: Any


def sse(*chunks: Any, done: bool = True) -> str:
    """Chunks as server-sent events, with `[DONE]` behind them."""
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*events, "data: [DONE]\n\n"] if done else events)


def delta(finish_reason: str | None = None, **members: Any) -> dict[str, Any]:
    """A chunk with one choice."""
    return {"choices": [{"index": 0, "delta": members, "finish_reason": finish_reason}]}


def said(*words: str, **usage: int) -> Reply:
    """A streamed answer of these words."""
    chunks = [delta(role="assistant", content=""), *(delta(content=word) for word in words)]
    ending = [delta("stop"), *([{"choices": [], "usage": usage}] if usage else [])]
    return Reply([sse(*chunks, *ending)])


class ScriptedServer:
    """Answers each request with the next reply, and the last one again and again.

    Attributes:
        asked: Every request, in order.
        routes: Replies by path, which go before the others.
        connections: How many connections there have been.
        stalled: Set whenever a reply has come to a stall.

    Args:
        tls: With which it speaks TLS.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.routes: dict[str, Reply] = {}
        self.connections = 0
        self.stalled = asyncio.Event()
        self._choose: Callable[[Asked], Reply] | None = None
        self._replies: deque[Reply] = deque()
        self._open = 0
        self._changed = asyncio.Condition()
        self._tls = tls
        self.url = ""

    def reply(self, *replies: Reply) -> None:
        """What to answer from now on."""
        self._replies = deque(replies)

    def answer(self, choose: Callable[[Asked], Reply]) -> None:
        """Choose what to answer from the request, from now on."""
        self._choose = choose

    async def no_connection(self) -> None:
        """Wait until every connection is closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._open == 0)

    async def wait_asked(self, count: int) -> None:
        """Wait until there were so many requests."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.asked) >= count)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[ScriptedServer, None]:
        """Listen until the block ends."""
        async with listening(self._serve, self._tls) as self.url:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._count(1)
        try:
            while True:
                self.asked.append(await _request(reader))
                await self._count(0)
                reply = self.routes.get(self.asked[-1].path) or self._next()
                if not await self._answer(reply, reader, writer):
                    break
        finally:
            writer.close()
            await self._count(-1)

    def _next(self) -> Reply:
        if self._choose is not None:
            return self._choose(self.asked[-1])
        return self._replies.popleft() if len(self._replies) > 1 else self._replies[0]

    async def _answer(
        self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Play a reply; returns whether the connection can go on."""
        if not reply.stall:
            writer.write(_head(reply))
        for part in (STALL,) if reply.stall else reply.parts:
            if isinstance(part, asyncio.Event):
                await part.wait()
                continue
            if isinstance(part, Action):
                if part is STALL:
                    self.stalled.set()
                    await reader.read()
                elif part is RESET:
                    writer.transport.abort()
                return False
            data = part.encode() if isinstance(part, str) else part
            writer.write(b"%x\r\n%b\r\n" % (len(data), data) if reply.chunked else data)
            await writer.drain()
        if reply.chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return reply.chunked

    async def _count(self, change: int) -> None:
        async with self._changed:
            self._open += change
            self._changed.notify_all()


async def _request(reader: asyncio.StreamReader) -> Asked:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (s.partition(":") for s in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(first.split(" ")[1], headers, json.loads(body) if body else None)


def _head(reply: Reply) -> bytes:
    framing = {"transfer-encoding": "chunked"} if reply.chunked else {"connection": "close"}
    headers = {"content-type": reply.media_type, **framing, **reply.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} Scripted\r\n{lines}\r\n".encode()
