"""The whole process in front of a server."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from car_rpc.client import CarClient, RemoteError
from car_rpc.wire.lifecycle import LogParams
from tests.servers.scripted import Reply, said

KEY = "a-secret-without-a-well-known-shape"

pytestmark = pytest.mark.process


async def test_a_registered_model_answers_and_its_secrets_stay_inside(
    server: Any, tmp_path: Path
) -> None:
    server.reply(
        said("hel", "lo", prompt_tokens=7, completion_tokens=3),
        Reply([json.dumps({"error": f"bad {KEY}"})], status=401, media_type="application/json"),
    )
    source = {
        "type": "openai_compat",
        "endpoint": server.url,
        "model": "gpt",
        "api_key_env": "MY_KEY",
        "headers": {"x-team": KEY, "x-org": {"env": "MY_KEY"}},
    }
    model = {"id": "acme/gpt:1", "source": source, "capabilities": ["generate"]}
    logs: list[LogParams] = []
    async with CarClient.start(
        arguments=["--state-dir", str(tmp_path), "--log-level", "debug"],
        env={**os.environ, "MY_KEY": f"{KEY}-too"},
        on_log=logs.append,
        log_level="debug",
    ) as client:
        registered = await client.call("models.register", {"model": model})
        listed = await client.call("models.list", {})
        result = await client.call("generate", {"model": "acme/gpt:1", "prompt": "hi"})
        with pytest.raises(RemoteError) as caught:
            await client.call("generate", {"model": "acme/gpt:1", "prompt": "hi"})
        events = await client.call("eventlog.query", {"limit": 1000})
    assert (result["text"], result["stop_reason"]) == ("hello", "end_turn")
    assert (result["usage"]["prompt_tokens"], result["usage"]["total_tokens"]) == (7, 10)
    assert caught.value.kind == "unauthorized"
    sent = server.asked[0].headers
    assert (sent["authorization"], sent["x-team"]) == (f"Bearer {KEY}-too", KEY)
    shown = next(each for each in listed["models"] if each["id"] == "acme/gpt:1")
    assert shown["source"]["headers"] == {"x-team": "***", "x-org": "***"}
    assert shown["available"]
    assert KEY not in json.dumps([registered, listed, events, caught.value.data])
    assert KEY not in f"{caught.value}{logs}"
