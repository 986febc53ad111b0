import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from car_rpc.backends.local.weights import Removed
from car_rpc.backends.local.workers import Unloaded
from car_rpc.engine.ports import EmbeddingBatch, Transcript
from car_rpc.errors import CarError
from car_rpc.host.dispatch import Dispatcher
from car_rpc.host.handlers import HANDLERS
from car_rpc.host.params import decode_params
from car_rpc.outcomes.profiles import AttemptEnd
from car_rpc.wire.admission import LoadedModel
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.keys import KeysStatsResult
from car_rpc.wire.log import (
    EventlogQueryResult,
    EventlogRetentionResult,
    EventlogVerifyResult,
    LogEvent,
    RetentionPolicy,
)
from car_rpc.wire.methods import METHODS
from car_rpc.wire.models import ModelsDiscoverResult
from car_rpc.wire.worker import Pulled
from tests.eventlog.test_recorded import GOOD
from tests.eventlog.test_story import told

#: Methods that the session itself answers.
LIFECYCLE = {"initialize", "ping", "shutdown", "exit", "$/cancelRequest"}


def test_every_method_of_the_table_that_a_client_may_call_has_a_handler() -> None:
    callable_by_clients = {n for n, row in METHODS.items() if row.direction != "core_to_client"}
    assert set(HANDLERS) == callable_by_clients - LIFECYCLE


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("models.get", {}, "$.model"),
        ("models.get", {"model": 5}, "$.model"),
        ("generate", {"prompt": "x", "params": {"top_p": 2}}, "$.params.top_p"),
        ("generate", {"prompt": "x", "params": {"thinking": "maybe"}}, "$.params.thinking"),
        ("generate", {"messages": [{"role": "robot"}]}, "$.messages[0].role"),
        ("generate", {"messages": [{"content": "x"}]}, "$.messages[0].role"),
        (
            "generate",
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "$.messages[0].content[0].type",
        ),
        ("generate", {"prompt": "x", "timeout_ms": 0}, "$.timeout_ms"),
        ("generate", {}, "$.prompt"),
        ("embed", {"texts": "x"}, "$.texts"),
        ("detokenize", {"model": "echo", "tokens": [1, -1]}, "$.tokens[1]"),
        ("models.register", {"model": {"id": "nope"}}, "$.model.id"),
        (
            "models.register",
            {
                "model": {
                    "id": "a/b:c",
                    "capabilities": ["generate"],
                    "source": {"type": "fake", "script": [{}]},
                }
            },
            "$.model.source.script",
        ),
    ],
)
async def test_wrong_parameters_are_named_by_their_path(
    app: Any, method: str, params: dict[str, Any], path: str
) -> None:
    error = await app.failure(1, method, **params)
    assert (error["code"], error["data"]["kind"]) == (-32602, "invalid_params")
    assert error["data"]["path"] == path
    assert f"at `{path}`" in error["message"]


@pytest.mark.parametrize(
    "raw", [b"[]", b"null", b'"x"', b"{", b'{"prompt":"\xff"}', b'{"a":1e999,']
)
def test_parameters_that_are_no_object_are_named_as_a_whole(raw: bytes) -> None:
    with pytest.raises(CarError) as caught:
        decode_params(raw, GenerateRequest)
    assert (caught.value.kind, caught.value.data["path"]) == ("invalid_params", "$")


def test_unknown_fields_are_ignored() -> None:
    assert decode_params(b'{"prompt":"x","new":1}', GenerateRequest).prompt == "x"


@pytest.mark.parametrize("method", ["models.list", "tokenize"])
async def test_what_a_handler_raises_unexpectedly_stays_in_the_log(
    app: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("secret of the house")

    dispatcher = Dispatcher(app.services._replace(registry=Broken(), engine=Broken()))
    app.session._dispatcher = dispatcher
    error = await app.failure(1, method, model="m", text="t")
    assert (error["code"], error["data"]["kind"]) == (-32603, "internal")
    assert "secret" not in str(app.messages)
    assert "secret of the house" in caplog.text


async def test_a_model_can_be_registered_used_replaced_and_forgotten(app: Any) -> None:
    source = {"type": "fake", "script": [{"echo": True}]}
    model = {"id": "me/mine:1", "capabilities": ["generate"], "source": source}
    result = (await app.call(1, "models.register", model=model))["result"]
    assert (result["replaced"], result["model"]["available"]) == (False, True)
    assert (await app.call(2, "models.register", model=model))["result"]["replaced"]
    assert (await app.call(3, "generate", prompt="x", model="mine"))["result"]["text"] == "x"
    assert (await app.call(4, "models.unregister", model="mine"))["result"] == {
        "model_id": "me/mine:1"
    }
    error = await app.failure(5, "models.get", model="mine")
    assert error["data"]["kind"] == "model_not_found"
    error = await app.failure(6, "models.unregister", model="test/echo:a")
    assert error["data"]["kind"] == "conflict"
    assert app.sink.types.count("request") == app.sink.types.count("completion")


async def test_models_are_listed_by_what_they_can_and_whether_they_could_now(app: Any) -> None:
    listed = (await app.call(1, "models.list"))["result"]["models"]
    assert [m["id"] for m in listed] == sorted(m["id"] for m in listed)
    listed = (await app.call(2, "models.list", available_only=True))["result"]["models"]
    assert "test/app:a" not in [m["id"] for m in listed], "no runner is registered"
    assert (await app.call(3, "models.list", capability="embed"))["result"]["models"] == []


async def test_what_a_backend_cannot_do_is_refused_with_its_reason(app: Any) -> None:
    for number, method in enumerate(("tokenize", "detokenize")):
        error = await app.failure(number, method, model="echo", text="x", tokens=[1])
        assert error["data"]["kind"] == "unsupported_mode"
    error = await app.failure(9, "embed", texts=["a"], model="echo")
    assert error["data"]["kind"] == "unsupported_mode"


async def test_a_database_that_another_process_writes_to_delays_only_what_follows_a_registration(
    app: Any, tmp_path: Path
) -> None:
    app.request(0, "generate", prompt="one two three", model="stall", stream=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "car.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        app.request(1, "models.register", model=delegated("me/a:1"))
        app.request(2, "models.list")
        for request_id in range(3, 53):
            await asyncio.sleep(0)  # a turn for the registration
            await app.call(request_id, "ping")
        await app.until(lambda m: m.get("params", {}).get("event", {}).get("text") == "so far")
        assert not {1, 2} & {*app.answered()}
        other.execute("COMMIT")
    assert (await app.answer(1))["result"]["model"]["id"] == "me/a:1"
    assert "me/a:1" in {m["id"] for m in (await app.answer(2))["result"]["models"]}
    app.request(60, "models.unregister", model="me/a:1")
    assert (await app.answer(60))["result"]


def delegated(model_id: str) -> dict[str, Any]:
    return {"id": model_id, "source": {"type": "delegated"}, "capabilities": ["generate"]}


def echo(model_id: str, *, loud: bool = False) -> dict[str, Any]:
    text = {"emit": {"type": "text_delta", "text": "loud"}}
    script = [text] if loud else [{"echo": True}]
    source = {"type": "fake", "script": script}
    return {"id": model_id, "source": source, "capabilities": ["generate"]}


def asked(request_id: int, method: str, **params: Any) -> dict[str, Any]:
    return {"id": request_id, "method": method, "params": params}


async def test_what_is_sent_together_with_a_registration_finds_the_model(app: Any) -> None:
    app.send(
        asked(1, "models.register", model=echo("me/a:1")),
        asked(2, "generate", model="me/a:1", prompt="x"),
        asked(3, "tokenize", model="me/a:1", text="x"),
        asked(4, "embed", model="me/a:1", texts=["x"]),
        asked(5, "models.list"),
        asked(6, "models.get", model="me/a:1"),
        asked(7, "models.unregister", model="me/a:1"),
        asked(8, "models.get", model="me/a:1"),
        asked(9, "models.register", model=echo("me/a:1")),
        asked(10, "models.get", model="me/a:1"),
    )
    answers = {number: await app.answer(number) for number in range(1, 11)}
    assert answers[2]["result"]["text"] == "x"
    for number in (3, 4):  # the model was found, and cannot do it
        assert answers[number]["error"]["data"]["kind"] == "unsupported_mode"
    assert "me/a:1" in {m["id"] for m in answers[5]["result"]["models"]}
    for number in (6, 10):
        assert answers[number]["result"]["model"]["id"] == "me/a:1"
    assert answers[8]["error"]["data"]["kind"] == "model_not_found"


async def test_the_later_of_two_registrations_wins(app: Any) -> None:
    for number in range(0, 30, 3):
        app.send(
            asked(number, "models.register", model=echo("me/a:1")),
            asked(number + 1, "models.register", model=echo("me/a:1", loud=True)),
            asked(number + 2, "generate", model="me/a:1", prompt="x"),
        )
        assert (await app.answer(number + 2))["result"]["text"] == "loud"


async def test_a_cancelled_registration_lets_nothing_past_the_one_before_it(
    app: Any, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "car.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        app.send(
            asked(1, "models.register", model=echo("me/a:1")),
            asked(2, "models.register", model=echo("me/b:1")),
            asked(3, "models.list"),
            {"method": "$/cancelRequest", "params": {"id": 2}},
        )
        assert (await app.answer(2))["error"]["data"]["kind"] == "cancelled"
        await app.call(4, "ping")
        assert 3 not in app.answered()
        other.execute("COMMIT")
    listed = {m["id"] for m in (await app.answer(3))["result"]["models"]}
    assert "me/a:1" in listed
    assert "me/b:1" not in listed


@pytest.mark.parametrize("value", [{}, {"env": "A", "keyring": {"service": "s", "username": "u"}}])
async def test_a_header_names_exactly_one_place_of_its_secret(app: Any, value: Any) -> None:
    source = {
        "type": "openai_compat",
        "endpoint": "http://x",
        "model": "m",
        "headers": {"k": value},
    }
    model = {"id": "me/a:1", "source": source, "capabilities": ["generate"]}
    error = await app.failure(1, "models.register", model=model)
    assert error["data"]["path"] == "$.model.source.headers['k']"


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"endpoints": ["http://h:99999"]}, "$.endpoints[0]"),
        ({"endpoints": ["http://h"] * 65}, "$.endpoints"),
        ({"timeout_ms": 0}, "$.timeout_ms"),
        ({"timeout_ms": 30_001}, "$.timeout_ms"),
    ],
)
async def test_what_cannot_be_looked_at_is_refused(app: Any, params: Any, path: str) -> None:
    error = await app.failure(1, "models.discover", **params)
    assert (error["data"]["kind"], error["data"]["path"]) == ("invalid_params", path)


async def test_reads_are_answered_at_once_while_no_registration_is_under_way(app: Any) -> None:
    await app.call(0, "models.register", model=echo("me/a:1"))
    app.send(asked(1, "models.list"), asked(2, "models.get", model="me/a:1"), asked(3, "ping"))
    assert app.answered()[-3:] == [1, 2, 3]  # no turn of the loop was needed


class Numbers:
    """A backend for what scripts cannot do, an event log without rows, no servers and no keys."""

    async def embed(self, model: Any, texts: list[str]) -> EmbeddingBatch:
        return EmbeddingBatch(bytes(8), 2, 1)

    def judges(self, model: Any) -> bool:
        return True

    async def score(self, model: Any, messages: Any, answers: list[str]) -> list[float]:
        return [-1.0 for _ in answers]

    async def rank(
        self, model: Any, query: str, documents: list[str], instruction: str
    ) -> list[float]:
        return [0.5 for _ in documents]

    async def tokenize(self, model: Any, text: str) -> list[int]:
        return [1]

    async def detokenize(self, model: Any, tokens: list[int]) -> str:
        return "x"

    async def transcribe(self, model: Any, recording: Any) -> Transcript:
        return Transcript("x", "en", [])

    async def pull(self, model_id: str, from_path: Any, on_progress: Any) -> Pulled:
        return Pulled(size_bytes=1, downloaded_bytes=1)

    async def remove(self, model_id: str) -> Removed:
        return Removed([], 0, [])

    async def load(self, model: Any, keep_alive_ms: Any) -> None:
        pass

    async def unload(self, model: Any) -> Unloaded:
        return Unloaded(was_loaded=True, freed_bytes=1)

    budget_bytes = 0

    def loaded(self) -> list[LoadedModel]:
        return []

    async def query(self, params: Any) -> EventlogQueryResult:
        return EventlogQueryResult(events=[], next_seq=0)

    async def commit(self) -> None:
        pass

    async def last_seq(self) -> int:
        return 0

    async def watch(self, from_seq: int | None) -> AsyncGenerator[LogEvent]:
        return
        yield

    async def story(self, trace_id: str) -> list[LogEvent]:
        return told(*GOOD)

    async def verify(self) -> EventlogVerifyResult:
        return EventlogVerifyResult(ok=True, checked=0)

    async def purge(self, params: Any) -> int:
        return 0

    async def retention(self) -> EventlogRetentionResult:
        return EventlogRetentionResult(policy=RetentionPolicy(), used_bytes=0)

    async def run(self, params: Any) -> ModelsDiscoverResult:
        return ModelsDiscoverResult(enabled=True, servers=[], registered=[], unavailable=[])

    def models(self) -> list[Any]:
        return []

    async def stats(self) -> KeysStatsResult:
        return KeysStatsResult(endpoints=[])


PICTURE = {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}}

#: A call of each method that succeeds, in an order in which it does.
SUCCESSFUL: dict[str, dict[str, Any]] = {
    "models.register": {
        "model": {
            "id": "me/vectors:1",
            "source": {"type": "delegated"},
            "capabilities": ["generate", "embed", "rerank", "speech_to_text"],
        }
    },
    "models.get": {"model": "me/vectors:1"},
    "models.list": {},
    "policy.set": {"rules": [{"id": "no-tools", "action": "deny", "match": {"tools": ["x"]}}]},
    "policy.list": {},
    "policy.remove": {"id": "no-tools"},
    "models.search": {},
    "models.upgrades": {},
    "models.pull": {"model": "me/vectors:1"},
    "models.remove": {"model": "me/vectors:1"},
    "models.load": {"model": "me/vectors:1"},
    "models.unload": {"model": "me/vectors:1"},
    "models.warm_up": {"models": ["me/vectors:1"]},
    "generate": {"prompt": "x", "model": "echo"},
    "embed": {"texts": ["x"], "model": "me/vectors:1"},
    "tokenize": {"text": "x", "model": "me/vectors:1"},
    "detokenize": {"tokens": [1], "model": "me/vectors:1"},
    "classify": {"text": "x", "labels": ["y"], "model": "me/vectors:1"},
    "rerank": {"query": "x", "documents": ["y"], "model": "me/vectors:1"},
    "ground": {"image": PICTURE, "prompt": "x", "model": "me/sees:1"},
    "transcribe": {"audio_b64": "", "model": "me/vectors:1"},
    "models.unregister": {"model": "me/vectors:1"},
    "models.discover": {},
    "keys.stats": {},
    "models.route": {"prompt": "x"},
    "routing.get_config": {},
    "routing.set_config": {"config": {"mode": "best"}},
    "runner.register": {},
    "runner.event": {"call_id": "nobody", "event": {"type": "heartbeat"}},
    "runner.unregister": {},
    "eventlog.query": {},
    "models.stats": {},
    "models.health": {},
    "outcomes.report": {"trace_id": "tr_answered", "outcome": "accepted"},
    "outcomes.resolve_pending": {"outcomes": []},
    "outcomes.scoreboard": {},
    "profiles.export": {},
    "profiles.import": {"profiles": []},
    "spend.set_limits": {"max_usd_per_day": 1.5},
    "spend.status": {},
    "admission.status": {},
    "eventlog.subscribe": {},
    "eventlog.export": {"format": "jsonl"},
    "eventlog.verify": {},
    "eventlog.purge": {"trace_id": "tr_1"},
    "eventlog.retention": {},
    "replay.run": {"trace_id": "tr_1", "mode": "recorded"},
}


async def test_the_event_log_holds_exactly_the_methods_that_the_table_says(app: Any) -> None:
    numbers: Any = Numbers()
    engine = app.services.engine
    real = engine.backend_of
    engine.backend_of = lambda model: numbers if "embed" in model.capabilities else real(model)
    engine.described = lambda model: model
    parts = ("log", "upkeep", "keys", "discovery", "weights", "workers")
    doubles = dict.fromkeys(parts, numbers)
    app.session._dispatcher = Dispatcher(app.services._replace(**doubles))
    sees = echo("me/sees:1") | {"capabilities": ["generate", "grounding", "vision"]}
    await app.call(99, "models.register", model=sees)
    app.services.outcomes.attempt_ended(
        AttemptEnd("tr_answered", 1, "me/vectors:1", "embed", "success", 1.0)
    )
    assert set(SUCCESSFUL) == set(HANDLERS)
    for request_id, (method, params) in enumerate(SUCCESSFUL.items()):
        app.sink.entries.clear()
        answer = await app.call(request_id, method, **params)
        assert "result" in answer, answer
        rows = [each.data["method"] for each in app.sink.entries if each.type == "request"]
        asks = ["generate"] if method == "ground" else []  # in words
        assert rows == [method, *asks] * METHODS[method].logged
        assert app.sink.types.count("completion") == len(rows)
        assert bool(app.sink.entries) == METHODS[method].logged, method
