"""A TCP server for a test: it leaves no task and no socket behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

#: Turns of asyncio's loop from a connection to its task, and one more.
_TURNS_TO_ACCEPT = 4

#: Serves one connection.
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str, None]:
    """Listen on a free port of the loopback interface; gives the URL."""
    tasks: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # What a test breaks on purpose ends the connection, and nothing else.
            with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await serve(reader, writer)
        finally:
            await close(writer)
            writers.discard(writer)

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        task = asyncio.create_task(handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # A client that keeps its connection for later reads no farewell.
    farewell = None if tls is None else 0.1
    server = await asyncio.start_server(
        start, "127.0.0.1", 0, ssl=tls, ssl_shutdown_timeout=farewell
    )
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        # A connection that comes last has its task some turns after it was accepted.
        for _ in range(_TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:  # whose task was cancelled before it began
            writer.transport.abort()
        await server.wait_closed()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever state it is in."""
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
