import asyncio
import json
import threading
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.host import attachments
from car_rpc.host.session import LOG_BUFFER_BYTES, STREAM_BUFFER_BYTES
from car_rpc.protocol.connection import Connection
from car_rpc.protocol.framing import wrap
from car_rpc.wire.methods import METHODS
from tests.host.conftest import App
from tests.process.conftest import check_stream, text_of

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


NOTHING = {"text": "", "tool_calls": [], "usage": None}


def check_never_began(app: Any, answer: Any, kind: str, **members: Any) -> None:
    """Its stream is one `error` of the kind of its response, before it."""
    error = answer["error"]
    assert error["data"]["kind"] == kind
    assert app.events(answer["id"]) == [
        {
            "request_id": answer["id"],
            "seq": 0,
            "event": {"type": "error", "kind": kind, "message": error["message"]},
            **members,
        }
    ]
    assert app.messages.index(answer) > next(
        index
        for index, message in enumerate(app.messages)
        if message.get("params", {}).get("request_id") == answer["id"]
    )


def streamed(request_id: Any, **params: Any) -> dict[str, Any]:
    params = {"prompt": "x", "model": "stall", "stream": True, **params}
    return {"id": request_id, "method": "generate", "params": params}


def cancel(request_id: Any) -> dict[str, Any]:
    return {"method": "$/cancelRequest", "params": {"id": request_id}}


async def check_cancelled(app: Any, request_id: Any, **members: Any) -> None:
    answer = await app.answer(request_id)
    assert answer["error"]["code"] == -32800
    assert answer["error"]["data"]["partial"] == NOTHING
    check_never_began(app, answer, "cancelled", **members)
    await app.call("later", "ping")
    assert app.answered().count(request_id) == 1


async def test_a_stream_that_is_cancelled_in_one_write_with_its_request_has_its_end(
    app: Any,
) -> None:
    app.send(streamed(1), cancel(1))
    error = (await app.answer(1))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32800, "cancelled")
    check_stream(app.events(1), "error")
    assert error["data"]["partial"] == {**NOTHING, "text": text_of(app.events(1))}


async def test_a_stream_that_is_cancelled_while_the_engine_loads_has_its_end(fresh: Any) -> None:
    fresh.request("init", "initialize", protocol_version=1)
    fresh.send(streamed(1, client_ref=5), cancel(1))
    await check_cancelled(fresh, 1)


async def test_a_stream_that_is_cancelled_behind_a_registration_has_its_end(app: Any) -> None:
    model = {
        "id": "t/new:1",
        "source": {"type": "fake", "script": []},
        "capabilities": ["generate"],
    }
    register = {"id": "new", "method": "models.register", "params": {"model": model}}
    app.send(register, streamed(1, client_ref="r"), cancel(1))
    await check_cancelled(app, 1, client_ref="r")
    assert "result" in await app.answer("new")


async def test_a_stream_that_is_cancelled_while_files_are_read_has_its_end(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def read(*_: Any) -> bytes:
        reading.set()
        go_on.wait(10)
        return b""

    monkeypatch.setattr(attachments, "_read", read)
    path = str(app.services.allowed_roots[0] / "x.png")
    app.send(streamed(1, images=[{"type": "image", "source": {"type": "path", "path": path}}]))
    await asyncio.to_thread(reading.wait, 10)
    app.send(cancel(1))
    try:
        await check_cancelled(app, 1)
    finally:
        go_on.set()
    completion = app.sink.entries[-1]
    assert (completion.type, completion.data["kind"]) == ("completion", "cancelled")


async def test_a_cancelled_request_that_wants_no_stream_has_no_events(fresh: Any) -> None:
    fresh.request("init", "initialize", protocol_version=1)
    fresh.send(streamed(1, stream=False), cancel(1))
    assert (await fresh.answer(1))["error"]["data"]["partial"] == NOTHING
    assert fresh.events(1) == []


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"model": "nobody"}, "model_not_found"),
        ({"params": {"temperature": "hot"}}, "invalid_params"),
        ({"client_ref": 5}, "invalid_params"),
        ({"resume_trace_id": "tr_none"}, "not_found"),
        (
            {"images": [{"type": "image", "source": {"type": "path", "path": "/etc/hosts"}}]},
            "policy_denied",
        ),
    ],
)
async def test_a_stream_that_fails_before_it_began_has_its_end(
    app: Any, params: dict[str, Any], kind: str
) -> None:
    app.send(streamed(1, **params))
    check_never_began(app, await app.answer(1), kind)


async def test_a_stream_that_is_refused_has_its_end(registry: Any, tmp_path: Any) -> None:
    app = App(registry, tmp_path, Connection(max_in_flight=1))
    app.send(streamed("early"))
    check_never_began(app, await app.answer("early"), "not_initialized")
    app.loaded.set()
    await app.call("init", "initialize", protocol_version=1)
    await app.call("warm", "models.list")
    app.send(streamed(1), streamed(2, client_ref="r"), streamed(1))
    check_never_began(app, await app.answer(2), "overloaded", client_ref="r")
    duplicate = await app.answer(1)
    assert duplicate["error"]["data"]["kind"] == "duplicate_id"
    app.request("bye", "shutdown")
    app.send(streamed(3))
    check_never_began(app, await app.answer(3), "shutting_down")
    assert (await app.answer("bye"))["result"] is None
    types = [params["event"]["type"] for params in app.events(1)]
    assert types == ["attempt", "text_delta", "error"], "the duplicate has no part in it"
    assert app.session._streams == {}


async def test_a_stream_whose_wish_cannot_be_read_has_no_events(app: Any) -> None:
    for request_id, stream in enumerate(["yes", 1, None, [True]]):
        app.send(streamed(request_id, stream=stream))
        error = (await app.answer(request_id))["error"]
        assert error["data"]["path"] == "$.stream"
        assert app.events(request_id) == []
    app.send({"id": "array", "method": "generate", "params": [True]})
    assert (await app.answer("array"))["error"]["data"]["kind"] == "invalid_params"
    assert app.events("array") == []


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
            fresh.send(streamed(2))
        answer = await fresh.answer(request_id)
        assert (answer["error"]["data"]["kind"], answer["error"]["message"]) == (kind, text)
    check_never_began(fresh, answer, kind)
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
