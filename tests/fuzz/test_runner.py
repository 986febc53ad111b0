"""A runner that says anything: its request still ends once, and with a whole stream."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.wire.models import DelegatedSource, ModelSchema
from tests.fuzz.oracle import check_form, flatten
from tests.fuzz.test_params import trees
from tests.host.conftest import App
from tests.process.conftest import check_stream, text_of

texts = st.sampled_from(["", "a", "\0", "\u2028", "{", '{"x":1}', "[" * 300, "\N{GRINNING FACE}"])
indexes = st.integers(0, 2)
counts = st.sampled_from([0, 7, 2**53 - 1, 2**53, -1, None])


def say(event_type: str, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(event_type), **members})


known = st.one_of(
    say("text_delta", text=texts),
    say("reasoning_delta", text=texts),
    say("tool_call_start", index=indexes, id=texts, name=texts),
    say("tool_call_delta", index=indexes, id=texts, arguments_delta=texts),
    say("tool_call_cancel", index=indexes, id=texts, reason=texts),
    say("content_block_stop", index=indexes),
    say("usage", prompt_tokens=counts, completion_tokens=counts),
    say("provider_output_item", item=trees),
    say("stop", reason=st.sampled_from(["end_turn", "max_tokens", "odd"])),
    say("done", text=texts, tool_calls=st.just([])),
    say("error", kind=st.sampled_from(["cancelled", "odd"]), message=texts),
    say("heartbeat"),
    say("of the future", x=trees),
)
#: Most runners mean well; some leave a member out or put another thing there.
names = st.sampled_from(["type", "text", "index"])
spoiled = st.builds(lambda event, name, value: {**event, name: value}, known, names, trees)
events = st.lists(st.one_of(known, known, known, spoiled, trees), max_size=6)
calls = [{"id": "c", "name": "n", "arguments": {"x": 1}}]
results = st.one_of(
    st.just({}),
    st.builds(lambda text: {"text": text, "stop_reason": "end_turn"}, texts),
    st.builds(lambda text, tree: {"text": text, "tool_calls": tree, "usage": tree}, texts, trees),
    st.just({"text": "x", "tool_calls": calls, "usage": {"prompt_tokens": 1}}),
    trees,
)
errors = st.one_of(
    st.just({"code": -32601, "message": "no"}),
    st.builds(lambda data: {"code": 1, "message": "", "data": data}, trees),
    st.builds(lambda kind: {"code": 1, "message": "", "data": {"kind": kind}}, texts),
    st.just({"code": 1, "message": "", "data": {"kind": "rate_limited", "retry_after_ms": -1}}),
    trees,
)
ends = st.one_of(results.map(lambda r: {"result": r}), errors.map(lambda e: {"error": e}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runner")


@pytest.fixture(scope="module")
def models(home: Path) -> Iterator[Registry]:
    model = ModelSchema(id="t/app:1", source=DelegatedSource(), capabilities=["generate"])
    registry = Registry([model], ModelStore(home / "db"), home)
    yield registry
    registry.close()


@given(events=events, end=ends, as_requests=st.booleans())
def test_every_run_ends_its_request_once(
    models: Registry, home: Path, events: list[Any], end: dict[str, Any], as_requests: bool
) -> None:
    asyncio.run(play(App(models, home), events, end, as_requests=as_requests))


async def play(app: App, events: list[Any], end: dict[str, Any], *, as_requests: bool) -> None:
    app.loaded.set()
    await app.call("first", "initialize", protocol_version=1)
    await app.call("slot", "runner.register")
    app.request("work", "generate", prompt="x", stream=True, recovery="none")
    run = await app.method("runner.run")
    for index, event in enumerate(events):
        params = {"call_id": run["params"]["call_id"], "event": event}
        if as_requests:
            app.request(index, "runner.event", **params)
        else:
            app.notify("runner.event", **params)
        await asyncio.sleep(0)
    app.send({"id": run["id"], **end})
    response = await app.answer("work")
    await app.session.answered(10)
    answers = [*flatten(app.read())]
    expected = ["first", "slot", "work", *(range(len(events)) if as_requests else [])]
    assert sorted(map(json.dumps, (a["id"] for a in answers))) == sorted(map(json.dumps, expected))
    for answer in answers:
        check_form(answer)
    stream = app.events("work")
    check_stream(stream, "error" if "error" in response else "done")
    if "result" in response:
        assert text_of(stream) == response["result"]["text"]
    assert len(app.connection.in_flight) == 0
