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


async def test_a_model_behind_a_server_finds_things_in_an_image_and_another_one_where_it_fails(
    server: Any, tmp_path: Path
) -> None:
    answer = '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'
    refused = Reply(['{"error": "no"}'], status=401, media_type="application/json")
    server.reply(said(answer[:9], answer[9:]), refused, said("no cat here"))
    image = tmp_path / "cat.png"
    image.write_bytes(b"\x89PNG")
    source = {"type": "path", "path": str(image)}
    asked = {"image": {"type": "image", "source": source}, "prompt": "the cat"}
    async with CarClient.start(arguments=["--state-dir", str(tmp_path)]) as client:
        for name in ("first", "second"):
            known = {"type": "openai_compat", "endpoint": server.url, "model": name}
            able = ["generate", "grounding"]
            model = {"id": f"acme/{name}:1", "source": known, "capabilities": able}
            await client.call("models.register", {"model": model})
        found = await client.call("ground", asked)
        nothing = await client.call("ground", asked)
        with pytest.raises(RemoteError) as caught:
            await client.call("ground", {**asked, "model": "acme/none:1"})
    (box,) = found["boxes"]
    assert (box["label"], box["unit"], box["x_min"], box["y_max"]) == ("cat", "pixel", 1.0, 4.0)
    assert (found["raw_text"], found["model_used"]) == (answer, "acme/first:1")
    content = server.asked[0].body["messages"][0]["content"]
    assert {"type": "text", "text": "the cat"} in content
    (picture,) = (part for part in content if part["type"] == "image_url")
    assert picture["image_url"]["url"] == "data:image/png;base64,iVBORw=="
    # The first one refused the second request, so the other one was asked.
    assert [each.body["model"] for each in server.asked] == ["first", "first", "second"]
    assert (nothing["boxes"], nothing["model_used"]) == ([], "acme/second:1")
    assert caught.value.kind == "model_not_found"
