"""Keys at work in front of a server."""

import asyncio
import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from car_rpc.backends.openai_compat.credentials import Credentials
from car_rpc.backends.openai_compat.key_stats import KeyStatsStore
from car_rpc.backends.openai_compat.keychain import Keychain
from car_rpc.backends.openai_compat.keys import Keys
from car_rpc.errors import CarError
from car_rpc.testing import scripted_call
from car_rpc.wire.models import KeyringEntry, OpenAICompatSource, SecretReference
from tests.servers.scripted import Reply, said

HELLO = said("hello")
LIMITED = Reply(['{"error": "slow down"}'], status=429, headers={"retry-after": "7"})
REFUSED = Reply(['{"error": "who are you"}'], status=401)
VECTORS = Reply(
    [json.dumps({"data": [{"embedding": [1.0, 0.0], "index": 0}]})], media_type="application/json"
)
ENTRY = KeyringEntry(service="acme", username="me")
SOURCE = OpenAICompatSource(endpoint="http://server", model="m", api_key_env="KEYS")


def sent(server: Any) -> list[str | None]:
    return [asked.headers.get("authorization") for asked in server.asked]


async def failure_of(upstream: Any, model: Any) -> CarError:
    with pytest.raises(CarError) as caught:
        await upstream.events(model)
    return caught.value


async def use(keys: Keys, failure: CarError | None = None) -> None:
    async with keys.headers(SOURCE):
        if failure is not None:
            raise failure


async def counts(keys: Keys) -> dict[str, Any]:
    (endpoint,) = (await keys.stats()).endpoints
    return {key.name: key for key in endpoint.keys}


async def test_keys_of_all_variables_take_turns(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    upstream.environ |= {"A": "one, two,", "B": "three"}
    model = upstream.model(server.url, api_key_env="A", api_key_envs=["B", "A", "UNSET"])
    for _ in range(4):
        await upstream.events(model)
    assert sent(server) == ["Bearer one", "Bearer two", "Bearer three", "Bearer one"]


async def test_a_conversation_stays_with_its_key(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    upstream.environ["A"] = "one,two,three"
    model = upstream.model(server.url, api_key_env="A")
    for _ in range(4):
        await upstream.events(model, conversation_id="chat")
    assert len(set(sent(server))) == 1


@pytest.mark.parametrize("refusal", [LIMITED, REFUSED])
async def test_a_failed_key_says_that_another_one_is_free(
    upstream: Any, server: Any, refusal: Reply
) -> None:
    server.reply(refusal, HELLO)
    upstream.environ["A"] = "one,two"
    model = upstream.model(server.url, api_key_env="A")
    assert (await failure_of(upstream, model)).extra["another_key"]
    for _ in range(3):
        await upstream.events(model)
    assert sent(server) == ["Bearer one", *["Bearer two"] * 3]


async def test_the_last_key_says_how_long_to_wait_for_the_first_of_all(
    upstream: Any, server: Any
) -> None:
    later = LIMITED._replace(headers={"retry-after": "50"})
    server.reply(LIMITED, later)
    upstream.environ["A"] = "one,two"
    model = upstream.model(server.url, api_key_env="A")
    assert (await failure_of(upstream, model)).extra["retry_after_ms"] == 7000
    failure = await failure_of(upstream, model)
    assert "another_key" not in failure.extra
    assert 0 < failure.extra["retry_after_ms"] <= 7000


async def test_a_single_key_is_used_whatever_became_of_it(upstream: Any, server: Any) -> None:
    server.reply(REFUSED, LIMITED, HELLO)
    upstream.environ["A"] = "one"
    model = upstream.model(server.url, api_key_env="A")
    for kind in ("unauthorized", "rate_limited"):
        failure = await failure_of(upstream, model)
        assert (failure.kind, "another_key" in failure.extra) == (kind, False)
    await upstream.events(model)
    assert sent(server) == ["Bearer one"] * 3


async def test_a_batch_of_texts_goes_on_with_another_key(upstream: Any, server: Any) -> None:
    server.reply(LIMITED, REFUSED, VECTORS)
    upstream.environ["A"] = "one,two,three"
    model = upstream.model(server.url, api_key_env="A")
    assert (await upstream.backend.embed(model, ["x"])).dimensions == 2
    assert sent(server) == ["Bearer one", "Bearer two", "Bearer three"]


async def test_a_server_that_asks_for_no_wait_is_not_asked_for_ever(
    upstream: Any, server: Any
) -> None:
    server.reply(LIMITED._replace(headers={"retry-after": "0"}))
    upstream.environ["A"] = "one,two"
    with pytest.raises(CarError):
        await upstream.backend.embed(upstream.model(server.url, api_key_env="A"), ["x"])
    assert sent(server) == ["Bearer one", "Bearer two"]


async def test_a_cancelled_request_tells_nothing_of_its_key(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    upstream.environ["A"] = "one"
    events = upstream.backend.generate(scripted_call(upstream.model(server.url, api_key_env="A")))
    await anext(events)
    await events.aclose()
    (endpoint,) = (await upstream.backend.keys.stats()).endpoints
    (key,) = endpoint.keys
    assert (key.leases, key.successes, key.failures) == (1, 0, 0)


# -- keychain


def from_keychain(environ: dict[str, str], kept: dict[KeyringEntry, str]) -> Credentials:
    return Credentials(environ, Keychain(kept.get))


async def test_a_keychain_adds_keys_and_headers() -> None:
    source = OpenAICompatSource(
        endpoint="http://server",
        model="m",
        api_key_env="A",
        api_key_keyrings=[ENTRY],
        headers={"x-team": SecretReference(keyring=ENTRY)},
    )
    credentials = from_keychain({"A": "one"}, {ENTRY: " two\n"})
    keys = await credentials.keys(source)
    assert [(key.name, key.value) for key in keys] == [("A", "one"), ("keyring:acme/me", "two")]
    headers = await credentials.headers(source, keys[1])
    assert headers.fields["authorization"] == "Bearer two"
    assert headers.fields["x-team"] == "two"


async def test_a_locked_keychain_leaves_the_other_keys(caplog: pytest.LogCaptureFixture) -> None:
    source = OpenAICompatSource(
        endpoint="http://server", model="m", api_key_env="A", api_key_keyrings=[ENTRY]
    )
    assert len(await from_keychain({"A": "one"}, {}).keys(source)) == 1
    assert "'me' of 'acme' is not there" in caplog.text
    with pytest.raises(CarError) as caught:
        await from_keychain({}, {}).keys(source)
    assert (caught.value.kind, "is not there" in caught.value.message) == ("unauthorized", True)


async def test_a_refused_key_is_read_anew_from_the_keychain() -> None:
    source = OpenAICompatSource(endpoint="http://server", model="m", api_key_keyrings=[ENTRY])
    kept = {ENTRY: "old"}
    keys = Keys(from_keychain({}, kept))
    for kind, expected in (("timeout", "old"), ("unauthorized", "old"), ("timeout", "new")):
        used: list[str] = []

        async def fail(kind: str = kind, used: list[str] = used) -> None:
            async with keys.headers(source) as headers:
                used.append(headers.fields["authorization"])
                kept[ENTRY] = "new"
                raise CarError(kind, "x")

        with pytest.raises(CarError):
            await fail()
        assert used == [f"Bearer {expected}"]


async def test_a_refused_header_is_read_anew_from_the_keychain() -> None:
    source = OpenAICompatSource(
        endpoint="http://server", model="m", headers={"x-key": SecretReference(keyring=ENTRY)}
    )
    kept = {ENTRY: "old"}
    keys = Keys(from_keychain({}, kept))

    async def refused() -> None:
        async with keys.headers(source):
            raise CarError("unauthorized", "x")

    with pytest.raises(CarError):
        await refused()
    kept[ENTRY] = "new"
    async with keys.headers(source) as sent:
        assert sent.fields["x-key"] == "new"


# -- what is kept


async def test_counts_are_kept_for_all_processes(tmp_path: Path) -> None:
    environ = {"KEYS": "one,two"}
    stores = [KeyStatsStore(tmp_path / "car.db") for _ in range(2)]
    windows = [Keys(from_keychain(environ, {}), store, lambda: 0.0) for store in stores]
    for keys in windows:
        await use(keys)
        with pytest.raises(CarError):
            await use(keys, CarError("rate_limited", "slow", retry_after_ms=5000))
        await keys.stats()  # waits for what is being written
    for keys in windows:
        shown = await counts(keys)
        assert (shown["KEYS[0]"].leases, shown["KEYS[0]"].successes) == (2, 2)
        assert (shown["KEYS[1]"].rate_limited, shown["KEYS[1]"].failures) == (2, 2)
        assert shown["KEYS[1]"].cooling_down_ms == 5000
        await keys.close()
    later = Keys(from_keychain(environ, {}), KeyStatsStore(tmp_path / "car.db"), lambda: 9e9)
    assert (await counts(later))["KEYS[1]"].leases == 2
    await later.close()


async def test_counts_that_cannot_be_kept_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = KeyStatsStore(tmp_path / "car.db")
    keys = Keys(from_keychain({"KEYS": "one"}, {}), store)

    def full(_: Any) -> None:
        raise CarError("io_error", "disk full")

    with monkeypatch.context() as patched:
        patched.setattr(store, "add", full)
        await use(keys)
        assert (await counts(keys))["KEYS"].leases == 1
    assert "disk full" in caplog.text
    await use(keys)
    await keys._saved()
    assert next(iter(store.all().values())).leases == 2
    await keys.close()


async def test_many_requests_at_once_are_counted_each(tmp_path: Path) -> None:
    keys = Keys(from_keychain({"KEYS": "one,two"}, {}), KeyStatsStore(tmp_path / "car.db"))
    await asyncio.gather(*(use(keys) for _ in range(50)))
    shown = await counts(keys)
    assert {name: (key.leases, key.successes) for name, key in shown.items()} == {
        "KEYS[0]": (25, 25),
        "KEYS[1]": (25, 25),
    }
    await keys.close()


async def test_nothing_of_a_key_is_ever_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canaries = ["canary-aaaa-1111", "canary-bbbb-2222"]
    keys = Keys(from_keychain({"KEYS": ",".join(canaries)}, {}), KeyStatsStore(tmp_path / "car.db"))
    for kind in ("rate_limited", "unauthorized", "provider_error", "timeout"):
        with pytest.raises(CarError):
            await use(keys, CarError(kind, "x"))
    shown = f"{await keys.stats()}{caplog.text}"
    await keys.close()
    kept = (tmp_path / "car.db").read_bytes()
    for canary in canaries:
        assert canary[:10] not in shown
        assert canary[:10].encode() not in kept


async def test_the_log_names_the_key_of_a_request_and_never_tells_it(
    upstream: Any, server: Any
) -> None:
    server.reply(HELLO)
    upstream.environ["A"] = "one,two"
    model = upstream.model(server.url, api_key_env="A")
    noted: list[tuple[str, dict[str, Any]]] = []
    for _ in range(2):
        call = scripted_call(model)._replace(note=lambda kind, **data: noted.append((kind, data)))
        assert [event async for event in upstream.backend.generate(call)]
    assert [(kind, data["name"], data["index"]) for kind, data in noted] == [
        ("key_selected", "A[0]", 0),
        ("key_selected", "A[1]", 1),
    ]
    assert [data["hash"] for _, data in noted] == [
        sha256(key).hexdigest()[:8] for key in (b"one", b"two")
    ]
