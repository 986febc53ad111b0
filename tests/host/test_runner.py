import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from car_rpc.backends.delegated import RunItem
from car_rpc.errors import CarError
from car_rpc.host.runner import RUNNER_BUFFER_BYTES, Run, RunnerHost
from car_rpc.protocol.connection import Answered, Connection
from car_rpc.wire.events import Heartbeat, TextDelta
from car_rpc.wire.runner import RunnerEventParams, RunnerResult, RunnerRunParams


class Phone:
    """A runner host with its connection, and the app at the other end of it."""

    def __init__(self) -> None:
        self.connection: Connection[Run] = Connection()
        self.host = RunnerHost(self.connection, lambda: None)
        self.read: list[Any] = []

    def run(self, call_id: str = "c", deadline_ms: int = 60_000) -> AsyncGenerator[RunItem, None]:
        return self.host.run(
            RunnerRunParams(
                call_id=call_id,
                parent_id=1,
                trace_id="t",
                attempt=1,
                hint=None,
                model="a/b:c",
                request=msgspec.Raw(b"{}"),
                deadline_ms=deadline_ms,
            )
        )

    def event(self, event: Any, call_id: str = "c") -> tuple[bool, bool]:
        raw = msgspec.Raw(json.dumps(event).encode())
        result = self.host.event(RunnerEventParams(call_id=call_id, event=raw))
        return result.emitted, result.closed

    def delta(self, text: str, call_id: str = "c") -> tuple[bool, bool]:
        return self.event({"type": "text_delta", "text": text}, call_id)

    def sent(self) -> list[Any]:
        self.read += [json.loads(line) for line in self.connection.take_output(1 << 20).split()]
        return self.read

    def answer(self, **outcome: Any) -> None:
        ours = next(m["id"] for m in self.sent() if m["method"] == "runner.run")
        message = {"jsonrpc": "2.0", "id": ours, **outcome}
        for event in self.connection.receive(json.dumps(message).encode() + b"\n"):
            assert isinstance(event, Answered)
            event.waiting.answer(event.response)


@pytest.fixture
def phone() -> Phone:
    return Phone()


async def started(run: AsyncGenerator[RunItem, None]) -> "asyncio.Task[list[RunItem]]":
    async def collect() -> list[RunItem]:
        return [item async for item in run]

    task = asyncio.create_task(collect())
    await asyncio.sleep(0)
    return task


async def failure_of(task: "asyncio.Task[Any]") -> CarError:
    async with asyncio.timeout(10):
        with pytest.raises(CarError) as caught:
            await task
    return caught.value


async def test_a_run_is_its_events_in_order_and_then_its_answer(phone: Phone) -> None:
    task = await started(phone.run())
    (call,) = phone.sent()
    assert call["params"] == {
        "call_id": "c",
        "parent_id": 1,
        "trace_id": "t",
        "attempt": 1,
        "operation": "generate",
        "hint": None,
        "model": "a/b:c",
        "request": {},
        "deadline_ms": 60_000,
    }
    assert [phone.delta("a"), phone.event({"type": "heartbeat"}), phone.delta("b")] == [
        (True, False)
    ] * 3
    phone.answer(result={"text": "ab", "unknown": 1})
    assert await task == [
        TextDelta(text="a"),
        Heartbeat(),
        TextDelta(text="b"),
        RunnerResult(text="ab"),
    ]


async def test_events_after_the_answer_or_for_nobody_are_closed(phone: Phone) -> None:
    task = await started(phone.run())
    phone.answer(result={})
    assert phone.delta("late") == (False, True)
    assert phone.delta("x", call_id="nobody") == (False, True)
    assert await task == [RunnerResult()]
    assert phone.delta("later still") == (False, True)


async def test_two_runs_do_not_mix(phone: Phone) -> None:
    first, second = await started(phone.run("one")), await started(phone.run("two"))
    phone.delta("2", "two")
    phone.delta("1", "one")
    for run in list(phone.connection.pending.drain()):
        run.answered = True
        run.changed.set()
    assert [await first, await second] == [[TextDelta(text="1")], [TextDelta(text="2")]]


async def test_an_unknown_type_is_ignored_and_logged_once(
    phone: Phone, caplog: pytest.LogCaptureFixture
) -> None:
    task = await started(phone.run())
    for _ in range(3):
        assert phone.event({"type": "hologram", "x": 1}) == (False, False)
    phone.event({"type": "smell"})
    phone.answer(result={})
    assert await task == [RunnerResult()]
    assert [r.getMessage() for r in caplog.records] == [
        "runner events of type 'hologram' are unknown and ignored",
    ]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "text_delta"},
        {"type": "text_delta", "text": 5},
        {"text": "x"},
        [],
        None,
        1,
        {"type": 5},
        {"type": "usage", "prompt_tokens": -1},
        {"type": "tool_call_start"},
    ],
)
async def test_a_malformed_event_fails_the_run(phone: Phone, event: Any) -> None:
    task = await started(phone.run())
    assert phone.event(event) == (False, True)
    await asyncio.sleep(0)
    cancel = await until_sent(phone, "$/cancelRequest")
    assert cancel["params"] == {"id": phone.read[0]["id"]}
    phone.answer(result={})
    assert (await failure_of(task)).kind == "runner_failed"


async def until_sent(phone: Phone, method: str) -> Any:
    for _ in range(1000):
        for message in phone.sent():
            if message["method"] == method:
                return message
        await asyncio.sleep(0)
    raise AssertionError(f"no {method}")


async def test_events_that_nobody_takes_fail_the_run_beyond_a_bound(phone: Phone) -> None:
    run = phone.run()
    first = asyncio.create_task(anext(run))
    await asyncio.sleep(0)
    phone.delta("first")
    assert await first == TextDelta(text="first")
    block = "x" * 1024 * 1024
    told = [phone.delta(block) for _ in range(9)]
    assert told[:7] == [(True, False)] * 7
    assert told[-1] == (False, True)
    phone.answer(result={})
    with pytest.raises(CarError) as caught:
        [item async for item in run]
    assert (caught.value.kind, caught.value.data["cause"]) == ("runner_failed", "backpressure")


async def test_what_was_taken_does_not_count_toward_the_bound(phone: Phone) -> None:
    task = await started(phone.run())
    block = "x" * (RUNNER_BUFFER_BYTES // 4)
    for _ in range(12):
        assert phone.delta(block) == (True, False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    phone.answer(result={})
    assert len(await task) == 13


@pytest.mark.parametrize(
    ("error", "kind", "data"),
    [
        (
            {"code": 5, "message": "m", "data": {"kind": "rate_limited", "retry_after_ms": 7}},
            "rate_limited",
            {"retry_after_ms": 7},
        ),
        ({"code": 5, "message": "m", "data": {"kind": "runner_declined"}}, "runner_declined", {}),
        ({"code": 5, "message": "m", "data": {"kind": "cancelled"}}, "cancelled", {}),
        (
            {"code": 5, "message": "m", "data": {"kind": "invented", "status": 500}},
            "runner_failed",
            {"status": 500},
        ),
        ({"code": 5, "message": "m", "data": "no object"}, "runner_failed", {}),
        ({"code": 5, "message": "m"}, "runner_failed", {}),
        ({"code": -32601, "message": "m"}, "no_runner", {}),
    ],
)
async def test_the_apps_error_is_taken_over(
    phone: Phone, error: dict[str, Any], kind: str, data: dict[str, Any]
) -> None:
    task = await started(phone.run())
    phone.answer(error=error)
    failure = await failure_of(task)
    assert failure.kind == kind
    assert failure.extra == data


async def test_an_answer_of_a_wrong_shape_fails_the_run(phone: Phone) -> None:
    task = await started(phone.run())
    phone.answer(result={"text": 5})
    assert (await failure_of(task)).kind == "runner_failed"


async def test_closing_cancels_the_run_in_the_app_and_waits_for_its_answer(phone: Phone) -> None:
    run = phone.run()
    first = asyncio.create_task(anext(run))
    await asyncio.sleep(0)
    phone.delta("a")
    await first
    closing = asyncio.create_task(run.aclose())
    await until_sent(phone, "$/cancelRequest")
    assert not closing.done()
    phone.answer(error={"code": -32800, "message": "cancelled"})
    async with asyncio.timeout(10):
        await closing
    assert phone.connection.pending.unexpected == 0


async def test_a_run_that_is_never_answered_ends_all_the_same_and_its_late_answer_is_dropped(
    phone: Phone, caplog: pytest.LogCaptureFixture
) -> None:
    task = await started(phone.run(deadline_ms=1))
    failure = await failure_of(task)
    assert (failure.kind, failure.message) == (
        "timeout",
        "timeout: the runner did not finish within 1 ms",
    )
    assert "did not answer a cancelled run" in caplog.text
    phone.answer(result={"text": "late"})
    assert phone.connection.pending.unexpected == 1
    assert phone.delta("late") == (False, True)


async def test_a_deadline_that_passes_while_nobody_reads_is_a_timeout_and_no_cancel(
    phone: Phone,
) -> None:
    over = asyncio.Event()

    async def slow_reader() -> None:
        async for _ in phone.run(deadline_ms=20):
            await over.wait()

    task = asyncio.create_task(slow_reader())
    await asyncio.sleep(0)
    phone.delta("a")
    await asyncio.sleep(0.02)  # timers go off in their order, and the run's was set before
    assert phone.delta("more") == (False, True)
    over.set()
    await until_sent(phone, "$/cancelRequest")
    phone.answer(result={})
    assert (await failure_of(task)).kind == "timeout"


async def test_the_end_of_the_input_fails_all_runs(phone: Phone) -> None:
    phone.host.register()
    tasks = [await started(phone.run(call_id)) for call_id in "ab"]
    phone.host.abandon()
    for task in tasks:
        assert (await failure_of(task)).kind == "runner_failed"
    assert not phone.host.registered
    assert [m["method"] for m in phone.sent()] == ["runner.run"] * 2


async def test_there_is_one_slot_and_runs_under_way_survive_its_change(phone: Phone) -> None:
    assert not phone.host.register()
    assert phone.host.register()
    task = await started(phone.run())
    phone.host.unregister()
    assert not phone.host.registered
    assert phone.delta("still") == (True, False)
    phone.answer(result={})
    assert await task == [TextDelta(text="still"), RunnerResult()]


# Through the whole session


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
