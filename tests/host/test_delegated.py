"""A delegated model through a whole session: the client, the engine, and the client's runner."""

import asyncio
import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from car_rpc.host.runner import CANCEL_TIMEOUT_S, RUNNER_BUFFER_BYTES, RUNNER_ROOM_BYTES
from car_rpc.host.session import STREAM_BUFFER_BYTES
from tests.host.conftest import LoopClock


async def started(app: Any, request_id: Any = 2, **params: Any) -> Any:
    """A request whose run has reached the app's runner; the core's request."""
    app.send({"id": f"register for {request_id}", "method": "runner.register"})
    params = {"prompt": "x", "model": "app", "stream": True, **params}
    app.send({"id": request_id, "method": "generate", "params": params})
    return await app.until(
        lambda m: m.get("method") == "runner.run" and m["params"]["parent_id"] == request_id
    )


def delta(run: Any, text: str) -> dict[str, Any]:
    return {"call_id": run["params"]["call_id"], "event": {"type": "text_delta", "text": text}}


async def stalled(app: Any) -> Any:
    """A run whose client reads nothing, with all the events that the core takes for it."""
    run = await started(app)
    await app.method("generate.event")
    app.reading = False
    for _ in range(4):
        app.notify("runner.event", **delta(run, "x" * (STREAM_BUFFER_BYTES // 2)))
        for _ in range(5):
            await asyncio.sleep(0)
    app.notify("runner.event", **delta(run, "y" * RUNNER_ROOM_BYTES))
    return run


def events(app: Any, request_id: Any = 2) -> list[Any]:
    return [params["event"] for params in app.events(request_id)]


def texts(app: Any, request_id: Any = 2) -> str:
    return "".join(e["text"] for e in events(app, request_id) if e["type"] == "text_delta")


async def nothing_is_left(app: Any, late_events: int = 0) -> None:
    ping = (await app.call("left?", "ping"))["result"]
    runner = {"registered": True, "runs": 0, "late_events": late_events}
    assert (ping["in_flight"], ping["runner"]) == (1, runner)
    assert app.connection.pending.drain() == []


async def test_a_delegated_model_runs_in_the_app(app: Any) -> None:
    error = await app.failure(0, "generate", prompt="x", model="app")
    assert error["data"]["kind"] == "no_runner"
    assert (await app.call(1, "runner.register"))["result"] == {
        "registered": True,
        "replaced": False,
    }
    request = {"prompt": "x", "model": "app", "stream": True, "unknown": {"kept": 1.50}}
    app.request(2, "generate", **request)
    run = await app.method("runner.run")
    assert run["params"]["request"] == request
    assert (run["params"]["hint"], run["params"]["parent_id"]) == ("gpt", 2)
    call_id = run["params"]["call_id"]
    event = {"type": "text_delta", "text": "hi"}
    app.notify("runner.event", call_id=call_id, event=event)
    answer = await app.call(3, "runner.event", call_id=call_id, event=event)
    assert answer["result"] == {"emitted": True, "closed": False}
    app.send({"id": run["id"], "result": {"text": "ignored", "usage": {"prompt_tokens": 3}}})
    result = (await app.answer(2))["result"]
    assert (result["text"], result["usage"]["prompt_tokens"]) == ("hihi", 3)
    assert (await app.call(4, "runner.unregister"))["result"] == {"registered": False}


async def test_cancelling_a_request_cancels_its_run_and_waits_for_it(app: Any) -> None:
    await app.call(1, "runner.register")
    app.request(2, "generate", prompt="x", model="app", stream=True)
    run = await app.method("runner.run")
    app.notify("$/cancelRequest", id=2)
    cancel = await app.method("$/cancelRequest")
    assert cancel["params"] == {"id": run["id"]}
    app.notify("$/cancelRequest", id=2)  # a second one does not cut the waiting short
    for _ in range(20):
        await asyncio.sleep(0)
    assert 2 not in app.answered()
    app.send({"id": run["id"], "error": {"code": -32800, "message": "cancelled"}})
    assert (await app.answer(2))["error"]["data"]["kind"] == "cancelled"


async def test_an_app_that_goes_away_fails_its_runs(app: Any) -> None:
    await app.call(1, "runner.register")
    app.request(2, "generate", prompt="x", model="app")
    await app.method("runner.run")
    app.runner.abandon()
    assert (await app.answer(2))["error"]["data"]["kind"] == "runner_failed"


async def test_a_run_goes_on_and_finishes_while_the_session_drains(app: Any) -> None:
    app.session._settings = app.session._settings._replace(drain_ms=60_000)
    await app.call(1, "runner.register")
    app.request(2, "generate", prompt="x", model="app", stream=True)
    run = await app.method("runner.run")
    app.request(3, "shutdown")
    event = {"type": "text_delta", "text": "late, not lost"}
    answer = await app.call(4, "runner.event", call_id=run["params"]["call_id"], event=event)
    assert answer["result"] == {"emitted": True, "closed": False}
    app.send({"id": run["id"], "result": {}})
    assert (await app.answer(3))["result"] is None
    assert (await app.answer(2))["result"]["text"] == "late, not lost"
    assert app.answered() == [1, 4, 2, 3]


async def test_what_is_played_after_the_app_has_gone_finds_no_runner(fresh: Any) -> None:
    fresh.request(1, "initialize", protocol_version=1)
    fresh.request(2, "runner.register")
    fresh.request(3, "generate", prompt="x", model="app")
    fresh.session.receive_eof()
    fresh.runner.abandon()
    fresh.loaded.set()
    assert (await fresh.answer(3))["error"]["data"]["kind"] == "no_runner"
    assert [m["method"] for m in fresh.messages if "method" in m] == []


@pytest.mark.parametrize("method", ["runner.register", "runner.unregister"])
async def test_a_change_of_the_runner_is_safe_before_it_is_answered(app: Any, method: str) -> None:
    safe: list[list[str]] = []
    respond = app.connection.respond

    def watched(*arguments: Any) -> None:
        safe.append(app.sink.committed_types)
        respond(*arguments)

    app.connection.respond = watched
    await app.call(1, method)
    assert safe == [["request", "completion"]]


async def test_a_bare_reply_becomes_text_first_and_then_how_it_ended(app: Any) -> None:
    await app.call(1, "runner.register")
    app.request(2, "generate", prompt="x", model="app", stream=True)
    run = await app.method("runner.run")
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    reply = {"text": "all of it", "usage": usage, "stop_reason": "max_tokens"}
    app.send({"id": run["id"], "result": reply})
    assert (await app.answer(2))["result"]["stop_reason"] == "max_tokens"
    kinds = [params["event"]["type"] for params in app.events(2)]
    assert kinds == ["attempt", "text_delta", "usage", "stop", "done"]


# The slot


async def test_a_runner_and_a_request_for_it_may_be_sent_together(app: Any) -> None:
    generate = {"method": "generate", "params": {"prompt": "x", "model": "app"}}
    app.send(
        {"id": 1, "method": "runner.register"},
        {"id": 2, **generate},
        {"id": 3, "method": "runner.register", "params": {"name": "again", "hints": ["gpt"]}},
    )
    run = await app.method("runner.run")
    assert (await app.answer(1))["result"] == {"registered": True, "replaced": False}
    assert (await app.answer(3))["result"] == {"registered": True, "replaced": True}
    app.send({"id": 4, "method": "runner.unregister"}, {"id": 5, **generate})
    assert (await app.answer(5))["error"]["data"]["kind"] == "no_runner"
    app.send({"id": run["id"], "result": {"text": "kept its runner"}})
    assert (await app.answer(2))["result"]["text"] == "kept its runner"


# What the runner receives


async def test_a_runner_receives_the_request_as_the_client_sent_it(
    app: Any, tmp_path: Path
) -> None:
    (tmp_path / "allowed").mkdir()
    picture = tmp_path / "allowed" / "a.png"
    picture.write_bytes(b"picture")
    source = {"type": "path", "path": str(picture), "unknown": 1.50}
    image = {"type": "image", "source": source, "detail": "high"}
    message = {"role": "user", "content": [image], "name": "me"}
    request = {"messages": [message], "params": {"seed": "7", "own": None}, "own": {"a": [1e3]}}
    run = await started(app, model="app", prompt="x", **request)
    inlined = {"type": "base64", "media_type": "image/png", "unknown": 1.50}
    inlined["data"] = base64.b64encode(b"picture").decode()
    message["content"] = [{**image, "source": inlined}]
    sent = {"prompt": "x", "model": "app", "stream": True, **request}
    assert run["params"]["request"] == sent
    app.send({"id": run["id"], "result": {}})
    await app.answer(2)


# Results


async def test_a_bare_reply_becomes_events_of_every_kind(app: Any) -> None:
    run = await started(app)
    call = {"id": "c", "name": "f", "arguments": {"a": 1}}
    app.send({"id": run["id"], "result": {"text": "so", "tool_calls": [call]}})
    result = (await app.answer(2))["result"]
    assert (result["text"], result["tool_calls"]) == ("so", [call])
    assert result["stop_reason"] == "tool_use"
    assert events(app)[1:] == [
        {"type": "text_delta", "text": "so"},
        {"type": "tool_call_start", "index": 0, "id": "c", "name": "f"},
        {"type": "tool_call_delta", "index": 0, "id": "c", "arguments_delta": '{"a":1}'},
        {"type": "content_block_stop", "index": 0},
        {"type": "stop", "reason": "tool_use"},
        {"type": "done", "text": "so", "tool_calls": [call]},
    ]


async def test_deltas_win_over_done_and_done_over_the_reply_and_each_fills_the_gaps(
    app: Any,
) -> None:
    run = await started(app)
    call = {"id": "c", "name": "f", "arguments": {}}
    call_id = run["params"]["call_id"]
    for event in (
        {"type": "done", "text": "of done", "tool_calls": [call]},
        {"type": "usage", "prompt_tokens": 3, "completion_tokens": 5},
        {"type": "stop", "reason": "max_tokens"},
        {"type": "text_delta", "text": "of the deltas"},
    ):
        app.notify("runner.event", call_id=call_id, event=event)
    reply = {
        "text": "of the reply",
        "tool_calls": [{**call, "name": "of the reply"}],
        "usage": {"completion_tokens": 4, "cache_read_tokens": 2, "prompt_tokens": 4},
        "stop_reason": "end_turn",
    }
    app.send({"id": run["id"], "result": reply})
    result = (await app.answer(2))["result"]
    assert (result["text"], result["tool_calls"]) == ("of the deltas", [call])
    assert result["stop_reason"] == "max_tokens"
    assert [e for e in events(app) if e["type"] == "stop"] == [
        {"type": "stop", "reason": "max_tokens"}
    ]
    usage = {name: n for name, n in result["usage"].items() if n is not None}
    assert usage == {
        "prompt_tokens": 4,
        "completion_tokens": 5,
        "total_tokens": 9,
        "cache_read_tokens": 2,
    }


# Failures


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        ({"kind": "rate_limited", "message": "slow"}, "rate_limited", "rate limited: slow"),
        ({"kind": "made up", "message": "oh"}, "runner_failed", "runner failed: oh"),
        ({"kind": "duplicate_id", "message": "oh"}, "runner_failed", "runner failed: oh"),
    ],
)
async def test_an_error_event_fails_the_request(
    app: Any, event: dict[str, Any], kind: str, message: str
) -> None:
    run = await started(app, recovery="none")
    call_id = run["params"]["call_id"]
    app.notify("runner.event", call_id=call_id, event={"type": "error", **event})
    await app.method("$/cancelRequest")
    app.send({"id": run["id"], "error": {"code": -32800, "message": "cancelled"}})
    error = (await app.answer(2))["error"]
    assert (error["data"]["kind"], error["message"]) == (kind, message)
    assert events(app)[-1] == {"type": "error", "kind": kind, "message": message}


async def test_what_an_app_knows_of_retrying_goes_before_the_table(app: Any) -> None:
    run = await started(app)
    data = {"kind": "provider_error", "status": 400, "retryable": False, "more": "dropped"}
    app.send({"id": run["id"], "error": {"code": 1, "message": "no", "data": data}})
    error = (await app.answer(2))["error"]["data"]
    assert error["trace_id"]
    assert {name: error[name] for name in ("kind", "retryable", "status", "model")} == {
        "kind": "provider_error",
        "retryable": False,
        "status": 400,
        "model": "test/app:a",
    }
    assert "more" not in error


async def never(app: Any, run: Any, clock: LoopClock) -> None:
    await clock.advance(CANCEL_TIMEOUT_S)


async def late(app: Any, run: Any, clock: LoopClock) -> None:
    app.send({"id": run["id"], "result": {"text": "late"}})


async def twice(app: Any, run: Any, clock: LoopClock) -> None:
    for text in ("late", "later"):
        app.send({"id": run["id"], "result": {"text": text}})


async def dies(app: Any, run: Any, clock: LoopClock) -> None:
    app.runner.abandon()
    app.runner._abandoned = False
    app.runner.register()


@pytest.mark.parametrize("then", [never, late, twice, dies])
@pytest.mark.parametrize("limits", [{}, {"timeout_ms": 300_000}], ids=["default", "timeout_ms"])
async def test_a_run_beyond_its_deadline_is_answered_once_and_leaves_nothing(
    app: Any, clock: LoopClock, then: Callable[..., Any], limits: dict[str, int]
) -> None:
    run = await started(app, **limits)
    assert run["params"]["deadline_ms"] == 300_000
    await clock.advance(299)
    assert 2 not in app.answered()
    await clock.advance(2)
    assert (await app.method("$/cancelRequest"))["params"] == {"id": run["id"]}
    assert 2 not in app.answered()
    await then(app, run, clock)
    assert (await app.answer(2))["error"]["data"]["kind"] == "timeout"
    await nothing_is_left(app)
    assert app.answered().count(2) == 1
    assert [e["type"] for e in events(app)] == ["attempt", "error"]


async def test_late_events_are_counted_in_ping(app: Any) -> None:
    run = await started(app)
    assert (await app.call(3, "ping"))["result"]["runner"]["runs"] == 1
    app.notify("$/cancelRequest", id=2)
    await app.method("$/cancelRequest")
    app.notify("runner.event", **delta(run, "between"))
    app.send({"id": run["id"], "error": {"code": -32800, "message": "cancelled"}})
    assert (await app.answer(2))["error"]["data"]["partial"]["text"] == ""
    answer = await app.call(4, "runner.event", **delta(run, "after"))
    assert answer["result"] == {"emitted": False, "closed": True}
    await nothing_is_left(app, late_events=2)


# Flow control


async def test_a_client_that_reads_slowly_holds_the_replies_to_its_runner(app: Any) -> None:
    run = await stalled(app)
    app.request(3, "runner.event", **delta(run, "asked"))
    app.notify("runner.event", **delta(run, " notified"))
    app.reading = True
    assert 3 not in app.answered()
    assert (await app.answer(3))["result"] == {"emitted": True, "closed": False}
    app.send({"id": run["id"], "result": {}})
    assert (await app.answer(2))["result"]["text"].endswith("yasked notified")
    assert texts(app).endswith("yasked notified")
    await nothing_is_left(app)


async def test_a_withheld_reply_can_be_cancelled_and_its_event_stays(app: Any) -> None:
    run = await stalled(app)
    app.request(3, "runner.event", **delta(run, "asked"))
    app.notify("$/cancelRequest", id=3)
    app.reading = True
    assert (await app.answer(3))["error"]["data"]["kind"] == "cancelled"
    app.send({"id": run["id"], "result": {}})
    assert (await app.answer(2))["result"]["text"].endswith("yasked")


async def test_withheld_replies_are_given_at_a_cancel(app: Any) -> None:
    run = await stalled(app)
    app.request(3, "runner.event", **delta(run, "asked"))
    app.notify("$/cancelRequest", id=2)
    app.reading = True
    assert (await app.answer(3))["result"] == {"emitted": False, "closed": True}
    assert 2 not in app.answered()
    app.send({"id": run["id"], "result": {}})
    assert (await app.answer(2))["error"]["data"]["kind"] == "cancelled"


async def test_withheld_replies_are_given_at_shutdown(app: Any, clock: LoopClock) -> None:
    run = await stalled(app)
    app.request(3, "runner.event", **delta(run, "asked"))
    app.request(4, "shutdown")
    await clock.advance(app.session._settings.drain_ms / 1000)
    app.reading = True
    assert (await app.answer(3))["result"] == {"emitted": False, "closed": True}
    app.send({"id": run["id"], "result": {}})
    assert (await app.answer(4))["result"] is None
    assert sorted(map(str, app.answered())) == ["2", "3", "4", "register for 2"]


async def test_withheld_replies_are_given_when_the_input_ends(app: Any) -> None:
    run = await stalled(app)
    app.request(3, "runner.event", **delta(run, "asked"))
    app.session.receive_eof()
    app.runner.abandon()
    app.reading = True
    assert (await app.answer(3))["result"] == {"emitted": True, "closed": True}
    assert (await app.answer(2))["error"]["data"]["kind"] == "runner_failed"
    assert texts(app).endswith("yasked")


async def test_a_flood_ends_its_own_run_alone_and_is_answered_to_the_last(app: Any) -> None:
    run = await stalled(app)
    app.send({"id": "other", "method": "generate", "params": {"prompt": "x", "model": "app"}})
    block = "x" * (RUNNER_BUFFER_BYTES // 8)
    for number in range(10):
        app.request(f"e{number}", "runner.event", **delta(run, block))
    assert app.connection.wants_input
    app.reading = True
    other = await app.until(
        lambda m: m.get("method") == "runner.run" and m["params"]["parent_id"] == "other"
    )
    app.send({"id": other["id"], "result": {"text": "served"}})
    assert (await app.answer("other"))["result"]["text"] == "served"
    answers = [(await app.answer(f"e{number}"))["result"] for number in range(10)]
    assert all(answer["closed"] for answer in answers)
    assert [answer["emitted"] for answer in answers] == [True] * 8 + [False] * 2
    cancels = [m for m in app.messages if m.get("method") == "$/cancelRequest"]
    assert [m["params"]["id"] for m in cancels] == [run["id"]]
    app.send({"id": run["id"], "result": {}})
    error = (await app.answer(2))["error"]["data"]
    assert (error["kind"], error["cause"]) == ("runner_failed", "backpressure")
    await nothing_is_left(app, late_events=2)


# Whatever happens


class Accident:
    """One run, and things that may happen to it in any order."""

    def __init__(self, app: Any, clock: LoopClock, request_id: str, run: Any) -> None:
        self.app, self.clock, self.request_id, self.run = app, clock, request_id, run
        self.asked: list[str] = []

    def notify(self) -> None:
        self.app.notify("runner.event", **delta(self.run, "a"))

    def ask(self) -> None:
        self.asked.append(f"{self.request_id} event {len(self.asked)}")
        self.app.request(self.asked[-1], "runner.event", **delta(self.run, "b" * 100_000))

    def break_down(self) -> None:
        call_id = self.run["params"]["call_id"]
        self.app.notify("runner.event", call_id=call_id, event={"type": "text_delta"})

    def report(self) -> None:
        call_id = self.run["params"]["call_id"]
        self.app.notify("runner.event", call_id=call_id, event={"type": "error"})

    def answer(self) -> None:
        self.app.send({"id": self.run["id"], "result": {"text": "c"}})

    def fail(self) -> None:
        self.app.send({"id": self.run["id"], "error": {"code": 1, "message": "no"}})

    def cancel(self) -> None:
        self.app.notify("$/cancelRequest", id=self.request_id)

    def give_up_an_event(self) -> None:
        if self.asked:
            self.app.notify("$/cancelRequest", id=self.asked[-1])

    def unregister(self) -> None:
        self.app.request(f"{self.request_id} off", "runner.unregister")

    def look_away(self) -> None:
        self.app.reading = False

    def look(self) -> None:
        self.app.reading = True
        self.app.read()

    async def time_passes(self) -> None:
        await self.clock.advance(70)

    async def pause(self) -> None:
        await self.clock.advance(0)

    async def end(self) -> None:
        """The app reads, and answers if it has not: then all must be over."""
        self.look()
        self.answer()
        await self.clock.advance(CANCEL_TIMEOUT_S)


async def test_whatever_happens_to_runs_each_request_is_answered_once_and_nothing_is_left(
    app: Any, clock: LoopClock, proof_count: Callable[[int, int], int]
) -> None:
    names = [name for name in vars(Accident) if name[0] != "_" and name != "end"]
    terminal = {"done": 0, "error": 0}
    for seed in range(proof_count(200, 5000)):
        chance = random.Random(seed)
        request_id = f"run {seed}"
        run = await started(app, request_id, recovery="none")
        accident = Accident(app, clock, request_id, run)
        for name in chance.choices(names, k=chance.randrange(12)):
            happened = getattr(accident, name)()
            if happened is not None:
                await happened
        await accident.end()
        response = await app.answer(request_id)
        kinds = [event["type"] for event in events(app, request_id)]
        assert kinds[0] == "attempt", seed
        assert kinds[-1] == ("done" if "result" in response else "error"), seed
        assert not {"done", "error"} & {*kinds[:-1]}, seed
        if "result" in response:
            assert response["result"]["text"] == texts(app, request_id), seed
        answered = app.answered()
        for each in (request_id, *accident.asked):
            assert answered.count(each) == 1, (seed, each)
        ping = (await app.call(f"{seed} left?", "ping"))["result"]
        assert (ping["in_flight"], ping["runner"]["runs"]) == (1, 0), seed
        assert app.connection.pending.drain() == [], seed
        terminal[kinds[-1]] += 1
        app.messages.clear()
    assert min(terminal.values()) > 20, terminal
