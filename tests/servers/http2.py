"""A server of HTTP/2 over TLS that says it goes away, in the middle of its first answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events

from tests.servers.listening import listening

_HEADERS = [(":status", "200"), ("content-type", "text/event-stream")]


class Http2Server:
    """Answers every request with the same bytes, and leaves the answer open.

    Attributes:
        resets: The streams that the client told it no longer wants.
        goes_away: Whether it says so after the bytes, as of no stream it will finish.

    Args:
        body: What it answers.
        tls: With which it offers HTTP/2.
    """

    def __init__(self, body: bytes, tls: ssl.SSLContext) -> None:
        tls.set_alpn_protocols(["h2"])
        self.resets: list[int] = []
        self.goes_away = False
        self._body = body
        self._tls = tls
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Http2Server, None]:
        """Listen until the block ends."""
        async with listening(self._serve, self._tls) as self.url:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                self._take(event, connection)
            writer.write(connection.data_to_send())
            await writer.drain()

    def _take(self, event: h2.events.Event, connection: h2.connection.H2Connection) -> None:
        if isinstance(event, h2.events.StreamReset):
            self.resets.append(event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            connection.send_headers(event.stream_id, _HEADERS)
            if self._body:
                connection.send_data(event.stream_id, self._body)
            if self.goes_away:
                connection.close_connection(last_stream_id=event.stream_id)
