"""The app as the runner of delegated models, on the bare wire."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.process.conftest import Core, StartCore, check_stream, event, request, text_of

pytestmark = pytest.mark.process


@pytest.fixture
def app(start_core: StartCore) -> Core:
    core = start_core("--drain-ms", "0")
    core.initialize()
    core.register("t/app:1", {"type": "delegated", "hint": "big"})
    assert core.call("runner.register") == {"registered": True, "replaced": False}
    return core


def start_run(app: Core, **params: Any) -> tuple[Any, dict[str, Any]]:
    """A streamed request that has reached the runner; its id and the core's request."""
    since = len(app.messages)
    stream = app.generate("t/app:1", **params)
    return stream, app.wait_for(lambda m: m.get("method") == "runner.run", since)


def emit(app: Core, run: dict[str, Any], text: str) -> None:
    step = event(text)["emit"]
    app.notify("runner.event", {"call_id": run["params"]["call_id"], "event": step})


def nothing_is_left(app: Core) -> None:
    ping = app.ping()
    assert (ping["in_flight"], ping["runner"]["runs"]) == (1, 0)


def answer(app: Core, run: dict[str, Any], **result: object) -> None:
    app.send({"jsonrpc": "2.0", "id": run["id"], "result": result})


def test_a_run_carries_the_clients_own_json(app: Core) -> None:
    stream, run = start_run(app, unknown={"kept": [1]}, timeout_ms=40_000)
    params = run["params"]
    assert params["request"]["unknown"] == {"kept": [1]}
    assert {*params["request"]} == {"model", "prompt", "stream", "unknown", "timeout_ms"}
    assert params["hint"] == "big"
    assert params["parent_id"] == stream
    assert params["deadline_ms"] <= 40_000
    for text in ("a", "b"):
        emit(app, run, text)
    answer(app, run, text="ignored, for deltas win", stop_reason="max_tokens")
    result = app.response(stream)["result"]
    check_stream(app.stream(stream))
    assert result["text"] == text_of(app.stream(stream)) == "ab"
    assert result["stop_reason"] == "max_tokens"


def test_a_bare_answer_becomes_a_stream(app: Core) -> None:
    stream, run = start_run(app)
    answer(app, run, text="all at once")
    assert app.response(stream)["result"]["text"] == "all at once"
    assert text_of(app.stream(stream)) == "all at once"
    check_stream(app.stream(stream))


def test_a_runner_streams_while_another_request_is_cancelled(
    app: Core, proof_count: Callable[[int, int], int]
) -> None:
    count = proof_count(20_000, 200_000)
    stream, run = start_run(app)
    other, other_run = start_run(app)
    for index in range(count):
        emit(app, run, f"{index} ")
        if index == count // 2:
            app.cancel(other)
            error = {"code": -32800, "message": "cancelled"}
            app.send({"jsonrpc": "2.0", "id": other_run["id"], "error": error})
    answer(app, run)
    cancelled, response = app.response(other), app.response(stream)
    assert cancelled["error"]["code"] == -32800
    assert app.index(cancelled) < app.index(response)
    events = app.stream(stream)
    assert [e["event"]["text"] for e in events if e["event"]["type"] == "text_delta"] == [
        f"{index} " for index in range(count)
    ]
    assert response["result"]["text"] == text_of(events)
    check_stream(events)
    check_stream(app.stream(other), "error")
    nothing_is_left(app)


def test_an_event_can_be_acknowledged(app: Core) -> None:
    stream, run = start_run(app)
    params = {"call_id": run["params"]["call_id"], "event": event("a")["emit"]}
    assert app.call("runner.event", params) == {"emitted": True, "closed": False}
    answer(app, run)
    app.response(stream)
    assert app.call("runner.event", params) == {"emitted": False, "closed": True}
    runner = app.ping()["runner"]
    assert runner == {"registered": True, "runs": 0, "late_events": 1}


def test_events_sent_as_requests_wait_for_a_client_that_does_not_read(app: Core) -> None:
    """All that the core holds for the run is bounded although nothing of it is awaited."""
    stream, run = start_run(app)
    emit(app, run, "x")
    app.first_event(stream, "text_delta")
    app.stall()
    params = {"call_id": run["params"]["call_id"], "event": event("y" * 16_384)["emit"]}
    since = len(app.messages)
    asked = [app.ask("runner.event", params) for _ in range(200)]  # 3.2 MB
    last = app.ask("ping")
    app.resume()
    app.response(last, since)
    answered_before = [
        m["id"] for m in app.messages[since : app.index(app.response(last))] if m.get("id") in asked
    ]
    assert answered_before == asked[: len(answered_before)]
    assert len(answered_before) < len(asked), "the rest waited for room"
    for each in asked:
        assert app.response(each)["result"] == {"emitted": True, "closed": False}
    answer(app, run)
    assert app.response(stream)["result"]["text"] == "x" + "y" * 16_384 * 200
    check_stream(app.stream(stream))
    nothing_is_left(app)


def test_a_runner_and_its_model_may_be_registered_together_with_a_request(
    start_core: StartCore,
) -> None:
    core = start_core()
    model = {"id": "t/new:1", "source": {"type": "delegated"}, "capabilities": ["generate"]}
    core.send(
        request(0, "initialize", {"protocol_version": 1}),
        request(1, "models.register", {"model": model}),
        request(2, "runner.register"),
        request(3, "generate", {"model": "t/new:1", "prompt": "x"}),
        request(4, "models.get", {"model": "t/new:1"}),
    )
    run = core.wait_for(lambda m: m.get("method") == "runner.run")
    answer(core, run, text="here")
    assert core.response(3)["result"]["text"] == "here"
    assert core.response(4)["result"]["model"]["available"]


def test_a_secret_in_an_apps_error_stays_out_of_the_logs(app: Core) -> None:
    stream, run = start_run(app)
    secret = "sk-0123456789abcdefghij"
    error = {"code": 1, "message": f"401 for {secret}", "data": {"kind": "unauthorized"}}
    app.send({"jsonrpc": "2.0", "id": run["id"], "error": error})
    assert app.response(stream)["error"]["message"] == f"unauthorized: 401 for {secret}"
    logged = app.call("eventlog.query", {"types": ["completion"], "order": "desc", "limit": 1})
    error = logged["events"][0]["data"]["error"]
    assert error["message"] == "unauthorized: 401 for [redacted:api_key]"
    app.call("shutdown")
    app.notify("exit", {})
    assert app.wait() == 0
    assert secret not in app.stderr()
    for path in app.state_dir.iterdir():
        assert secret.encode() not in path.read_bytes()


def test_a_cancel_cascades_and_waits_for_the_app(app: Core) -> None:
    stream, run = start_run(app)
    emit(app, run, "a")
    app.first_event(stream, "text_delta")
    app.cancel(stream)
    cancel = app.wait_for(lambda m: m.get("method") == "$/cancelRequest")
    assert cancel["params"] == {"id": run["id"]}
    emit(app, run, "too late")
    error = {"code": -32800, "message": "cancelled", "data": {"kind": "cancelled"}}
    app.send({"jsonrpc": "2.0", "id": run["id"], "error": error})
    failure = app.response(stream)["error"]
    assert failure["code"] == -32800
    assert failure["data"]["partial"]["text"] == "a"
    check_stream(app.stream(stream), "error")
    assert app.ping()["runner"] == {"registered": True, "runs": 0, "late_events": 1}


def test_an_app_that_does_not_confirm_a_cancel_is_not_waited_for(app: Core) -> None:
    stream, run = start_run(app)
    app.cancel(stream)
    assert app.response(stream)["error"]["code"] == -32800
    answer(app, run, text="much too late")
    nothing_is_left(app)
    assert app.responses(stream) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 5, "message": "no", "data": {"kind": "runner_declined"}}, "runner_declined"),
        ({"code": 5, "message": "no", "data": {"kind": "unauthorized"}}, "unauthorized"),
        ({"code": 5, "message": "no", "data": {"kind": "made up"}}, "runner_failed"),
        ({"code": 5, "message": "no", "data": "text"}, "runner_failed"),
        ({"code": -32601, "message": "no"}, "no_runner"),
        ({"code": -32603, "message": "no"}, "runner_failed"),
    ],
)
def test_an_error_of_the_app_keeps_its_kind(app: Core, error: dict[str, Any], kind: str) -> None:
    stream, run = start_run(app, recovery="none")
    app.send({"jsonrpc": "2.0", "id": run["id"], "error": error})
    assert app.response(stream)["error"]["data"]["kind"] == kind
    check_stream(app.stream(stream), "error")


def test_a_malformed_event_fails_its_run_and_an_unknown_one_does_not(app: Core) -> None:
    stream, run = start_run(app)
    call_id = run["params"]["call_id"]
    app.notify("runner.event", {"call_id": call_id, "event": {"type": "of the future", "x": 1}})
    emit(app, run, "a")
    app.first_event(stream, "text_delta")
    app.notify("runner.event", {"call_id": call_id, "event": {"type": "text_delta", "text": 5}})
    assert app.response(stream)["error"]["data"]["kind"] == "runner_failed"
    answer(app, run)
    app.ping()


def test_a_runner_that_floods_a_stalled_client_fails_alone(app: Core) -> None:
    """The core never stops reading for a stream: a run that is too far ahead ends."""
    stream, run = start_run(app)
    other, other_run = start_run(app)
    emit(app, run, "x")
    app.first_event(stream, "text_delta")
    app.stall()
    for _ in range(12):
        emit(app, run, "x" * 1024 * 1024)
    answer(app, other_run, text="served")
    app.resume()
    error = app.response(stream)["error"]
    assert error["data"]["kind"] == "runner_failed"
    assert error["data"]["cause"] == "backpressure"
    assert app.response(other)["result"]["text"] == "served"


def test_a_deadline_ends_a_run_that_says_nothing(app: Core) -> None:
    stream, _ = start_run(app, timeout_ms=200)
    assert app.response(stream)["error"]["data"]["kind"] == "timeout"
    app.wait_for(lambda m: m.get("method") == "$/cancelRequest")


def test_ids_of_the_core_and_of_the_client_do_not_meet(app: Core) -> None:
    first, run = start_run(app)
    app.ask("generate", {"model": "t/app:1", "prompt": ""}, request_id=run["id"])
    second = app.wait_for(
        lambda m: m.get("method") == "runner.run" and m["params"]["parent_id"] == run["id"]
    )
    answer(app, run, text="first")
    assert app.response(first)["result"]["text"] == "first"
    answer(app, second, text="second")
    assert app.response(run["id"])["result"]["text"] == "second"
