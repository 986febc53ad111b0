"""A delegated model gets what every other one gets: the plans of recovery, the breaker, the log."""

from typing import Any

import msgspec
import pytest

from car_rpc.engine.interruption import CONTINUE_PROMPT
from tests.host.conftest import LoopClock
from tests.host.test_delegated import events, nothing_is_left, started

TEXT = "The quick brown fox jumps over the lazy dog"
RESET = {"code": 1, "message": "econnreset", "data": {"kind": "provider_error"}}


def emit(app: Any, run: Any, *told: dict[str, Any]) -> None:
    for event in told:
        app.notify("runner.event", call_id=run["params"]["call_id"], event=event)


def text(words: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": words}


def call(index: int, arguments: str) -> list[dict[str, Any]]:
    start = {"type": "tool_call_start", "index": index, "id": f"c{index}", "name": "find"}
    delta = {"type": "tool_call_delta", "index": index, "id": "", "arguments_delta": arguments}
    return [start, delta]


async def next_run(app: Any, attempt: int) -> Any:
    return await app.until(
        lambda m: m.get("method") == "runner.run" and m["params"]["attempt"] == attempt
    )


async def answer(app: Any) -> Any:
    result = (await app.answer(2))["result"]
    await nothing_is_left(app)
    return result


def plans(app: Any) -> list[tuple[str, str]]:
    return [(e["plan"], e["cause"]) for e in events(app) if e["type"] == "recovery"]


async def test_a_text_that_broke_is_continued(app: Any) -> None:
    run = await started(app)
    emit(app, run, {"type": "reasoning_delta", "text": "hm"}, text(TEXT))
    app.send({"id": run["id"], "error": RESET})

    run = await next_run(app, 2)
    assert run["params"]["request"]["messages"] == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": CONTINUE_PROMPT},
    ]
    emit(app, run, text(TEXT[-30:] + ", again"))
    app.send({"id": run["id"], "result": {}})

    result = await answer(app)
    assert (result["text"], result["recoveries"]) == (TEXT + ", again", 1)
    assert plans(app) == [("continue_text", "connection_reset")]


async def test_a_call_that_was_cut_is_withdrawn_and_the_text_goes_on(app: Any) -> None:
    run = await started(app)
    emit(app, run, text(TEXT), *call(0, '{"a":'))
    app.send({"id": run["id"], "error": RESET})

    run = await next_run(app, 2)
    app.send({"id": run["id"], "result": {"text": ", again"}})

    result = await answer(app)
    assert (result["text"], result["tool_calls"]) == (TEXT + ", again", [])
    assert plans(app) == [("truncate_before_tool", "connection_reset")]
    assert [e["id"] for e in events(app) if e["type"] == "tool_call_cancel"] == ["c0"]


async def test_whole_calls_are_the_answer_and_the_app_is_not_asked_again(app: Any) -> None:
    run = await started(app)
    emit(app, run, text("Let me look."), *call(0, '{"a":1}'), *call(1, '{"b"'))
    app.send({"id": run["id"], "error": RESET})

    result = await answer(app)
    assert result["stop_reason"] == "tool_use"
    assert [call["arguments"] for call in result["tool_calls"]] == [{"a": 1}]
    assert plans(app) == [("synthesize_tool_use", "connection_reset")]
    assert [m["id"] for m in app.messages if m.get("method") == "runner.run"] == [run["id"]]


async def test_what_cannot_be_saved_starts_again(app: Any) -> None:
    run = await started(app)
    emit(app, run, *call(0, '{"a":'))
    app.send({"id": run["id"], "error": RESET})

    run = await next_run(app, 2)
    assert "messages" not in run["params"]["request"]
    app.send({"id": run["id"], "result": {"text": "ok"}})

    assert (await answer(app))["text"] == "ok"
    assert plans(app) == [("whole_restart", "connection_reset")]
    assert "stream_reset" in [e["type"] for e in events(app)]


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        ({"code": 1, "message": "m", "data": {}}, "runner_failed"),
        ({"code": 1, "message": "GOAWAY", "data": {"kind": "provider_error"}}, "goaway"),
        ({"code": 1, "message": "slow", "data": {"kind": "timeout"}}, "idle_stall"),
        ({"code": 1, "message": "HTTP 502", "data": {"kind": "overloaded"}}, "provider_503"),
    ],
)
async def test_each_way_to_break_has_its_cause(app: Any, failure: Any, cause: str) -> None:
    run = await started(app)
    emit(app, run, text(TEXT))
    app.send({"id": run["id"], "error": failure})
    run = await next_run(app, 2)
    app.send({"id": run["id"], "result": {"text": "!"}})

    assert (await answer(app))["text"] == TEXT + "!"
    assert plans(app) == [("continue_text", cause)]


async def test_an_error_event_breaks_a_stream_as_well(app: Any) -> None:
    run = await started(app)
    emit(app, run, text(TEXT), {"type": "error", "kind": "provider_error", "message": "reset"})
    app.send({"id": run["id"], "result": {}})
    run = await next_run(app, 2)
    app.send({"id": run["id"], "result": {"text": "!"}})

    assert (await answer(app))["text"] == TEXT + "!"


async def test_a_runner_that_falls_silent_is_asked_again(app: Any, clock: LoopClock) -> None:
    run = await started(app)
    emit(app, run, text(TEXT))
    await clock.advance(59)
    emit(app, run, {"type": "heartbeat"})
    await clock.advance(59)
    assert 2 not in app.answered()
    await clock.advance(2)
    assert (await app.method("$/cancelRequest"))["params"] == {"id": run["id"]}
    app.send({"id": run["id"], "error": {"code": -32800, "message": "cancelled"}})

    run = await next_run(app, 2)
    app.send({"id": run["id"], "result": {"text": "!"}})

    assert (await answer(app))["text"] == TEXT + "!"
    assert plans(app) == [("continue_text", "idle_stall")]


@pytest.mark.parametrize("data", [{"kind": "unauthorized"}, {"kind": "content_filtered"}])
async def test_what_is_an_answer_is_not_recovered(app: Any, data: Any) -> None:
    run = await started(app)
    emit(app, run, text(TEXT))
    app.send({"id": run["id"], "error": {"code": 1, "message": "no", "data": data}})

    assert (await app.answer(2))["error"]["data"]["kind"] == data["kind"]
    await nothing_is_left(app)


async def test_an_answer_cut_by_its_limit_is_continued_where_that_is_wished(app: Any) -> None:
    run = await started(app, max_tokens_continuations=1)
    emit(app, run, text(TEXT), {"type": "stop", "reason": "max_tokens"})
    app.send({"id": run["id"], "result": {}})
    run = await next_run(app, 2)
    app.send({"id": run["id"], "result": {"text": ", again", "stop_reason": "end_turn"}})

    result = await answer(app)
    assert (result["text"], result["stop_reason"]) == (TEXT + ", again", "end_turn")
    assert plans(app) == [("continue_max_tokens", "max_tokens")]


async def test_the_log_tells_a_run_like_any_other_attempt(app: Any) -> None:
    run = await started(app)
    emit(app, run, text(TEXT), {"type": "usage", "prompt_tokens": 3})
    app.send({"id": run["id"], "error": RESET})
    run = await next_run(app, 2)
    reply = {"text": "!", "usage": {"prompt_tokens": 4, "completion_tokens": 9}}
    app.send({"id": run["id"], "result": reply})
    result = await answer(app)

    assert result["time_to_first_token_ms"] is not None
    assert (result["usage"]["completion_tokens"], result["stop_reason"]) == (9, "end_turn")
    assert [a["outcome"] for a in result["attempts"]] == ["provider_error", "success"]
    story = [entry for entry in app.sink.entries if entry.trace_id == result["trace_id"]]
    kinds = [entry.type for entry in story if entry.type != "deltas"]
    run = ["runner_request", "first_token", "runner_return", "usage"]
    again = [each for each in run if each != "first_token"]
    assert kinds == [
        "request", "route", "attempt", *run, "failure", "interruption", "continues", "recovery",
        "attempt", *again, "completion",
    ]  # fmt: skip
    returns = [entry.data for entry in story if entry.type == "runner_return"]
    assert [(each["outcome"], each["items"]) for each in returns] == [
        ("provider_error", 2),
        ("success", 1),
    ]
    completion = msgspec.to_builtins(story[-1].data)
    assert (completion["outcome"], completion["result"]["usage"]) == ("success", result["usage"])
    assert completion["result"]["attempts"] == result["attempts"]
    assert completion["result"]["time_to_first_token_ms"] == result["time_to_first_token_ms"]
    deltas = [event for e in story if e.type == "deltas" for event in e.data["events"]]
    assert "".join(getattr(e, "text", "") for e in deltas) == TEXT + "!"


@pytest.mark.parametrize(
    ("data", "kind"),
    [({}, "all_models_unavailable"), ({"retryable": False}, "runner_failed")],
    ids=["its-own-failures", "what-the-app-calls-permanent"],
)
async def test_a_runner_that_keeps_failing_is_left_alone(app: Any, data: Any, kind: str) -> None:
    failure = {"code": 1, "message": "m", "data": data}
    for request_id in range(10, 15):
        run = await started(app, request_id, recovery="none")
        app.send({"id": run["id"], "error": failure})
        assert (await app.answer(request_id))["error"]["data"]["kind"] == "runner_failed"

    app.request(2, "generate", prompt="x", model="app")
    if kind == "runner_failed":  # it is asked again
        run = await app.until(
            lambda m: m.get("method") == "runner.run" and m["params"]["parent_id"] == 2
        )
        app.send({"id": run["id"], "error": failure})

    error = (await app.answer(2))["error"]
    assert error["data"]["kind"] == kind
