"""A whole session with its dispatcher and engine, in memory, against the same judge."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from car_rpc.protocol.connection import Connection
from car_rpc.protocol.framing import wrap
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import scripted_model
from car_rpc.wire.log import EventlogQueryParams, EventlogQueryResult
from tests.fuzz.oracle import Judge, flatten
from tests.fuzz.strategies import LIMIT, chunks, cuts, dialogues
from tests.host.conftest import App


class EmptyLog:
    """An event log in which nothing ever happened."""

    async def query(self, _: EventlogQueryParams) -> EventlogQueryResult:
        return EventlogQueryResult(events=[], next_seq=0)


class SmallApp(App):
    """An app that sends no message longer than the limit."""

    def __init__(self, registry: Registry, tmp_path: Path) -> None:
        super().__init__(registry, tmp_path, Connection(LIMIT, "ndjson"))
        log: Any = EmptyLog()
        self.services = self.services._replace(log=log)
        self.loaded.set()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def models(home: Path) -> Iterator[Registry]:
    registry = Registry(
        [scripted_model("t/stall:1", [{"stall": True}])], ModelStore(home / "db"), home
    )
    yield registry
    registry.close()


@given(dialogues(8), cuts)
def test_every_request_gets_exactly_one_response(
    models: Registry, home: Path, dialogue: list[bytes], places: list[int]
) -> None:
    asyncio.run(judge_dialogue(SmallApp(models, home), dialogue, places))


async def judge_dialogue(app: App, dialogue: list[bytes], places: list[int]) -> None:
    await app.call("first", "initialize", protocol_version=1)
    await app.call("warm", "models.list")
    app.messages.clear()
    judge = Judge(LIMIT, "ndjson", exact=False)
    for payload in dialogue:
        judge.take(payload)
    for chunk in chunks(b"".join(wrap(each, "ndjson") for each in dialogue), places):
        app.session.receive(chunk)
        await asyncio.sleep(0)
    for request_id in judge.end():
        app.notify("$/cancelRequest", id=request_id)
    await app.session.answered(10)
    judge.check([*flatten(app.read())])
    judge.check_streams(app.messages)
    assert len(app.connection.in_flight) == 0
    app.messages.clear()
    app.request("last", "ping")
    assert [m["id"] for m in app.read()] == ["last"]
