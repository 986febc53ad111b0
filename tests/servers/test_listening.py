"""The servers of tests leave nothing behind."""

import asyncio
import socket
from contextlib import suppress

import pytest

from tests.servers.listening import listening


async def read_one(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


@pytest.mark.parametrize("turns", range(8))
def test_a_connection_that_comes_last_is_closed(turns: int) -> None:
    async def connect() -> socket.socket:
        async with listening(read_one) as url:
            host, port = url.removeprefix("http://").split(":")
            client = socket.create_connection((host, int(port)))
            for _ in range(turns):  # at each the server has come a little farther
                await asyncio.sleep(0)
        return client

    with asyncio.run(connect()) as client:
        client.settimeout(5)
        with suppress(ConnectionResetError):  # it was not accepted any more, or aborted
            assert client.recv(1) == b""
