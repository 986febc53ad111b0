"""Looking for servers: scripted ones here, in the forms of their documentation."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from car_rpc.backends.openai_compat import discovery
from car_rpc.backends.openai_compat.discovery import Discovery, DiscoveryPolicy
from car_rpc.wire.events import TextDelta
from car_rpc.wire.models import (
    ModelsDiscoverParams,
    ModelsDiscoverResult,
    OllamaSource,
    RemoteApiSource,
    VllmMlxSource,
)
from tests.servers import listings
from tests.servers.scripted import RESET, STALL, Reply, ScriptedServer, said


def plain(text: str, **members: Any) -> Reply:
    return Reply([text], media_type="application/json", **members)


@pytest.fixture
def look(upstream: Any) -> Callable[..., Any]:
    """Look at addresses; what was found stays known to the backend."""

    async def look(*endpoints: str, **params: Any) -> ModelsDiscoverResult:
        finder = Discovery(upstream.backend.presence, DiscoveryPolicy(), {})
        given = {"endpoints": list(endpoints), "timeout_ms": 30_000, **params}
        return await finder.run(msgspec.convert(given, ModelsDiscoverParams))

    return look


async def one(look: Any, server: ScriptedServer, **params: Any) -> Any:
    (found,) = (await look(server.url, **params)).servers
    return found


@pytest.mark.parametrize(
    ("routes", "kind", "asked"),
    [
        (listings.OLLAMA, "ollama", 3),
        (listings.LM_STUDIO, "lm_studio", 3),
        (listings.LLAMA_SERVER, "llama_server", 2),
        (listings.VLLM, "vllm", 1),
        (listings.VLLM_MLX, "vllm_mlx", 1),
    ],
)
async def test_each_kind_of_server_is_known_by_its_answers(
    look: Any, server: ScriptedServer, routes: dict[str, Reply], kind: str, asked: int
) -> None:
    server.routes = routes
    server.reply(listings.NOT_FOUND)
    found = await one(look, server)
    assert (found.reachable, found.kind) == (True, kind)
    assert found.models
    assert len(server.asked) == asked


async def test_a_model_that_was_found_answers(
    look: Any, upstream: Any, server: ScriptedServer
) -> None:
    server.routes = {**listings.OLLAMA, "/v1/chat/completions": said("hello")}
    server.reply(listings.NOT_FOUND)
    await look(server.url)
    gemma, *_ = upstream.backend.presence.models()
    assert TextDelta(text="hello") in await upstream.events(gemma)
    assert server.asked[-1].body["model"] == "gemma3:4b"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (listings.NOT_FOUND, "HTTP 404"),
        (plain("{}", status=401), "HTTP 401: it wants a key"),
        (plain("<html>"), "no listing of models"),
        (Reply(chunked=False), "HF_HUB_CACHE"),
        (plain("[]"), "no listing of models"),
        (Reply([RESET]), "no web server answers there"),
        (plain("{", headers={"content-encoding": "gzip"}), "no listing of models"),
    ],
)
async def test_what_is_no_such_server_is_asked_once_and_told(
    look: Any, server: ScriptedServer, reply: Reply, reason: str
) -> None:
    server.reply(reply)
    found = await one(look, server)
    assert (found.reachable, found.models, len(server.asked)) == (False, [], 1)
    assert reason in found.reason


async def test_a_redirect_is_not_followed(look: Any, server: ScriptedServer) -> None:
    async with ScriptedServer().running() as other:
        server.reply(plain("", status=302, headers={"location": f"{other.url}/v1/models"}))
        assert "HTTP 302" in (await one(look, server)).reason
        assert other.asked == []


async def test_no_proxy_of_the_environment_is_asked(
    look: Any, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.routes = listings.VLLM
    async with ScriptedServer().running() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert (await one(look, server)).reachable
        assert proxy.asked == []


async def test_an_answer_that_is_too_long_is_not_read_to_its_end(
    look: Any, server: ScriptedServer
) -> None:
    server.reply(Reply([b" " * (discovery.MAX_LISTING_BYTES + 1), STALL]))
    assert "exceeds" in (await one(look, server)).reason
    async with asyncio.timeout(5):
        await server.no_connection()


async def test_servers_that_say_nothing_are_waited_for_side_by_side(look: Any) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ScriptedServer().running()) for _ in range(8)]
        for server in servers:
            server.reply(Reply(stall=True))
        looking = asyncio.create_task(look(*(server.url for server in servers)))
        async with asyncio.timeout(10):
            for server in servers:
                await server.wait_asked(1)  # all of them, although none has answered
        looking.cancel()
        await asyncio.wait([looking])
        async with asyncio.timeout(10):
            for server in servers:
                await server.no_connection()
        (stalled,) = (await look(servers[0].url, timeout_ms=1)).servers
        assert stalled.reason == "no answer within 1 ms"


async def test_where_nothing_listens_that_is_said(look: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        (found,) = (await look(f"http://127.0.0.1:{unused.getsockname()[1]}")).servers
    assert found.reason == "nothing listens there"


@pytest.mark.parametrize(
    "address",
    [
        *("http://127.0.0.1:65536", "http://127.0.0.1:99999", "http://h:x"),
        *("http://user:pw@h", "ftp://h", "http://h?x", "h", "http://", "http://a b", "http://h\n"),
    ],
)
async def test_what_is_no_address_is_refused(look: Any, address: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="endpoints"):
        await look(address)


@pytest.mark.parametrize(
    "address", ["http://h", "https://[::1]:1/v1", "http://h:65535", "http://ä.example/a/b"]
)
def test_addresses_have_these_forms(address: str) -> None:
    given = {"endpoints": [address]}
    assert msgspec.convert(given, ModelsDiscoverParams).endpoints == [address]


async def test_an_address_is_asked_once_however_it_is_written(
    look: Any, server: ScriptedServer
) -> None:
    server.routes = listings.VLLM
    result = await look(server.url, f"{server.url}/", f"{server.url}/v1", f"{server.url}/v1/")
    assert [found.endpoint for found in result.servers] == [server.url]
    assert len(server.asked) == 1


async def test_a_failed_connection_makes_found_models_unavailable_until_they_answer(
    look: Any, upstream: Any, server: ScriptedServer
) -> None:
    server.routes = listings.VLLM
    await look(server.url)
    (model,) = upstream.backend.presence.models()
    assert upstream.backend.availability(model).available
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{unused.getsockname()[1]}"
        moved = msgspec.structs.replace(
            model, source=msgspec.structs.replace(model.source, endpoint=gone)
        )
        upstream.backend.presence.listed(gone, [moved])
        with pytest.raises(Exception, match="transport"):
            await upstream.events(moved)
        with pytest.raises(Exception, match="transport"):
            await upstream.backend.embed(moved, ["x"])
    assert not upstream.backend.availability(moved).available
    assert upstream.backend.availability(model).available
    upstream.backend.presence.unreachable(server.url)
    server.reply(said("back"))
    await upstream.events(model)
    assert upstream.backend.availability(model).available


async def test_an_error_of_the_server_leaves_its_models_there(
    look: Any, upstream: Any, server: ScriptedServer
) -> None:
    server.routes = listings.VLLM
    await look(server.url)
    (model,) = upstream.backend.presence.models()
    server.reply(Reply(["{}"], status=500))
    with pytest.raises(Exception, match="HTTP 500"):
        await upstream.events(model)
    assert upstream.backend.availability(model).available


# -- where is looked


async def test_the_configured_addresses_are_looked_at_and_one_of_the_environment(
    upstream: Any, server: ScriptedServer
) -> None:
    server.routes = listings.VLLM_MLX
    policy = DiscoveryPolicy(endpoints=[], timeout_ms=30_000)
    environ = {"VLLM_MLX_ENDPOINT": server.url}
    result = await Discovery(upstream.backend.presence, policy, environ).run(ModelsDiscoverParams())
    assert [found.kind for found in result.servers] == ["vllm_mlx"]
    policy = DiscoveryPolicy(endpoints=[server.url], timeout_ms=30_000)
    result = await Discovery(upstream.backend.presence, policy, {}).run(ModelsDiscoverParams())
    assert [found.endpoint for found in result.servers] == [server.url]


async def test_an_address_of_the_environment_that_is_none_is_left_out_and_not_repeated(
    upstream: Any, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {"VLLM_MLX_ENDPOINT": "http://user:canary@host"}
    finder = Discovery(upstream.backend.presence, DiscoveryPolicy(endpoints=[]), environ)
    assert (await finder.run(ModelsDiscoverParams())).servers == []
    assert "VLLM_MLX_ENDPOINT" in caplog.text
    assert "canary" not in caplog.text


async def test_switched_off_it_asks_nobody(upstream: Any, server: ScriptedServer) -> None:
    finder = Discovery(upstream.backend.presence, DiscoveryPolicy(enabled=False), {})
    result = await finder.run(ModelsDiscoverParams(endpoints=[server.url]))
    assert (result.enabled, result.servers) == (False, [])
    assert server.connections == 0


def test_without_a_configuration_only_this_machine_is_looked_at() -> None:
    endpoints = DiscoveryPolicy().endpoints
    assert all(endpoint.startswith("http://127.0.0.1:") for endpoint in endpoints)
    assert msgspec.convert({"endpoints": endpoints}, DiscoveryPolicy).endpoints == endpoints


# -- other names of the same servers


@pytest.mark.parametrize(
    "source",
    [
        lambda url: OllamaSource(host=f"{url}/", model_tag="x:1"),
        lambda url: VllmMlxSource(endpoint=f"{url}/v1", model_name="x:1"),
        lambda url: RemoteApiSource(endpoint=url, model="x:1"),
    ],
)
async def test_a_model_is_served_whichever_source_names_it(
    upstream: Any, server: ScriptedServer, source: Any
) -> None:
    server.reply(said("hello"))
    model = msgspec.structs.replace(upstream.model(server.url), source=source(server.url))
    assert upstream.backend.availability(model).available
    assert TextDelta(text="hello") in await upstream.events(model)
    (asked,) = server.asked
    assert (asked.path, asked.body["model"]) == ("/v1/chat/completions", "x:1")
