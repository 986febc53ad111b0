"""Discovery through the whole process: models that come, are used, and go with their server."""

import os
from pathlib import Path

import pytest

from car_rpc.client import CarClient, RemoteError
from tests.servers import listings
from tests.servers.scripted import ScriptedServer, said

pytestmark = pytest.mark.process

GEMMA = "ollama/gemma3:4b"


async def test_models_are_found_used_and_gone_with_their_server(tmp_path: Path) -> None:
    arguments = ["--state-dir", str(tmp_path)]
    async with CarClient.start(arguments=arguments) as client:
        async with ScriptedServer().running() as server:
            server.routes = {**listings.OLLAMA, "/v1/chat/completions": said("hello")}
            server.reply(listings.NOT_FOUND)
            address = {"endpoints": [server.url], "timeout_ms": 30_000}
            found = await client.discover_models(**address)
            (known,) = found.servers
            gemma, nomic = known.models
            assert (known.kind, found.registered) == ("ollama", [gemma, nomic])
            assert gemma.startswith(f"{GEMMA}@")
            shown = await client.model(gemma)
            assert (shown.available, shown.provider, shown.tags) == (True, "ollama", ["discovered"])
            # Without a name it is the best one: the demo model comes last.
            answer = await client.generate(prompt="hi")
            assert (answer.text, answer.model_used) == ("hello", gemma)
            again = await client.discover_models(**address)
            assert (again.registered, again.unavailable) == ([], [])
        with pytest.raises(RemoteError):
            await client.generate(model=gemma, prompt="hi", recovery="none")
        assert not (await client.model(gemma)).available
        assert not (await client.model(nomic)).available
        gone = await client.discover_models(**address)
        assert (gone.servers[0].reachable, gone.unavailable) == (False, [])
        assert await client.unregister_model(gemma) == gemma
        log = await client.query_log(types=["request"])
        assert [event.data["method"] for event in log.events].count("models.discover") == 3
    # Nobody registered them: another process, or a later one, knows nothing of them.
    async with CarClient.start(arguments=arguments) as client:
        assert [model for model in await client.models() if "discovered" in model.tags] == []


async def test_a_users_own_model_goes_before_one_that_is_found(tmp_path: Path) -> None:
    async with CarClient.start(arguments=["--state-dir", str(tmp_path)]) as client:
        async with ScriptedServer().running() as server:
            server.routes = listings.VLLM
            address = {"endpoints": [server.url], "timeout_ms": 30_000}
            (model,) = (await client.discover_models(**address)).registered
            mine = {"id": model, "source": {"type": "ollama", "model_tag": "x"}}
            await client.register_model({**mine, "capabilities": ["generate"]})
            await client.discover_models(**address)
            assert (await client.model(model)).source.model_tag == "x"
            assert await client.unregister_model(model) == model
            assert (await client.model(model)).tags == ["discovered"]
        # The server went; the next look tells.
        assert (await client.discover_models(**address)).unavailable == [model]
        assert not (await client.model(model)).available


async def test_switched_off_nobody_is_asked(tmp_path: Path) -> None:
    environ = {**os.environ, "CAR_DISCOVERY_ENABLED": "false"}
    arguments = ["--state-dir", str(tmp_path)]
    async with (
        ScriptedServer().running() as server,
        CarClient.start(arguments=arguments, env=environ) as client,
    ):
        found = await client.discover_models(endpoints=[server.url])
        assert (found.enabled, found.servers, server.connections) == (False, [], 0)


async def test_addresses_are_configured_and_asked_only_when_a_client_wants_it(
    tmp_path: Path,
) -> None:
    async with ScriptedServer().running() as server:
        server.routes = listings.VLLM
        (tmp_path / "config.toml").write_text(
            f'[discovery]\nendpoints = ["{server.url}"]\ntimeout_ms = 30000\n'
        )
        async with CarClient.start(arguments=["--state-dir", str(tmp_path)]) as client:
            await client.models()
            assert server.connections == 0
            (found,) = (await client.discover_models()).servers
            assert (found.endpoint, found.kind) == (server.url, "vllm")
