"""The whole process, with keys that must not come out wherever it fails."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from car_rpc.client import CarClient, RemoteError
from car_rpc.wire.lifecycle import LogParams
from tests.servers.scripted import CLOSE, RESET, Reply, ScriptedServer, delta, said, sse

#: Keys without a form that anything would recognise, so that only our own care hides them.
CANARIES = {
    "first": "canary one of the variable",
    "second": "canary two of the variable",
    "keychain": "canary of the keychain",
    "header": "canary of the header",
}

#: What is looked for: no half of a key either.
TRACES = [half for key in CANARIES.values() for half in (key[:14], key[-14:])]

KEYCHAIN = f"""
from keyring.backend import KeyringBackend

class Keyring(KeyringBackend):
    priority = 1

    def get_password(self, service, username):
        if username == "locked":
            raise RuntimeError({CANARIES["keychain"]!r})
        return {CANARIES["keychain"]!r}

    def set_password(self, service, username, password):
        raise NotImplementedError  # nothing stores keys here, and the library asks for the method
"""

ECHO = json.dumps({"error": {"message": "who is THE KEY"}})
ECHO_EVENT = f"data: {ECHO}\n\n"
STARTED = sse(delta(content="x"), done=False)

#: Answers that fail in every way, and repeat the key where they can.
FAILURES = {
    "unauthorized": Reply([ECHO], status=401, media_type="application/json"),
    "forbidden": Reply([ECHO], status=403, media_type="application/json"),
    "rate_limited": Reply([ECHO], status=429, headers={"retry-after": "1"}),
    "server_error": Reply([ECHO], status=500),
    "no_json": Reply([f"<html>{ECHO}"], media_type="text/html"),
    "in_the_stream": Reply([ECHO_EVENT]),
    "in_its_middle": Reply([STARTED, ECHO_EVENT]),
    "not_understood": Reply(["data: THE KEY\n\n", ECHO_EVENT]),
    "cut": Reply([STARTED, CLOSE]),
    "reset": Reply([STARTED, RESET]),
    "no_answer": Reply([RESET]),
}

pytestmark = pytest.mark.process


def repeating(reply: Reply, key: str) -> Reply:
    """The reply, with the key that it is sent with in place of THE KEY."""
    parts = [
        part.replace("THE KEY", key) if isinstance(part, str) else part for part in reply.parts
    ]
    return reply._replace(parts=parts)


def source_of(server: ScriptedServer, **members: Any) -> dict[str, Any]:
    return {"type": "openai_compat", "endpoint": server.url, "model": "gpt", **members}


SOURCES = {
    "first": {"api_key_env": "CANARY_FIRST"},
    "second": {"api_key_env": "CANARY_SECOND"},
    "keychain": {"api_key_keyrings": [{"service": "acme", "username": "me"}]},
    "header": {"headers": {"x-key": {"env": "CANARY_HEADER"}, "x-b": {"env": "CANARY_HEADER"}}},
}


async def test_no_key_comes_out_in_any_failure(server: ScriptedServer, tmp_path: Path) -> None:
    pytest.importorskip("keyring")
    site, state, stderr = tmp_path / "site", tmp_path / "state", tmp_path / "stderr"
    site.mkdir()
    (site / "canary_keychain.py").write_text(KEYCHAIN)
    environ = {
        **os.environ,
        "PYTHONPATH": str(site),
        "PYTHON_KEYRING_BACKEND": "canary_keychain.Keyring",
        "CANARY_FIRST": CANARIES["first"],
        "CANARY_SECOND": f"{CANARIES['second']},{CANARIES['second']}",
        "CANARY_HEADER": CANARIES["header"],
    }
    logs: list[LogParams] = []
    told: list[Any] = []
    with stderr.open("wb") as output:
        async with CarClient.start(
            arguments=["--state-dir", str(state), "--log-level", "debug"],
            env=environ,
            stderr=output.fileno(),
            on_log=logs.append,
            log_level="debug",
        ) as client:
            for name, members in SOURCES.items():
                await _register(client, f"acme/{name}:1", source_of(server, **members))
                for reply in FAILURES.values():
                    server.reply(repeating(reply, CANARIES[name]))
                    told.append(await _failure(client, f"acme/{name}:1"))
            locked = {"api_key_keyrings": [{"service": "acme", "username": "locked"}]}
            await _register(client, "acme/locked:1", source_of(server, **locked))
            told.append(await _failure(client, "acme/locked:1"))
            stats = await client.call("keys.stats")
            story = await client.call("eventlog.query", {"limit": 1000})
    sent = {asked.headers.get("authorization") for asked in server.asked}
    assert {f"Bearer {CANARIES[name]}" for name in ("first", "second", "keychain")} < sent
    assert {asked.headers.get("x-key") for asked in server.asked} == {None, CANARIES["header"]}
    assert len(told) == len(SOURCES) * len(FAILURES) + 1
    names = {key["name"] for endpoint in stats["endpoints"] for key in endpoint["keys"]}
    assert names == {
        *("CANARY_FIRST", "CANARY_SECOND[0]", "CANARY_SECOND[1]"),
        "keyring:acme/me",
    }
    database = b"".join(path.read_bytes() for path in [*state.iterdir()])
    assert b"unauthorized" in database  # the search looks at the right bytes
    shown = json.dumps([told, stats, story]) + f"{logs}{stderr.read_text()}"
    for trace in TRACES:
        assert trace not in shown
        assert trace.encode() not in database


async def test_a_request_goes_on_with_the_next_key_as_an_attempt_of_its_own(
    server: ScriptedServer, tmp_path: Path
) -> None:
    limited = Reply(['{"error": "slow down"}'], status=429, headers={"retry-after": "3600"})
    server.reply(limited, FAILURES["unauthorized"], said("hello"))
    async with CarClient.start(
        arguments=["--state-dir", str(tmp_path)], env={**os.environ, "KEYS": "one,two,three"}
    ) as client:
        await _register(client, "acme/gpt:1", source_of(server, api_key_env="KEYS"))
        result = await client.generate(model="acme/gpt:1", prompt="hi")
        await client.generate(model="acme/gpt:1", prompt="hi")
        stats = await client.key_stats()
    assert result.text == "hello"
    assert [attempt.outcome for attempt in result.attempts or []] == [
        "rate_limited",
        "unauthorized",
        "success",
    ]
    sent = [asked.headers["authorization"] for asked in server.asked]
    assert sent == ["Bearer one", "Bearer two", "Bearer three", "Bearer three"]
    ((endpoint,),) = [stats]
    assert endpoint.endpoint == server.url
    one, two, three = endpoint.keys
    assert (one.name, one.rate_limited, two.unauthorized) == ("KEYS[0]", 1, 1)
    assert isinstance(one.cooling_down_ms, int)
    assert two.quarantined
    assert (three.leases, three.successes, three.failures) == (2, 2, 0)
    # Another process on the same state directory sees the same counts.
    async with CarClient.start(arguments=["--state-dir", str(tmp_path)]) as client:
        (later,) = await client.key_stats()
    assert [key.leases for key in later.keys] == [1, 1, 2]


async def _register(client: CarClient, model_id: str, source: dict[str, Any]) -> None:
    model = {"id": model_id, "source": source, "capabilities": ["generate"]}
    await client.call("models.register", {"model": model})


async def _failure(client: CarClient, model_id: str) -> Any:
    with pytest.raises(RemoteError) as caught:
        await client.generate(model=model_id, prompt="hi", recovery="none")
    return [str(caught.value), caught.value.kind, caught.value.data]
