"""Between us and the server: TLS, proxies, and what HTTP/2 would be like."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from car_rpc.errors import CarError
from car_rpc.testing import scripted_call
from car_rpc.wire.events import Stop, TextDelta
from tests.servers.http2 import Http2Server
from tests.servers.listening import close, listening
from tests.servers.scripted import ScriptedServer, delta, said, sse

HELLO = [TextDelta(text="hello"), Stop(reason="end_turn")]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server on the loopback interface needs, which clients are told to trust."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "models.invalid").configure_cert(context)
    return context


@pytest.fixture
async def tunnel(server: Any) -> AsyncGenerator[tuple[str, list[str]], None]:
    """A proxy that opens tunnels, to the same server whatever it is asked for; and what it was."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
        port = int(server.url.rpartition(":")[2])
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        try:
            await asyncio.gather(copy(reader, upstream), copy(upstream_reader, writer))
        finally:
            await close(upstream)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

    async with listening(serve) as url:
        yield url, asked


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncGenerator[ScriptedServer, None]:
    context: ssl.SSLContext = request.getfixturevalue("tls")
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with ScriptedServer(context).running() as server:
        server.reply(said("hello"))
        yield server


async def test_a_server_that_offers_http2_is_spoken_to_in_http1_on_one_connection(
    upstream: Any, server: Any
) -> None:
    for _ in range(3):
        assert await upstream.events(upstream.model(server.url)) == HELLO
    assert (len(server.asked), server.connections) == (3, 1)


async def test_a_server_whose_certificate_nobody_vouches_for_is_not_spoken_to(
    upstream: Any, server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    with pytest.raises(CarError, match=r"transport: .*certificate") as caught:
        await upstream.events(upstream.model(server.url))
    assert (caught.value.kind, server.asked) == ("provider_error", [])


async def test_a_server_that_never_says_hello_is_not_waited_for(make_upstream: Any) -> None:
    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    upstream = make_upstream(connect=0.2)
    async with listening(say_nothing) as url:
        with pytest.raises(CarError) as caught:
            await upstream.events(upstream.model(url.replace("http:", "https:")))
    assert caught.value.message == "timeout: no connection to the server within 0.2 s"


async def test_a_proxy_of_the_environment_opens_a_tunnel_to_a_server_behind_it(
    upstream: Any, server: Any, tunnel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = tunnel
    monkeypatch.setenv("HTTPS_PROXY", url)
    model = upstream.model("https://models.invalid", headers={"x-team": "a secret"})
    for _ in range(2):
        assert await upstream.events(model) == HELLO
    assert asked == ["CONNECT models.invalid:443 HTTP/1.1"]
    assert [each.headers["x-team"] for each in server.asked] == ["a secret"] * 2


async def test_no_proxy_is_asked_for_a_host_that_needs_none(
    upstream: Any, server: Any, tunnel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = tunnel
    monkeypatch.setenv("HTTPS_PROXY", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert await upstream.events(upstream.model(server.url)) == HELLO
    assert asked == []


# -- HTTP/2: why it is not spoken, and what would come of a server that goes away


@pytest.fixture
async def http2(upstream: Any, tls: ssl.SSLContext) -> AsyncGenerator[Http2Server, None]:
    """A server of HTTP/2, and a client for it in the place of the usual one."""
    client = httpx.AsyncClient(http2=True, timeout=None)
    upstream.backend._client._client = client
    body = sse(delta(content="hello"), done=False).encode()
    async with Http2Server(body, tls).running() as server:
        yield server
    await client.aclose()


async def test_an_answer_is_interrupted_by_a_server_that_goes_away(
    upstream: Any, http2: Http2Server
) -> None:
    http2.goes_away = True
    answer = upstream.backend.generate(scripted_call(upstream.model(http2.url)))
    assert await anext(answer) == TextDelta(text="hello")
    with pytest.raises(CarError) as caught:
        await anext(answer)
    assert (caught.value.kind, caught.value.data["cause"]) == ("stream_interrupted", "goaway")


async def test_httpx_does_not_tell_a_server_of_http2_that_an_answer_is_no_longer_wanted(
    upstream: Any, http2: Http2Server
) -> None:
    """The day this fails, HTTP/2 can be switched on in `client.py`."""
    for _ in range(2):  # the second request comes after anything that was said of the first
        answer = upstream.backend.generate(scripted_call(upstream.model(http2.url)))
        assert await anext(answer) == TextDelta(text="hello")
        await answer.aclose()
    assert http2.resets == []
