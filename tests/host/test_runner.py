import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest

from car_rpc.backends.delegated import RunItem
from car_rpc.errors import KINDS, CarError
from car_rpc.host.runner import (
    CANCEL_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    REQUEST_BYTES,
    RUNNER_BUFFER_BYTES,
    RUNNER_ROOM_BYTES,
    RunnerHost,
)
from car_rpc.host.waiting import Waiting
from car_rpc.protocol.connection import Answered, Connection
from car_rpc.protocol.messages import Response
from car_rpc.wire.events import Heartbeat, TextDelta
from car_rpc.wire.runner import (
    RunnerEventParams,
    RunnerEventResult,
    RunnerResult,
    RunnerRunParams,
)
from tests.host.conftest import LoopClock


class Phone:
    """A runner host with its connection, and the app at the other end of it."""

    def __init__(self) -> None:
        self.connection: Connection[Waiting] = Connection()
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
        """Notify; returns what a request would have been told."""
        result = self.host.event(params(event, call_id), wants_reply=False)
        assert isinstance(result, RunnerEventResult)
        return result.emitted, result.closed

    def ask(self, text: str, call_id: str = "c") -> Any:
        """Send a delta as a request; its reply, or the future of a withheld one."""
        event = {"type": "text_delta", "text": text}
        return self.host.event(params(event, call_id), wants_reply=True)

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


def params(event: Any, call_id: str) -> RunnerEventParams:
    return RunnerEventParams(call_id=call_id, event=msgspec.Raw(json.dumps(event).encode()))


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
        run.answer(Response(None, b"{}", None))
    assert [await first, await second] == [
        [TextDelta(text="1"), RunnerResult()],
        [TextDelta(text="2"), RunnerResult()],
    ]


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
    ("event", "path"),
    [
        ({"type": "text_delta"}, "$.event.text"),
        ({"type": "text_delta", "text": 5}, "$.event.text"),
        ({"text": "x"}, "$.event.type"),
        ([], "$.event"),
        (None, "$.event"),
        (1, "$.event"),
        ({"type": 5}, "$.event.type"),
        ({"type": "usage", "prompt_tokens": -1}, "$.event.prompt_tokens"),
        ({"type": "tool_call_start", "id": "a", "name": "b"}, "$.event.index"),
        (
            {"type": "done", "tool_calls": [{"id": "a", "name": "b"}]},
            "$.event.tool_calls[0].arguments",
        ),
    ],
)
async def test_a_malformed_event_fails_the_run_and_names_the_field(
    phone: Phone, event: Any, path: str
) -> None:
    task = await started(phone.run())
    assert phone.event(event) == (False, True)
    (_, cancel) = phone.sent()  # at once, not when somebody reads of it
    assert cancel["params"] == {"id": phone.read[0]["id"]}
    phone.answer(result={"text": "too late"})
    failure = await failure_of(task)
    assert (failure.kind, failure.data["path"]) == ("runner_failed", path)
    assert failure.message.startswith("runner failed: a runner event is malformed: ")
    assert failure.message.endswith(f"at `{path}`")


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
    ("data", "kind", "extra"),
    [
        ({"kind": "rate_limited", "retry_after_ms": 7}, "rate_limited", {"retry_after_ms": 7}),
        ({"kind": "runner_declined"}, "runner_declined", {}),
        ({"kind": "cancelled"}, "cancelled", {}),
        ({"kind": "provider_error", "retryable": False}, "provider_error", {"retryable": False}),
        ({"kind": "invented", "status": 500}, "runner_failed", {"status": 500}),
        ({"kind": "duplicate_id"}, "runner_failed", {}),  # it would speak of the client's own
        ({"kind": 5, "status": "500", "retryable": 1}, "runner_failed", {}),
        ({"kind": "overloaded", "status": None, "retry_after_ms": True}, "overloaded", {}),
        ({}, "runner_failed", {}),
        ("no object", "runner_failed", {}),
        (["no object"], "runner_failed", {}),
        (0, "runner_failed", {}),
        (None, "runner_failed", {}),
    ],
)
@pytest.mark.parametrize("code", [5, -32603, -32800])
async def test_the_apps_error_is_taken_over_whatever_its_code(
    phone: Phone, code: int, data: Any, kind: str, extra: dict[str, Any]
) -> None:
    task = await started(phone.run())
    phone.answer(error={"code": code, "message": "m", "data": data})
    failure = await failure_of(task)
    assert (failure.kind, failure.extra) == (kind, extra)
    assert failure.retryable == failure.data["retryable"] == extra.get("retryable", TABLE[kind])


TABLE = {name: row.retryable for name, row in KINDS.items()}


@pytest.mark.parametrize(
    ("kind", "message", "text"),
    [
        ("runner_declined", "no provider for x", "runner declined: no provider for x"),
        ("runner_declined", "runner declined: no provider", "runner declined: no provider"),
        ("rate_limited", "slow", "rate limited: slow"),
        ("invented", "oh", "runner failed: oh"),
        ("cancelled", "whatever", "cancelled"),
    ],
)
async def test_the_text_is_that_of_the_kind_once(
    phone: Phone, kind: str, message: str, text: str
) -> None:
    task = await started(phone.run())
    phone.answer(error={"code": 5, "message": message, "data": {"kind": kind}})
    assert (await failure_of(task)).message == text


@pytest.mark.parametrize("data", [None, {}, {"kind": "method_not_found"}])
async def test_an_app_that_does_not_know_the_method_is_no_runner(phone: Phone, data: Any) -> None:
    task = await started(phone.run())
    phone.answer(error={"code": -32601, "message": "m", "data": data})
    assert (await failure_of(task)).kind == "no_runner"


async def test_an_answer_of_a_wrong_shape_fails_the_run(phone: Phone) -> None:
    task = await started(phone.run())
    phone.answer(result={"text": 5})
    failure = await failure_of(task)
    assert (failure.kind, failure.data["path"]) == ("runner_failed", "$.text")


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


# Time


async def test_a_run_that_is_never_answered_ends_all_the_same_and_its_late_answer_is_dropped(
    phone: Phone, clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    task = await started(phone.run(deadline_ms=300_000))
    await clock.advance(299)
    assert not task.done()
    await clock.advance(2)
    assert phone.sent()[-1]["method"] == "$/cancelRequest"
    assert not task.done(), "the app may still confirm"
    await clock.advance(CANCEL_TIMEOUT_S)
    failure = await failure_of(task)
    assert (failure.kind, failure.message) == (
        "timeout",
        "timeout: the runner did not finish within 300000 ms",
    )
    assert "did not answer a cancelled run" in caplog.text
    assert phone.host.status().runs == 0
    assert phone.connection.pending.drain() == []
    for _ in range(2):
        phone.answer(result={"text": "late"})
    assert phone.connection.pending.unexpected == 2
    assert phone.delta("late") == (False, True)


async def test_an_answer_after_the_deadline_only_confirms_it(
    phone: Phone, clock: LoopClock
) -> None:
    task = await started(phone.run(deadline_ms=1000))
    await clock.advance(1.5)
    phone.answer(result={"text": "late"})
    assert (await failure_of(task)).kind == "timeout"


async def test_a_deadline_that_passes_while_nobody_reads_is_told_to_the_app_at_once(
    phone: Phone, clock: LoopClock
) -> None:
    over = asyncio.Event()
    read: list[RunItem] = []

    async def slow_reader() -> None:
        async for item in phone.run(deadline_ms=1000):
            read.append(item)
            await over.wait()

    task = asyncio.create_task(slow_reader())
    await asyncio.sleep(0)
    phone.delta("a")
    phone.delta("b")
    await clock.advance(1.5)
    assert phone.sent()[-1]["method"] == "$/cancelRequest"
    assert phone.delta("more") == (False, True)
    phone.answer(result={"text": "late"})
    over.set()
    assert (await failure_of(task)).kind == "timeout"
    assert read == [TextDelta(text="a"), TextDelta(text="b")]


async def test_a_runner_that_has_begun_and_says_nothing_more_is_stalled(
    phone: Phone, clock: LoopClock
) -> None:
    task = await started(phone.run(deadline_ms=3_600_000))
    await clock.advance(IDLE_TIMEOUT_S * 2)
    assert not task.done(), "before its first event only the deadline holds"
    for event in (
        {"type": "text_delta", "text": "a"},
        {"type": "heartbeat"},
        {"type": "hologram"},
        {"type": "heartbeat"},
    ):
        phone.event(event)
        await clock.advance(IDLE_TIMEOUT_S - 10)
        assert not task.done()
    await clock.advance(15)
    phone.answer(error={"code": -32800, "message": "cancelled"})
    failure = await failure_of(task)
    assert (failure.kind, failure.message, failure.data["cause"]) == (
        "stream_interrupted",
        "stream interrupted (idle stall)",
        "idle_stall",
    )


async def test_a_runner_whose_replies_are_withheld_is_not_idle(
    phone: Phone, clock: LoopClock
) -> None:
    run = phone.run(deadline_ms=300_000)
    first = asyncio.create_task(anext(run))
    await asyncio.sleep(0)
    withheld = phone.ask("x" * RUNNER_ROOM_BYTES)
    await first
    phone.delta("unread")
    await clock.advance(IDLE_TIMEOUT_S * 2)
    assert await anext(run) == TextDelta(text="unread"), "it is the client who reads slowly"
    assert withheld.done()
    second = asyncio.create_task(anext(run))
    await clock.advance(IDLE_TIMEOUT_S - 1)
    assert not second.done(), "its time begins when everything is read"
    await clock.advance(2)
    phone.answer(result={})
    assert (await failure_of(second)).kind == "stream_interrupted"


# Flow control


async def reading(phone: Phone) -> AsyncGenerator[RunItem, None]:
    """A run whose first event is read, and none of the next."""
    run = phone.run()
    first = asyncio.create_task(anext(run))
    await asyncio.sleep(0)
    phone.delta("first")
    await first
    return run


def told(future: Any) -> tuple[bool, bool]:
    result = json.loads(future.result())
    return result["emitted"], result["closed"]


async def test_the_reply_to_an_event_waits_for_room(phone: Phone) -> None:
    run = await reading(phone)
    assert phone.ask("a") == RunnerEventResult(emitted=True, closed=False)
    held = [phone.ask("x" * RUNNER_ROOM_BYTES), phone.ask("b")]
    assert phone.delta("notified") == (True, False)
    texts = [await anext(run)]
    assert not any(future.done() for future in held)
    texts.append(await anext(run))
    assert [told(future) for future in held] == [(True, False)] * 2
    texts += [await anext(run), await anext(run)]
    assert texts == [
        TextDelta(text=text) for text in ("a", "x" * RUNNER_ROOM_BYTES, "b", "notified")
    ]
    assert phone.ask("c") == RunnerEventResult(emitted=True, closed=False)
    phone.answer(result={})
    assert [item async for item in run] == [TextDelta(text="c"), RunnerResult()]


@pytest.mark.parametrize(
    "end",
    [
        lambda phone: phone.answer(result={}),
        lambda phone: phone.answer(error={"code": 5, "message": "m"}),
        lambda phone: phone.event({"type": "text_delta", "text": 5}),
        lambda phone: phone.host.abandon(),
    ],
    ids=["answer", "error", "malformed event", "end of the input"],
)
async def test_withheld_replies_are_given_when_the_run_ends(
    phone: Phone, end: Callable[[Phone], Any]
) -> None:
    run = await reading(phone)
    held = [phone.ask("x" * RUNNER_ROOM_BYTES), phone.ask("b")]
    end(phone)
    assert [told(future) for future in held] == [(True, True)] * 2
    phone.host.abandon()
    with contextlib.suppress(CarError):
        assert len([item async for item in run]) == 3


async def test_withheld_replies_are_given_at_the_deadline(phone: Phone, clock: LoopClock) -> None:
    run = await reading(phone)
    held = phone.ask("x" * RUNNER_ROOM_BYTES)
    await clock.advance(61)
    assert told(held) == (True, True)
    phone.answer(result={})
    with pytest.raises(CarError, match="did not finish"):
        [item async for item in run]


async def test_withheld_replies_are_given_when_the_run_is_cancelled(phone: Phone) -> None:
    run = await reading(phone)
    held = phone.ask("x" * RUNNER_ROOM_BYTES)
    closing = asyncio.create_task(run.aclose())
    await until_sent(phone, "$/cancelRequest")
    assert told(held) == (False, True), "nobody will read that event"
    phone.answer(result={})
    await closing


async def test_a_reply_that_the_app_gave_up_holds_up_nothing(phone: Phone) -> None:
    run = await reading(phone)
    held = phone.ask("x" * RUNNER_ROOM_BYTES)
    held.cancel()
    phone.answer(result={})
    assert len([item async for item in run]) == 2, "the event itself was taken"


async def test_requests_that_nobody_awaits_fail_the_run_at_the_same_bound(phone: Phone) -> None:
    run = await reading(phone)
    phone.ask("x" * RUNNER_ROOM_BYTES)
    held = []
    while isinstance(reply := phone.ask(""), asyncio.Future):
        held.append(reply)
    assert reply == RunnerEventResult(emitted=True, closed=True)
    assert len(held) * REQUEST_BYTES < RUNNER_BUFFER_BYTES
    assert {told(future) for future in held} == {(True, True)}
    phone.answer(result={})
    with pytest.raises(CarError) as caught:
        [item async for item in run]
    assert caught.value.data["cause"] == "backpressure"


async def test_events_between_a_cancel_and_its_confirmation_are_counted(phone: Phone) -> None:
    run = await reading(phone)
    closing = asyncio.create_task(run.aclose())
    await until_sent(phone, "$/cancelRequest")
    assert phone.delta("late") == (False, True)
    assert phone.ask("late") == RunnerEventResult(emitted=False, closed=True)
    assert not closing.done()
    assert (phone.host.status().runs, phone.host.status().late_events) == (1, 2)
    phone.answer(result={})
    await closing
    assert (phone.host.status().runs, phone.connection.pending.unexpected) == (0, 0)


async def test_a_second_cancel_cuts_the_waiting_short_and_leaves_nothing(phone: Phone) -> None:
    task = await started(phone.run())
    for _ in range(2):
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
    assert task.cancelled()
    assert phone.connection.pending.drain() == []
    assert phone.host.status().runs == 0


# The slot


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
