"""`replay.run` shows what a request got, byte for byte, and tells what is otherwise now."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from car_rpc.engine import premises
from car_rpc.router.router import chosen_by_client
from tests.host.conftest import App

ECHO = {"model": "test/echo:a", "prompt": "one two three"}


async def ran(app: App, request_id: Any = "then", **params: Any) -> tuple[Any, list[Any], str]:
    """The answer to a `generate`, its events and its trace."""
    answer = await app.call(request_id, "generate", stream=True, **{**ECHO, **params})
    told = answer.get("result") or answer["error"]["data"]
    return answer, app.events(request_id), told["trace_id"]


async def replayed(app: App, trace_id: str | None, mode: str = "recorded", **params: Any) -> Any:
    return await app.call("now", "replay.run", trace_id=trace_id, mode=mode, **params)


def shown(events: list[Any]) -> str:
    return json.dumps([(params["seq"], params["event"]) for params in events])


async def test_a_stream_and_its_result_are_shown_again_and_nothing_is_logged(app: App) -> None:
    answer, events, trace_id = await ran(app, client_ref="mine")
    entries = [*app.sink.entries]
    again = await replayed(app, trace_id, stream=True, client_ref="replay")
    assert json.dumps(again["result"]["result"]) == json.dumps(answer["result"])
    assert (again["result"]["method"], again["result"]["redacted"]) == ("generate", False)
    assert shown(app.events("now")) == shown(events)
    assert {params["client_ref"] for params in app.events("now")} == {"replay"}
    assert app.sink.entries == entries


async def test_without_a_stream_there_are_no_events(app: App) -> None:
    _, _, trace_id = await ran(app)
    await replayed(app, trace_id)
    assert app.events("now") == []


async def test_a_failure_is_answered_with_its_error(app: App) -> None:
    answer, events, trace_id = await ran(app, model="nobody")
    again = await replayed(app, trace_id, stream=True)
    assert json.dumps(again["error"]) == json.dumps(answer["error"])
    assert shown(app.events("now")) == shown(events)


async def test_a_request_that_was_cancelled_shows_what_there_was(app: App) -> None:
    app.request(1, "generate", model="test/stall:a", prompt="x", stream=True)
    await app.until(lambda m: m.get("params", {}).get("event", {}).get("type") == "text_delta")
    app.notify("$/cancelRequest", id=1)
    error = (await app.answer(1))["error"]
    again = await replayed(app, error["data"]["trace_id"], stream=True)
    assert json.dumps(again["error"]) == json.dumps(error)
    assert shown(app.events("now")) == shown(app.events(1))


async def test_other_methods_are_shown_again_and_change_nothing(app: App) -> None:
    model = {"id": "me/a:1", "source": {"type": "fake", "script": []}, "capabilities": ["generate"]}
    registered = (await app.call(1, "models.register", model=model))["result"]
    trace_id = app.sink.entries[-1].trace_id
    await app.call(2, "models.unregister", model="me/a:1")
    again = (await replayed(app, trace_id))["result"]
    assert (again["method"], again["result"]) == ("models.register", registered)
    assert (await app.failure(3, "models.get", model="me/a:1"))["data"]["kind"] == "model_not_found"


async def test_timed_waits_as_long_as_it_took_and_fast_does_not(app: App) -> None:
    _, events, trace_id = await ran(app)
    (row,) = [entry for entry in app.sink.entries if entry.type == "deltas"]
    row.data["at_ms"] = [100 * number for number in range(1, len(events) - 1)]
    clock: Any = app.services.engine.clock
    await replayed(app, trace_id, stream=True)
    assert clock.slept_ms == []
    await app.call("timed", "replay.run", trace_id=trace_id, mode="recorded", speed="timed")
    assert clock.slept_ms == [row.data["at_ms"][-1]]
    clock.slept_ms.clear()
    timed = {"trace_id": trace_id, "mode": "recorded", "speed": "timed", "stream": True}
    await app.call("streamed", "replay.run", **timed)
    assert clock.slept_ms == [100] * (len(events) - 2)


@pytest.mark.parametrize("mode", ["recorded", "rerun", "verify"])
async def test_what_cannot_be_replayed_says_why_and_ends_its_stream(app: App, mode: str) -> None:
    _, _, trace_id = await ran(app, privacy="metadata")
    for number, (asked, kind) in enumerate(
        [("tr_none", "not_found"), (trace_id, "not_replayable")]
    ):
        params = {"trace_id": asked, "mode": mode, "stream": True}
        answer = await app.call(number, "replay.run", **params)
        assert answer["error"]["data"]["kind"] == kind
        (last,) = app.events(number)
        assert (last["seq"], last["event"]["kind"]) == (0, kind)


async def test_a_request_that_still_runs_cannot_be_shown(app: App) -> None:
    app.request(1, "generate", model="test/stall:a", prompt="x", stream=True)
    event = await app.method("generate.event")
    await asyncio.sleep(0)
    await app.sink.commit()
    answer = await replayed(app, event["params"]["event"]["trace_id"])
    assert answer["error"]["data"]["kind"] == "not_replayable"


# Again


async def test_a_rerun_is_a_request_of_its_own_that_names_the_old_one(app: App) -> None:
    _, events, trace_id = await ran(app, client_ref="mine", progress_token=5)
    answer = (await replayed(app, trace_id, "rerun", stream=True))["result"]
    assert answer["diff"] == []
    assert answer["result"]["text"] == "one two three"
    new = answer["result"]["trace_id"]
    assert new != trace_id
    again = [params["event"] for params in app.events("now")]
    assert [event for event in again if event["type"] != "attempt"] == [
        params["event"] for params in events if params["event"]["type"] != "attempt"
    ]
    (request,) = [e for e in app.sink.entries if e.trace_id == new and e.type == "request"]
    assert request.data["replayed_trace_id"] == trace_id
    assert json.loads(bytes(request.data["params"])) == {**ECHO, "stream": True}


async def test_a_rerun_tells_what_is_otherwise(app: App) -> None:
    def model(text: str) -> dict[str, Any]:
        script = [{"emit": {"type": "text_delta", "text": text}}]
        source = {"type": "fake", "script": script}
        return {"id": "me/a:1", "source": source, "capabilities": ["generate"]}

    await app.call(1, "models.register", model=model("tea"))
    _, _, trace_id = await ran(app, model="me/a:1")
    await app.call(2, "models.register", model=model("rum"))
    answer = (await replayed(app, trace_id, "rerun"))["result"]
    assert answer["diff"] == [{"path": "$.text", "recorded": "tea", "now": "rum"}]
    assert answer["result"]["text"] == "rum"

    await app.call(3, "models.unregister", model="me/a:1")
    failed = await app.call(4, "replay.run", trace_id=trace_id, mode="rerun")
    assert failed["error"]["data"]["kind"] == "model_not_found"
    paths = [each["path"] for each in failed["error"]["data"]["diff"]]
    assert {"$.text", "$.code", "$.data", "$.message"} <= {*paths}


async def test_only_what_runs_a_model_runs_again(app: App) -> None:
    await app.call(1, "runner.register")
    error = (await replayed(app, app.sink.entries[-1].trace_id, "rerun"))["error"]
    assert (error["data"]["kind"], error["data"]["path"]) == ("invalid_params", "$.mode")


async def test_a_rerun_meets_the_rules_like_any_request(app: App) -> None:
    model = {
        "id": "me/vectors:1",
        "source": {"type": "fake", "script": []},
        "capabilities": ["embed"],
    }
    await app.call(1, "models.register", model=model)
    await app.call(2, "embed", texts=["a"], model="me/vectors:1")
    trace_id = app.sink.entries[-1].trace_id
    rule = {"id": "no", "action": "deny", "match": {"methods": ["embed"]}}
    await app.call(3, "policy.set", rules=[rule])
    error = (await replayed(app, trace_id, "rerun"))["error"]
    assert error["data"]["kind"] == "policy_denied"


# Decisions


async def test_what_was_decided_is_decided_again(app: App) -> None:
    answer, _, trace_id = await ran(app)
    entries = [*app.sink.entries]
    result = (await replayed(app, trace_id, "verify"))["result"]
    assert (result["result"], result["diverged"]) == (answer["result"], None)
    assert app.sink.entries == entries


async def test_a_changed_plan_is_told_with_its_event(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, trace_id = await ran(app)
    monkeypatch.setattr(premises, "chosen_by_client", otherwise)
    diverged = (await replayed(app, trace_id, "verify"))["result"]["diverged"]
    assert (diverged["recorded"]["type"], diverged["recorded"]["reason"]) == (
        "route",
        "explicit model",
    )
    assert diverged["now"]["reason"] == "otherwise"
    (route,) = [e for e in await app.sink.story(trace_id) if e.type == "route"]
    assert diverged["at"] == route.seq


def otherwise(*args: Any) -> Any:
    return msgspec.structs.replace(chosen_by_client(*args), reason="otherwise")


async def test_decisions_of_which_the_log_lacks_the_grounds_are_not_replayable(app: App) -> None:
    _, _, trace_id = await ran(app)
    app.sink.entries = [entry for entry in app.sink.entries if entry.type != "routing_inputs"]
    app.sink.committed = len(app.sink.entries)
    error = (await replayed(app, trace_id, "verify"))["error"]
    assert error["data"]["kind"] == "not_replayable"
    await app.call(1, "runner.register")
    other = await app.call(2, "replay.run", trace_id=app.sink.entries[-1].trace_id, mode="verify")
    assert other["error"]["data"]["path"] == "$.mode"


async def test_a_request_for_which_nothing_was_decided_cannot_be_verified(app: App) -> None:
    _, _, trace_id = await ran(app, model="nobody")
    error = (await replayed(app, trace_id, "verify"))["error"]
    assert "no model was chosen" in error["message"]


@pytest.mark.parametrize("mark", [{"redacted": True}, {"blobs": [{"at": "/params/images/0"}]}])
async def test_what_is_not_in_the_log_as_it_was_asked_is_not_decided_again(
    app: App, mark: dict[str, Any]
) -> None:
    _, _, trace_id = await ran(app)
    (row,) = [entry for entry in app.sink.entries if entry.type == "request"]
    row.data.update(mark)
    error = (await replayed(app, trace_id, "verify"))["error"]
    assert error["data"]["kind"] == "not_replayable"
    assert "not in the log as it was" in error["message"]


async def test_a_rerun_whose_media_are_gone_is_not_replayable(app: App) -> None:
    _, _, trace_id = await ran(app)
    (request,) = [e for e in app.sink.entries if e.type == "request"]
    request.data["blobs"] = [{"at": "/params/images/0/source", "sha256": "9f86", "bytes": 4}]
    error = (await replayed(app, trace_id, "rerun"))["error"]
    assert (error["data"]["kind"], "missing" in error["message"]) == ("not_replayable", True)
