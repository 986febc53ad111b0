"""The wire, byte by byte: whatever comes in, each request gets its one answer and the rest goes on.

Every test here shares one process per way to speak to it, and ends with a ping: the connection
has to outlive them all.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.conftest import (
    IN_WORKER,
    Core,
    StartCore,
    check_stream,
    event,
    is_response,
    request,
    text_of,
)

pytestmark = pytest.mark.process

LIMIT = 1024 * 1024

#: Framing, kind of descriptors, and whether threads move the bytes. Lines over polled pipes are
#: what all other tests use.
WAYS: dict[str, dict[str, Any]] = {
    "ndjson-pipes-threads": {"env": {"CAR_RPC_THREAD_IO": "1"}},
    "ndjson-sockets": {"io": "sockets"},
    "lsp-pipes": {"framing": "lsp"},
    "lsp-sockets-threads": {
        "framing": "lsp",
        "io": "sockets",
        "env": {"CAR_RPC_THREAD_IO": "1"},
    },
}


@pytest.fixture(scope="module", params=WAYS)
def lasting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Core]:
    state_dir = tmp_path_factory.mktemp("wire") / "state"
    core = Core(state_dir, "--max-message-bytes", str(LIMIT), **WAYS[request.param])
    core.initialize()
    core.fake("t/echo:core", {"echo": True})
    core.fake("t/echo:worker", IN_WORKER, {"echo": True})
    core.fake("t/stall:core", event("a"), event("b"), {"stall": True})
    core.fake("t/stall:worker", IN_WORKER, event("a"), event("b"), {"stall": True})
    core.fake("t/long:core", {**event("x"), "repeat": 5000})
    core.fake("t/long:worker", IN_WORKER, {**event("x"), "repeat": 5000})
    core.fake("t/fail:core", event("a"), {"fail": {"kind": "rate_limited", "retry_after_ms": 5}})
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()


@pytest.fixture
def core(lasting: Core) -> Iterator[Core]:
    yield lasting
    lasting.ping()


lines_only = pytest.mark.parametrize(
    "lasting", [way for way in WAYS if way.startswith("ndjson")], indirect=True
)
headers_only = pytest.mark.parametrize(
    "lasting", [way for way in WAYS if way.startswith("lsp")], indirect=True
)


def in_message(member: bytes, request_id: bytes = b'"bad"') -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"method":"ping","params":{"a":%b}}' % (request_id, member)


def nested(depth: int) -> bytes:
    """A message with arrays and objects `depth` levels deep."""
    return in_message(b"[" * (depth - 2) + b"]" * (depth - 2))


#: Bytes of one message, the id of its answer, and the answer's kind (None: a result).
CATALOGUE: dict[str, tuple[bytes, object, str | None]] = {
    "garbage": (b"\x00\xff\xfe\x80 what", None, "parse_error"),
    "text of a careless library": (b"hello world", None, "parse_error"),
    "cut object": (b'{"jsonrpc":"2.0","id":"cut","method":"ping",', "cut", "parse_error"),
    "cut string": (b'{"jsonrpc":"2.0","id":"cut', None, "parse_error"),
    "number": (b"42", None, "malformed_message"),
    "string": (b'"ping"', None, "malformed_message"),
    "null": (b"null", None, "malformed_message"),
    "no method": (b'{"jsonrpc":"2.0","id":"bad"}', "bad", "malformed_message"),
    "other version": (b'{"jsonrpc":"1.0","id":"bad","method":"ping"}', "bad", "malformed_message"),
    "method is a number": (b'{"jsonrpc":"2.0","id":"bad","method":1}', "bad", "malformed_message"),
    "empty batch": (b"[]", None, "malformed_message"),
    "cut batch": (b"[1,", None, "parse_error"),
    "oversize batch": (b"[" + b",".join([b"1"] * 1001) + b"]", None, "malformed_message"),
    "bad UTF-8 in a value": (in_message(b'"\xff"'), "bad", "parse_error"),
    "bad UTF-8 in a key": (in_message(b'{"\xff":1}'), "bad", "parse_error"),
    "overlong UTF-8": (in_message(b'"\xc0\xaf"'), "bad", "parse_error"),
    "surrogate in UTF-8": (in_message(b'"\xed\xa0\x80"'), "bad", "parse_error"),
    "NaN": (in_message(b"NaN"), "bad", "parse_error"),
    "Infinity": (in_message(b"-Infinity"), "bad", "parse_error"),
    "deep": (nested(129), "bad", "parse_error"),
    "very deep": (in_message(b"[" * 200_000), "bad", "parse_error"),
    "unbalanced": (in_message(b"]]]]"), "bad", "parse_error"),
    "oversize": (in_message(b'"%b"' % (b"x" * LIMIT)), "bad", "message_too_large"),
    "id null": (in_message(b"1", b"null"), None, "malformed_message"),
    "id true": (in_message(b"1", b"true"), None, "malformed_message"),
    "id 1.5": (in_message(b"1", b"1.5"), None, "malformed_message"),
    "id object": (in_message(b"1", b"{}"), None, "malformed_message"),
    "id 2^53": (in_message(b"1", b"%d" % 2**53), None, "malformed_message"),
    "id 2^63": (in_message(b"1", b"%d" % 2**63), None, "malformed_message"),
    "id 10^400": (in_message(b"1", b"1" + b"0" * 400), None, "malformed_message"),
    "id 0": (in_message(b"1", b"0"), 0, None),
    "id empty": (in_message(b"1", b'""'), "", None),
    "id 1": (in_message(b"1", b"1"), 1, None),
    "id '1'": (in_message(b"1", b'"1"'), "1", None),
    "id largest": (in_message(b"1", b"%d" % (2**53 - 1)), 2**53 - 1, None),
    "id smallest": (in_message(b"1", b"%d" % (1 - 2**53)), 1 - 2**53, None),
    "id emoji": (in_message(b"1", '"\N{GRINNING FACE}"'.encode()), "\N{GRINNING FACE}", None),
    "id line separator": (in_message(b"1", '"\u2028"'.encode()), "\u2028", None),
    "deepest": (nested(128), "bad", None),
    "largest": (in_message(b'"%b"' % (b"x" * (LIMIT - 100))), "bad", None),
    "a message inside": (in_message(b'{"jsonrpc":"2.0","method":"x","id":9}'), "bad", None),
    "brackets in a string": (in_message(b'"%b"' % (b"[" * 500)), "bad", None),
    "NUL escape": (in_message(rb'"\u0000"'), "bad", None),
    "surrogate pair": (in_message(rb'"\ud83d\ude00"'), "bad", None),
    "duplicate keys": (in_message(b'1,"a":2'), "bad", None),
    "response to nothing": (b'{"jsonrpc":"2.0","id":"car-9","result":{}}', ..., None),
    "notification": (b'{"jsonrpc":"2.0","method":"no/such","params":{}}', ..., None),
    "request without id": (b'{"jsonrpc":"2.0","method":"ping"}', ..., None),
    "malformed cancel": (b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":3}', ..., None),
    "cancel of nothing": (
        b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"no"}}',
        ...,
        None,
    ),
}


def answers_to(core: Core, data: bytes) -> list[Any]:
    """Everything that some bytes are answered with, told by the ping behind them."""
    since = len(core.messages)
    core.send_raw(data)
    ping = core.ask("ping")
    answer = core.response(ping, since)
    return [m for m in core.messages[since:] if m is not answer]


@pytest.mark.parametrize("case", CATALOGUE)
def test_each_message_gets_its_one_answer(core: Core, case: str) -> None:
    payload, request_id, kind = CATALOGUE[case]
    answers = answers_to(core, core.wrap_raw(payload))
    if request_id is ...:
        assert answers == []
        return
    (answer,) = answers
    assert answer["id"] == request_id
    assert type(answer["id"]) is type(request_id)
    assert answer.get("error", {"data": {"kind": None}})["data"]["kind"] == kind


#: Method and params of a request that is well-formed and wrong, the kind, and words of the text.
WRONG: dict[str, tuple[str, Any, str, str]] = {
    "unknown method": ("no.such", {}, "method_not_found", "no.such"),
    "method of ours": ("generate.event", {}, "method_not_found", "generate.event"),
    "params are an array": ("models.get", ["x"], "invalid_params", "`$`"),
    "params are a string": ("models.get", "x", "invalid_params", "`$`"),
    "field missing": ("models.get", {"a": 1}, "invalid_params", "`$.model`"),
    "field of another type": ("models.get", {"model": 5}, "invalid_params", "`$.model`"),
    "nested field": (
        "generate",
        {"prompt": "x", "params": {"temperature": "hot"}},
        "invalid_params",
        "`$.params.temperature`",
    ),
    "out of range": (
        "generate",
        {"prompt": "x", "params": {"top_p": 2}},
        "invalid_params",
        "`$.params.top_p`",
    ),
    "unknown member of an enum": (
        "generate",
        {"prompt": "x", "params": {"thinking": "maybe"}},
        "invalid_params",
        "`$.params.thinking`",
    ),
    "unknown member of a union": (
        "generate",
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        "invalid_params",
        "`$.messages[0].content",
    ),
    "no prompt": ("generate", {"model": "t/echo:core"}, "invalid_params", "`$.prompt`"),
    "unknown model": ("generate", {"prompt": "x", "model": "no/such:1"}, "model_not_found", "no/"),
    "wrong capability": ("embed", {"texts": ["x"], "model": "t/echo:core"}, "", "Embed"),
    "model id without a variant": (
        "models.register",
        {"model": {"id": "x", "source": {"type": "fake", "script": []}, "capabilities": ["embed"]}},
        "invalid_params",
        "`$.model.id`",
    ),
    "script with two actions": (
        "models.register",
        {
            "model": {
                "id": "t/x:1",
                "source": {"type": "fake", "script": [{"echo": True, "stall": True}]},
                "capabilities": ["generate"],
            }
        },
        "invalid_params",
        "`$.model.source.script`",
    ),
    "built-in model": (
        "models.unregister",
        {"model": "demo/tiny-chat:gguf"},
        "conflict",
        "demo/tiny-chat:gguf",
    ),
    "unknown model to forget": ("models.unregister", {"model": "no/such:1"}, "model_not_found", ""),
    "time that is none": ("eventlog.query", {"since": "soon"}, "invalid_params", "`$.since`"),
    "event of no run": ("runner.event", {"event": {"type": "x"}}, "invalid_params", "`$.call_id`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_says_what_is_wrong(core: Core, case: str) -> None:
    method, params, kind, words = WRONG[case]
    error = core.fail(method, params)
    assert error["data"]["kind"] == kind or not kind
    assert words in error["message"]
    if kind == "invalid_params":
        assert error["code"] == -32602
        assert words.strip("`") in error["data"]["path"]
    assert "Traceback" not in json.dumps(error)


def test_a_lone_surrogate_is_answered(core: Core) -> None:
    raw = rb'{"jsonrpc":"2.0","id":"bad","method":"models.get","params":{"model":"\ud800"}}'
    (answer,) = answers_to(core, core.wrap_raw(raw))
    assert answer["id"] == "bad"
    assert answer["error"]["data"]["kind"] in {"invalid_params", "parse_error", "model_not_found"}


def test_a_message_may_come_byte_by_byte(core: Core) -> None:
    for byte in core.wrap(request("slow", "ping")):
        core.send_raw(bytes([byte]))
    core.response("slow")


def test_many_messages_may_come_in_one_write(core: Core) -> None:
    since = len(core.messages)
    ids = [f"many-{index}" for index in range(500)]
    core.send(*(request(each, "ping") for each in ids))
    core.response(ids[-1], since)
    assert [m["id"] for m in core.messages[since:]] == ids


@lines_only
def test_crlf_blank_lines_and_space_are_accepted(core: Core) -> None:
    (answer,) = answers_to(core, b'\r\n\n  \n {"jsonrpc":"2.0",  "id":"crlf","method":"ping"} \r\n')
    assert answer["id"] == "crlf"


@headers_only
def test_headers_come_in_many_forms(core: Core) -> None:
    payload = json.dumps(request("header", "ping")).encode()
    for header in (
        b"content-length: %d\r\n\r\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: %d\r\n\r\n",
        b"Content-Length:%d\n\n",
    ):
        (answer,) = answers_to(core, header % len(payload) + payload)
        assert answer["id"] == "header"


@headers_only
def test_noise_before_a_header_is_reported_and_the_message_behind_it_served(core: Core) -> None:
    answers = answers_to(core, b"hello world\n" + core.wrap(request("behind", "ping")))
    assert [(a["id"], "error" in a) for a in answers] == [(None, True), ("behind", False)]


# Batches


def test_a_batch_gets_one_array_in_the_end(core: Core) -> None:
    since = len(core.messages)
    core.send(
        [
            request("b1", "ping"),
            {"jsonrpc": "2.0", "method": "no/such"},
            42,
            request("b2", "no.such"),
            request("b3", "initialize", {"protocol_version": 1}),
            request("b4", "generate", {"model": "t/echo:core", "prompt": "hi", "stream": True}),
        ]
    )
    batch = core.wait_batch(since)
    answers = {answer["id"]: answer for answer in batch}
    assert len(batch) == 5
    assert answers["b1"]["result"]
    assert answers[None]["error"]["data"]["kind"] == "malformed_message"
    assert answers["b2"]["error"]["data"]["kind"] == "method_not_found"
    assert answers["b3"]["error"]["data"]["kind"] == "malformed_message"
    assert answers["b4"]["result"]["text"] == "hi"
    array = next(i for i, m in enumerate(core.messages) if m is batch)
    assert array == len(core.messages) - 1
    check_stream(core.stream("b4"))


def test_a_batch_of_notifications_gets_nothing(core: Core) -> None:
    assert answers_to(core, core.wrap([{"jsonrpc": "2.0", "method": "no/such"}] * 3)) == []


def test_an_entry_of_a_batch_can_be_cancelled(core: Core) -> None:
    since = len(core.messages)
    stalled = request("b5", "generate", {"model": "t/stall:core", "prompt": "", "stream": True})
    core.send([request("b6", "ping"), stalled])
    core.first_event("b5", "text_delta")
    core.cancel("b5")
    answers = {answer["id"]: answer for answer in core.wait_batch(since)}
    assert answers["b5"]["error"]["code"] == -32800
    assert answers["b6"]["result"]


# Streams


@pytest.mark.parametrize("place", ["core", "worker"])
def test_a_stream_comes_in_order_and_before_its_response(core: Core, place: str) -> None:
    text = "Grüße \N{GRINNING FACE} \u2028\u2029\u0085 end"
    stream = core.generate(f"t/echo:{place}", text, client_ref="mine")
    response = core.response(stream)
    events = core.stream(stream)
    check_stream(events)
    assert {each["client_ref"] for each in events} == {"mine"}
    assert text_of(events) == response["result"]["text"] == text
    assert core.messages[-1] is response


@pytest.mark.parametrize("place", ["core", "worker"])
def test_streams_at_once_keep_their_own_order(core: Core, place: str) -> None:
    streams = [core.generate(f"t/long:{place}") for _ in range(3)]
    for stream in streams:
        response = core.response(stream)
        check_stream(core.stream(stream))
        assert response["result"]["text"] == "x" * 5000
        assert core.index(core.first_event(stream, "done")) < core.index(response)


def test_a_failing_stream_ends_with_the_error_of_its_response(core: Core) -> None:
    stream = core.generate("t/fail:core", recovery="none")
    error = core.response(stream)["error"]
    events = core.stream(stream)
    check_stream(events, "error")
    assert events[-1]["event"]["kind"] == error["data"]["kind"] == "rate_limited"
    assert error["data"]["retry_after_ms"] == 5


def test_a_ping_is_answered_while_a_stream_runs(core: Core) -> None:
    stream = core.generate("t/stall:worker")
    core.first_event(stream, "text_delta")
    core.ping()
    core.cancel(stream)
    core.response(stream)


# Cancelling


@pytest.mark.parametrize("place", ["core", "worker"])
def test_a_cancel_in_the_same_write_is_honoured(core: Core, place: str) -> None:
    params = {"model": f"t/stall:{place}", "prompt": "", "stream": True}
    cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": place}}
    core.send(request(place, "generate", params), cancel)
    assert core.response(place)["error"]["code"] == -32800


@pytest.mark.parametrize("place", ["core", "worker"])
def test_a_cancel_ends_a_stream_and_is_answered_once(core: Core, place: str) -> None:
    stream = core.generate(f"t/stall:{place}")
    core.first_event(stream, "text_delta", text="b")
    core.cancel(stream)
    core.cancel(stream)
    error = core.response(stream)["error"]
    core.cancel(stream)
    core.ping()
    check_stream(core.stream(stream), "error")
    assert error["code"] == -32800
    assert error["data"]["kind"] == "cancelled"
    assert error["data"]["partial"]["text"] == "ab"
    assert core.responses(stream) == 1


def test_an_id_may_be_used_again_after_its_response(core: Core) -> None:
    for _ in range(2):
        since = len(core.messages)
        core.ask("ping", request_id="again")
        assert "result" in core.response("again", since)


def test_a_duplicate_of_an_id_in_flight_is_refused_and_the_first_goes_on(core: Core) -> None:
    stream = core.generate("t/stall:core")
    core.first_event(stream, "text_delta")
    since = len(core.messages)
    core.ask("ping", request_id=stream)
    refusal = core.response(stream, since)
    assert refusal["error"]["data"]["kind"] == "duplicate_id"
    core.send_raw(core.wrap_raw(in_message(b"NaN", str(stream).encode())))
    violation = core.wait_for(lambda m: is_response(m) and m["id"] is None, since)
    assert violation["error"]["data"]["kind"] == "parse_error"
    since = len(core.messages)
    core.cancel(stream)
    assert core.response(stream, since)["error"]["code"] == -32800


def test_more_requests_than_the_limit_are_overloaded_and_none_is_lost(core: Core) -> None:
    since = len(core.messages)
    params = {"model": "t/stall:core", "prompt": ""}
    ids = [f"flood-{index}" for index in range(1100)]
    core.send(*(request(each, "generate", params) for each in ids))
    overloaded = [core.response(each, since) for each in ids[1024:]]
    assert {each["error"]["data"]["kind"] for each in overloaded} == {"overloaded"}
    for each in ids[:1024]:
        core.cancel(each)
    for each in ids[:1024]:
        assert core.response(each, since)["error"]["code"] == -32800


def test_a_request_without_an_id_is_not_executed(core: Core) -> None:
    source = {"type": "fake", "script": []}
    model = {"id": "t/ghost:1", "source": source, "capabilities": ["generate"]}
    core.notify("models.register", {"model": model})
    assert core.fail("models.get", {"model": "t/ghost:1"})["data"]["kind"] == "model_not_found"


# Before `initialize`


def test_before_initialize_only_ping_is_served(start_core: StartCore) -> None:
    core = start_core()
    core.ping()
    assert core.fail("models.list")["code"] == -32002
    refusal = core.fail("initialize", {"protocol_version": 2})
    assert refusal["data"]["kind"] == "protocol_version_unsupported"
    assert refusal["data"]["supported"] == [1]
    assert core.fail("initialize", {})["data"]["path"] == "$.protocol_version"
    server = core.initialize(client_info={"name": "test"}, unknown={"field": 1})
    assert server["protocol_version"] == 1
    assert "generate" in server["capabilities"]["methods"]
    assert core.fail("initialize", {"protocol_version": 1})["code"] == -32600
    core.ping()


def test_everything_may_be_sent_at_once_before_the_first_answer(start_core: StartCore) -> None:
    core = start_core()
    source = {"type": "fake", "script": [{"echo": True}]}
    model = {"id": "t/echo:1", "source": source, "capabilities": ["generate"]}
    core.send(
        request(1, "initialize", {"protocol_version": 1}),
        request(2, "models.register", {"model": model}),
        request(3, "ping"),
        request(4, "models.list"),
        request(5, "models.list"),
        {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 5}},
    )
    assert core.response(5)["error"]["code"] == -32800
    assert "result" in core.response(2)
    assert "result" in core.response(4)
    assert core.index(core.response(3)) < core.index(core.response(2))


@pytest.mark.parametrize("framing", ["ndjson", "lsp"])
def test_a_byte_order_mark_is_skipped(start_core: StartCore, framing: str) -> None:
    core = start_core(framing=framing)
    core.send_raw(b"\xef\xbb\xbf")
    core.ping()


def test_garbage_before_the_first_message_is_answered(start_core: StartCore) -> None:
    core = start_core()
    core.send_raw(b"\x00\x01garbage\n")
    core.ping()
    assert core.messages[0]["error"]["data"]["kind"] == "parse_error"


def test_a_cancel_before_the_first_step_still_ends_the_stream(core: Core) -> None:
    core.fake("t/stall:first", {"stall": True})
    params = {"model": "t/stall:first", "prompt": "", "stream": True}
    cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "first"}}
    core.send(request("first", "generate", params), cancel)
    error = core.response("first")["error"]
    check_stream(core.stream("first"), "error")
    assert error["data"]["partial"]["text"] == ""
