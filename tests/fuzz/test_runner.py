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
from tests.process.conftest import check_stream

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


#: What one run brings, and its end.
runs = st.tuples(events, ends)
LAST_RUN: tuple[list[Any], dict[str, Any]] = ([], {"result": {"text": "at last"}})

#: Runs that one request may take: of each stream, which may go on twice, two retries.
MAX_RUNS = 9


@given(run=runs, as_requests=st.booleans())
def test_every_run_ends_its_request_once(
    models: Registry, home: Path, run: tuple[list[Any], dict[str, Any]], as_requests: bool
) -> None:
    count = asyncio.run(play(App(models, home), [run], as_requests=as_requests, recovery="none"))
    assert count == 1


@given(several=st.lists(runs, min_size=1, max_size=5), as_requests=st.booleans())
def test_runs_that_follow_each_other_end_their_request_once(
    models: Registry,
    home: Path,
    several: list[tuple[list[Any], dict[str, Any]]],
    as_requests: bool,
) -> None:
    count = asyncio.run(play(App(models, home), several, as_requests=as_requests))
    assert count <= MAX_RUNS


async def play(
    app: App,
    scripts: list[tuple[list[Any], dict[str, Any]]],
    *,
    as_requests: bool,
    **params: Any,
) -> int:
    """Answer the runs of one request, and check all that comes; returns how many there were."""
    app.loaded.set()
    await app.call("first", "initialize", protocol_version=1)
    await app.call("slot", "runner.register")
    app.request("work", "generate", prompt="x", stream=True, **params)
    expected: list[Any] = ["first", "slot", "work"]
    done = 0
    while (run := await next_run(app, done)) is not None:
        events, end = scripts[done] if done < len(scripts) else LAST_RUN
        done += 1
        for event in events:
            params = {"call_id": run["params"]["call_id"], "event": event}
            if as_requests:
                expected.append(len(expected))
                app.request(expected[-1], "runner.event", **params)
            else:
                app.notify("runner.event", **params)
            await asyncio.sleep(0)
        app.send({"id": run["id"], **end})
    response = await app.answer("work")
    await app.session.answered(10)
    answers = [*flatten(app.read())]
    assert sorted(map(json.dumps, (a["id"] for a in answers))) == sorted(map(json.dumps, expected))
    for answer in answers:
        check_form(answer)
    stream = app.events("work")
    check_stream(stream, "error" if "error" in response else "done")
    assert sum(each["event"]["type"] == "attempt" for each in stream) == done
    if "result" in response:
        assert shown(stream) == (response["result"]["text"], response["result"]["tool_calls"])
        assert stream[-1]["event"]["text"] == response["result"]["text"]
    assert len(app.connection.in_flight) == 0
    return done


async def next_run(app: App, count: int) -> Any | None:
    """The run behind so many, or ``None`` when the request was answered instead."""

    def runs_so_far() -> list[Any]:
        return [m for m in app.messages if m.get("method") == "runner.run"]

    await app.until(lambda m: m.get("id") == "work" or len(runs_so_far()) > count)
    return runs_so_far()[count] if len(runs_so_far()) > count else None


def shown(stream: list[Any]) -> tuple[str, list[Any]]:
    """The text and the tool calls that a client has who knows nothing but the events."""
    text, calls = "", {}
    for event in (each["event"] for each in stream):
        match event["type"]:
            case "text_delta":
                text += event["text"]
            case "tool_call_start":
                calls[event["index"]] = {"id": event["id"], "name": event["name"], "arguments": ""}
            case "tool_call_delta":
                calls[event["index"]]["arguments"] += event["arguments_delta"]
            case "tool_call_cancel":
                del calls[event["index"]]
            case "stream_reset":
                text, calls = "", {}
    parsed = {
        index: {**call, "arguments": json.loads(call["arguments"].strip() or "{}")}
        for index, call in calls.items()
    }
    return text, [parsed[index] for index in sorted(parsed)]
