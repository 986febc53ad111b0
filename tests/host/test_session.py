import asyncio
import json
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.host.session import LOG_BUFFER_BYTES, STREAM_BUFFER_BYTES
from car_rpc.protocol.framing import wrap
from car_rpc.wire.methods import METHODS

DID_NOT_START = "internal error: the engine did not start; see the log"


async def test_the_core_introduces_itself(fresh: Any) -> None:
    answer = await fresh.call(0, "initialize", protocol_version=1, process_id=5)
    result = answer["result"]
    assert result["protocol_version"] == 1
    assert result["session_id"] == "ses_1"
    assert result["capabilities"]["backends"] == {"fake": {"available": True}}
    methods = set(result["capabilities"]["methods"])
    assert {"generate", "runner.event", "ping"} <= methods <= set(METHODS)
    assert "runner.run" not in methods
    assert set(result["capabilities"]["limits"]) == {
        "max_message_bytes",
        "max_depth",
        "max_in_flight",
        "runner_buffer_bytes",
        "max_batch",
    }
    assert fresh.introduced[0].process_id == 5


async def test_another_version_is_refused_and_the_right_one_still_accepted(fresh: Any) -> None:
    error = await fresh.failure(1, "initialize", protocol_version=2)
    assert (error["code"], error["data"]["supported"]) == (1024, [1])
    error = await fresh.failure(2, "initialize")
    assert (error["code"], error["data"]["path"]) == (-32602, "$.protocol_version")
    assert "result" in await fresh.call(3, "initialize", protocol_version=1)
    error = await fresh.failure(4, "initialize", protocol_version=1)
    assert (error["code"], error["data"]["kind"]) == (-32600, "malformed_message")
    assert len(fresh.introduced) == 1


async def test_a_ping_is_answered_before_the_introduction_and_while_the_engine_loads(
    fresh: Any,
) -> None:
    answer = await fresh.call(1, "ping")
    assert answer["result"] == {
        "in_flight": 1,
        "startup_ms": {"ready": 1.0},
        "runner": {"registered": False, "runs": 0, "late_events": 0},
    }
    fresh.request(2, "initialize", protocol_version=1)
    fresh.request(3, "models.list")
    assert (await fresh.call(4, "ping"))["result"]["in_flight"] == 2


async def test_requests_wait_for_the_engine_and_keep_their_order(fresh: Any) -> None:
    fresh.request("init", "initialize", protocol_version=1)
    for number in range(3):
        fresh.request(number, "models.get", model="echo")
    await fresh.answer("init")
    assert fresh.answered() == ["init"]
    fresh.loaded.set()
    await fresh.answer(2)
    assert fresh.answered() == ["init", 0, 1, 2]


async def test_a_request_that_waits_for_the_engine_can_be_cancelled(fresh: Any) -> None:
    fresh.request("init", "initialize", protocol_version=1)
    fresh.request(1, "generate", prompt="x", model="echo")
    fresh.request(2, "generate", prompt="x", model="echo")
    fresh.notify("$/cancelRequest", id=1)
    assert (await fresh.answer(1))["error"]["code"] == -32800
    fresh.loaded.set()
    assert (await fresh.answer(2))["result"]["text"] == "x"
    assert fresh.answered().count(1) == 1


async def test_a_request_that_is_cancelled_before_its_first_step_is_answered(app: Any) -> None:
    request = {"id": 1, "method": "generate", "params": {"prompt": "x", "model": "stall"}}
    app.send(request, {"method": "$/cancelRequest", "params": {"id": 1}})
    error = (await app.answer(1))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32800, "cancelled")


async def test_a_cancel_in_the_middle_keeps_what_there_was_and_comes_once(app: Any) -> None:
    app.request(1, "generate", prompt="x", model="stall", stream=True)
    await app.until(lambda m: m.get("params", {}).get("event", {}).get("type") == "text_delta")
    app.notify("$/cancelRequest", id=1)
    app.notify("$/cancelRequest", id=1)
    error = (await app.answer(1))["error"]
    assert error["data"]["partial"] == {"text": "so far", "tool_calls": [], "usage": None}
    assert app.events(1)[-1]["event"] == {
        "type": "error",
        "kind": "cancelled",
        "message": "cancelled",
    }
    app.notify("$/cancelRequest", id=1)
    await app.call(2, "ping")
    assert app.answered() == [1, 2]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (CarError("io_error", "the disk"), "io_error", "io error: the disk"),
        (
            RuntimeError("secret"),
            "internal",
            "internal error: the engine did not start; see the log",
        ),
    ],
)
async def test_an_engine_that_does_not_start_fails_every_request_but_not_the_process(
    fresh: Any, error: Exception, kind: str, text: str
) -> None:
    fresh.load_error = error
    fresh.request("init", "initialize", protocol_version=1)
    fresh.request(1, "models.list")
    fresh.loaded.set()
    for request_id in (1, 2):
        if request_id == 2:
            fresh.request(2, "generate", prompt="x")
        answer = await fresh.answer(request_id)
        assert (answer["error"]["data"]["kind"], answer["error"]["message"]) == (kind, text)
    assert "result" in await fresh.call(3, "ping")
    assert (await fresh.call(4, "shutdown"))["result"] is None


async def test_events_are_numbered_without_a_gap_and_come_before_the_response(app: Any) -> None:
    app.request(1, "generate", prompt="one two three", model="echo", stream=True, client_ref="r")
    result = (await app.answer(1))["result"]
    events = app.events(1)
    assert [e["seq"] for e in events] == list(range(len(events)))
    assert {e["client_ref"] for e in events} == {"r"}
    kinds = [e["event"]["type"] for e in events]
    assert kinds[0] == "attempt"
    assert kinds[-1] == "done"
    assert kinds.count("done") == 1
    text = "".join(e["event"].get("text", "") for e in events[:-1])
    assert text == result["text"] == "one two three"
    assert app.read()[-1]["id"] == 1


async def test_without_stream_there_are_no_events(app: Any) -> None:
    assert (await app.call(1, "generate", prompt="x", model="echo"))["result"]["text"] == "x"
    assert len(app.messages) == 1


async def test_a_slow_reader_holds_its_stream_and_nothing_else(app: Any) -> None:
    app.request(1, "generate", prompt="x", model="flood", stream=True)
    await app.method("generate.event")
    app.reading = False
    async with asyncio.timeout(10):
        while app.connection.stream_bytes(1) <= STREAM_BUFFER_BYTES:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    held = app.connection.stream_bytes(1)
    assert STREAM_BUFFER_BYTES < held < STREAM_BUFFER_BYTES + 10_000
    app.request(2, "ping")
    first = json.loads(app.connection.take_output(1).splitlines()[0])
    assert first["id"] == 2, "an answer never waits behind another stream"
    app.reading = True
    assert len((await app.answer(1))["result"]["text"]) == 2_000_000


async def test_a_progress_token_brings_a_begin_and_an_end_before_the_response(app: Any) -> None:
    await app.call(1, "generate", prompt="x", model="echo", progress_token="t")
    found = [m["params"] for m in app.messages if m.get("method") == "$/progress"]
    assert [(p["token"], p["value"]["kind"]) for p in found] == [("t", "begin"), ("t", "end")]
    assert app.messages[-1]["id"] == 1


async def test_unknown_methods_are_refused_and_unknown_notifications_ignored(app: Any) -> None:
    app.notify("nobody/knows")
    app.notify("$/nobody")
    app.notify("runner.event", call_id="nobody", event={})
    app.notify("generate", prompt="x")
    error = await app.failure(1, "nobody.knows")
    assert (error["code"], error["data"]["kind"]) == (-32601, "method_not_found")
    error = await app.failure(2, "runner.run")
    assert error["code"] == -32601
    assert app.answered() == [1, 2]
    assert app.sink.entries == []


async def test_shutdown_lets_work_finish_then_cancels_it_and_refuses_more(app: Any) -> None:
    app.request(1, "generate", prompt="x", model="stall")
    app.request(2, "generate", prompt="x", model="echo")
    app.request("bye", "shutdown")
    app.request(3, "models.list")
    assert (await app.answer("bye"))["result"] is None
    answers = {m["id"]: m for m in app.messages}
    assert answers[1]["error"]["data"]["kind"] == "cancelled"
    assert answers[2]["result"]["text"] == "x"
    assert answers[3]["error"]["data"]["kind"] == "shutting_down"
    assert app.answered()[-1] == "bye"


async def test_two_shutdowns_do_not_wait_for_each_other(app: Any) -> None:
    app.request(1, "shutdown")
    app.request(2, "shutdown")
    assert (await app.answer(1))["result"] is None
    assert (await app.answer(2))["result"] is None


async def test_leaving_right_after_shutdown_does_not_cancel_the_shutdown(app: Any) -> None:
    app.request(1, "generate", prompt="x", model="stall")
    app.request(2, "shutdown")
    app.session.cancel_all()
    await app.session.answered(5)
    assert (await app.answer(2))["result"] is None
    assert app.answered() == [1, 2]


async def test_a_shutdown_without_an_introduction_is_refused(fresh: Any) -> None:
    answer = await fresh.call(1, "shutdown")
    assert answer["error"]["data"]["kind"] == "not_initialized"


async def test_the_exit_code_tells_whether_shutdown_came_before(app: Any) -> None:
    app.notify("exit")
    await app.call(1, "shutdown")
    app.notify("exit")
    assert app.exit_codes == [1, 0]


async def test_pretty_printed_parameters_reach_the_runner_on_one_line(
    fresh: Any,
) -> None:
    fresh.loaded.set()
    generate = (
        b'{"jsonrpc":"2.0","id":3,"method":"generate",\r\n"params":{\n"prompt":"a",\n'
        b'"x":[1,\n2.50],\n"model":"app"}}'
    )
    for message in (
        b'{"jsonrpc":"2.0","id":1,"method":"initialize",\n"params":{"protocol_version":1}}',
        b'{"jsonrpc":"2.0","id":2,"method":"runner.register"}',
        generate,
    ):
        fresh.session.receive(wrap(message, "lsp"))
    output = b""
    async with asyncio.timeout(10):
        while b"runner.run" not in output:
            await asyncio.sleep(0)
            output += fresh.connection.take_output(1 << 20)
    body = output.rpartition(b"\r\n\r\n")[2]
    assert b"\n" not in body
    assert b'"request":{"prompt":"a","x":[1,2.50],"model":"app"}' in body
    fresh.runner.abandon()
    await fresh.session.answered(5)


async def test_a_batch_is_answered_in_one_array_after_its_streams(app: Any) -> None:
    entries = [
        {"jsonrpc": "2.0", "id": n, "method": "generate", "params": params}
        for n, params in enumerate(
            [
                {"prompt": "a b", "model": "echo", "stream": True},
                {"prompt": "x", "model": "nobody"},
                {"prompt": "c", "model": "echo"},
            ]
        )
    ]
    app.session.receive(json.dumps(entries).encode() + b"\n")
    array = await app.until(lambda message: isinstance(message, list))
    assert app.messages[-1] is array
    assert sorted(m["id"] for m in array) == [0, 1, 2]
    assert all(m["method"] == "generate.event" for m in app.messages[:-1])


async def test_the_end_of_the_input_delivers_the_last_line(app: Any) -> None:
    app.session.receive(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    app.session.receive_eof()
    assert "result" in await app.answer(1)


async def test_log_lines_reach_a_client(app: Any) -> None:
    app.session.send_log(b'{"level":"info","message":"m","source":"s"}')
    assert (await app.method("log"))["params"]["message"] == "m"


async def test_a_second_introduction_is_refused_whatever_it_holds(app: Any) -> None:
    for request_id, params in enumerate([{}, {"protocol_version": "x"}, {"protocol_version": 2}]):
        error = await app.failure(request_id, "initialize", **params)
        assert (error["code"], error["data"]["kind"]) == (-32600, "malformed_message")


async def test_log_lines_that_nobody_reads_are_bounded_and_hold_up_nothing(app: Any) -> None:
    line = json.dumps({"level": "info", "message": "x" * 8000, "source": "s"}).encode()
    app.reading = False
    for _ in range(2 * app.connection._max_unread // len(line)):
        app.session.send_log(line)
    assert app.connection.wants_input
    app.reading = True
    held = sum(len(json.dumps(message)) for message in app.read())
    assert LOG_BUFFER_BYTES / 2 < held < LOG_BUFFER_BYTES + 2 * len(line)
    app.session.send_log(line.replace(b"x" * 8000, b"the next one"))
    assert app.read()[-1]["params"]["message"] == "the next one"
