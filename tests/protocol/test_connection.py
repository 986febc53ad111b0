import json
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.protocol.connection import (
    OUTPUT_SLACK_BYTES,
    Answered,
    CancelRequested,
    Connection,
    Refused,
)
from car_rpc.protocol.framing import wrap
from car_rpc.protocol.messages import Notification, Request


def request(request_id: Any, method: str = "work", **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def ready(**options: Any) -> Connection[str]:
    connection: Connection[str] = Connection(**options)
    for event in connection.receive(request("init", "initialize")):
        assert isinstance(event, Request)
        connection.step("initialize")
        connection.respond(event.id, b"{}")
    connection.take_output(1 << 20)
    return connection


def sent(connection: Connection[str], limit: int = 1 << 20) -> list[Any]:
    return [json.loads(line) for line in connection.take_output(limit).splitlines()]


def kinds(connection: Connection[str]) -> list[tuple[Any, str]]:
    return [(m["id"], m["error"]["data"]["kind"]) for m in sent(connection)]


def test_a_request_is_handed_over_and_its_result_goes_out_under_its_id() -> None:
    connection = ready()
    assert list(connection.receive(request("a", x=1))) == [Request("a", "work", b'{"x": 1}')]
    assert "a" in connection.in_flight
    connection.respond("a", b"[1]")
    assert sent(connection) == [{"jsonrpc": "2.0", "id": "a", "result": [1]}]
    assert not connection.has_output
    assert connection.take_output(10) == b""


def test_answering_twice_is_refused() -> None:
    connection = ready()
    list(connection.receive(request(1)))
    connection.respond(1, b"1")
    with pytest.raises(KeyError):
        connection.respond(1, b"1")


def test_a_duplicate_of_a_request_in_flight_is_refused_and_the_first_goes_on() -> None:
    connection = ready()
    assert len(list(connection.receive(request(1) + request(1)))) == 1
    (answer,) = sent(connection)
    assert (answer["id"], answer["error"]["code"]) == (1, -32600)
    assert answer["error"]["data"]["kind"] == "duplicate_id"
    connection.respond(1, b"1")
    assert sent(connection)[0]["result"] == 1


def test_an_id_may_be_used_again_once_it_is_answered() -> None:
    connection = ready()
    for _ in range(2):
        assert len(list(connection.receive(request(1)))) == 1
        connection.respond(1, b"1")
    assert len(sent(connection)) == 2


def test_a_number_and_a_string_are_different_ids() -> None:
    connection = ready()
    assert [e.id for e in connection.receive(request(1) + request("1")) if isinstance(e, Request)]
    connection.respond("1", b'"s"')
    connection.respond(1, b'"n"')
    assert [(m["id"], m["result"]) for m in sent(connection)] == [("1", "s"), (1, "n")]


def test_a_broken_message_never_answers_for_a_request_in_flight() -> None:
    connection = ready()
    list(connection.receive(request(1)))
    list(connection.receive(b'{"jsonrpc":"2.0","id":1,"method":"m",\n{"id":2,"x":\n'))
    assert kinds(connection) == [(None, "parse_error"), (2, "parse_error")]


def test_an_oversize_message_is_told_under_its_id_and_the_next_one_is_read() -> None:
    connection = ready(max_message_bytes=200)
    events = list(connection.receive(request(5, x="y" * 300) + request(6)))
    assert [event.id for event in events if isinstance(event, Request)] == [6]
    assert kinds(connection) == [(5, "message_too_large")]


@pytest.mark.parametrize(
    ("path", "method", "kind"),
    [
        ([], "work", "not_initialized"),
        ([], "ping", None),
        ([], "shutdown", "not_initialized"),
        ([], "initialize", None),
        (["initialize"], "work", None),
        (["initialize"], "initialize", None),  # refused by whoever takes the step
        (["initialize", "shutdown"], "runner.event", None),
        (["initialize", "shutdown"], "work", "shutting_down"),
        (["initialize", "shutdown"], "initialize", "shutting_down"),
        (["initialize", "shutdown"], "ping", None),
        (["initialize", "shutdown"], "shutdown", None),
        (["initialize", "close"], "ping", "shutting_down"),
        (["close"], "initialize", "shutting_down"),
    ],
)
def test_each_state_lets_in_its_own_methods(path: list[Any], method: str, kind: str | None) -> None:
    connection: Connection[str] = Connection()
    for step in path:
        connection.step(step)
    events = list(connection.receive(request(1, method)))
    if kind is None:
        assert events == [Request(1, method, b"{}")]
    else:
        (refused,) = events
        assert isinstance(refused, Refused)
        assert refused.error.kind == kind
        assert kinds(connection) == [(1, kind)]


def test_the_stream_of_a_refused_request_can_end_before_its_response() -> None:
    connection: Connection[str] = Connection()
    for event in connection.receive(request(1)):
        assert isinstance(event, Refused)
        connection.notify("note", b"{}", stream=event.request.id)
    event, response = sent(connection)
    assert (event["method"], response["error"]["data"]["kind"]) == ("note", "not_initialized")
    assert len(connection.in_flight) == 0


def test_a_step_that_the_state_does_not_allow_is_refused() -> None:
    connection = ready()
    with pytest.raises(CarError, match="`initialize` is not possible when ready") as caught:
        connection.step("initialize")
    assert caught.value.kind == "malformed_message"
    connection.step("close")
    connection.step("close")
    with pytest.raises(CarError):
        connection.step("shutdown")


def test_a_message_is_judged_in_the_state_that_the_one_before_it_left_behind() -> None:
    connection: Connection[str] = Connection()
    seen: list[str] = []
    for event in connection.receive(request(1, "initialize") + request(2)):
        assert isinstance(event, Request)
        seen.append(event.method)
        if event.method == "initialize":
            connection.step("initialize")
    assert seen == ["initialize", "work"]


def test_beyond_the_limit_of_requests_in_flight_more_are_refused_and_none_is_lost() -> None:
    connection = ready(max_in_flight=2)
    events = list(connection.receive(b"".join(map(request, range(4)))))
    assert [type(event) for event in events] == [Request, Request, Refused, Refused]
    assert kinds(connection) == [(2, "overloaded"), (3, "overloaded")]
    connection.respond(0, b"1")
    assert len(list(connection.receive(request(4)))) == 1


def test_only_requests_in_flight_can_be_cancelled() -> None:
    connection = ready()
    cancel = b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":%b}\n'
    assert list(connection.receive(cancel % b'{"id":1}')) == []
    list(connection.receive(request(1)))
    assert list(connection.receive(cancel % b'{"id":1}' * 2)) == [CancelRequested(1)] * 2
    for nonsense in (b'{"id":"1"}', b'{"id":null}', b"{}", b"[]", b'{"id":1.0}', b'{"id":true}'):
        assert list(connection.receive(cancel % nonsense)) == []
    connection.respond(1, b"1")
    assert list(connection.receive(cancel % b'{"id":1}')) == []
    assert len(sent(connection)) == 1


def test_a_request_and_its_cancel_in_one_write_both_arrive() -> None:
    connection = ready()
    cancel = b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}\n'
    assert list(connection.receive(request(1) + cancel)) == [
        Request(1, "work", b"{}"),
        CancelRequested(1),
    ]


def test_our_requests_and_theirs_may_have_the_same_id() -> None:
    connection = ready()
    ours = connection.call("runner.run", b"{}", "waiting")
    assert len(list(connection.receive(request(ours)))) == 1
    answer = b'{"jsonrpc":"2.0","id":"%b","result":5}\n' % str(ours).encode()
    (event,) = connection.receive(answer)
    assert isinstance(event, Answered)
    assert (event.waiting, event.response.result) == ("waiting", b"5")
    assert ours in connection.in_flight
    assert list(connection.receive(answer)) == []
    assert connection.pending.unexpected == 1


def test_each_of_our_requests_has_an_id_of_its_own_and_its_own_answer() -> None:
    connection = ready()
    ours = [connection.call("runner.run", b"{}", waiting) for waiting in "abc"]
    assert len(set(ours)) == 3
    answers = [b'{"jsonrpc":"2.0","id":"%b","result":1}\n' % str(i).encode() for i in ours]
    events = list(connection.receive(b"".join(reversed(answers))))
    assert [e.waiting for e in events if isinstance(e, Answered)] == ["c", "b", "a"]
    assert connection.pending.drain() == []


def test_an_answer_that_cannot_be_read_gets_no_id_back() -> None:
    connection = ready()
    ours = connection.call("runner.run", b"{}", "waiting")
    list(connection.receive(b'{"jsonrpc":"2.0","id":"%b","result":\n' % str(ours).encode()))
    assert [m.get("id") for m in sent(connection) if "error" in m] == [None]


def test_the_errors_of_a_peer_without_an_id_are_counted_and_not_answered() -> None:
    connection = ready()
    error = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}\n'
    assert list(connection.receive(error)) == []
    assert not connection.has_output
    assert connection.pending.unexpected == 1


def test_the_events_of_a_stream_come_in_order_and_before_its_response() -> None:
    connection = ready()
    list(connection.receive(request(1)))
    for number in range(300):
        connection.notify("event", b"%d" % number, stream=1)
    connection.respond(1, b'"end"')
    messages = sent(connection)
    assert [m["params"] for m in messages[:-1]] == list(range(300))
    assert messages[-1]["result"] == "end"


def test_responses_requests_and_cancels_overtake_the_deltas_of_other_streams() -> None:
    connection = ready()
    list(connection.receive(request(1) + request(2)))
    for _ in range(1000):
        connection.notify("event", b'{"stream":1}', stream=1)
    connection.respond(2, b'"fast"')
    connection.call("runner.run", b"{}", "x")
    connection.notify("$/cancelRequest", b"{}")
    first = sent(connection, limit=200)
    assert first[0]["result"] == "fast"
    assert [m.get("method") for m in first[1:3]] == ["runner.run", "$/cancelRequest"]


def test_a_finished_stream_does_not_wait_for_running_ones() -> None:
    connection = ready()
    list(connection.receive(request(1) + request(2)))
    for _ in range(100):
        connection.notify("event", b'{"stream":1}', stream=1)
    connection.notify("event", b'{"stream":2}', stream=2)
    connection.respond(2, b'"end of 2"')
    first = sent(connection)[:2]
    assert first[0]["params"] == {"stream": 2}
    assert first[1]["result"] == "end of 2"


def test_a_batch_is_answered_by_one_array_after_all_its_streams() -> None:
    connection = ready()
    entries = [
        request(1),
        request(2),
        b"5",
        b'{"jsonrpc":"2.0","method":"note"}',
        request(1),
        b'{"jsonrpc":"2.0","id":"x","result":1}',
        request(3, "initialize"),
    ]
    events = list(connection.receive(b"[" + b",".join(map(bytes.strip, entries)) + b"]\n"))
    assert [type(event) for event in events] == [Request, Request, Notification, Refused]
    connection.notify("event", b'{"of":1}', stream=1)
    connection.respond(2, b"2")
    assert [m["params"] for m in sent(connection)] == [{"of": 1}]
    connection.notify("event", b'{"of":1,"last":true}', stream=1)
    connection.respond(1, CarError("cancelled"))
    event, answers = sent(connection)
    assert event["params"]["last"]
    found = [(a["id"], a.get("result") or a["error"]["data"]["kind"]) for a in answers]
    assert found == [
        (None, "malformed_message"),
        (1, "duplicate_id"),
        (3, "malformed_message"),
        (2, 2),
        (1, "cancelled"),
    ]


def test_a_batch_of_notifications_is_not_answered() -> None:
    connection = ready()
    note = b'{"jsonrpc":"2.0","method":"note"}'
    assert len(list(connection.receive(b"[%b,%b]\n" % (note, note)))) == 2
    assert not connection.has_output


def test_an_empty_batch_and_one_that_is_no_json_get_one_error() -> None:
    connection = ready()
    list(connection.receive(b"[]\n[{]\n"))
    assert kinds(connection) == [(None, "malformed_message"), (None, "parse_error")]


def test_no_message_holds_a_character_that_a_line_reader_could_take_for_a_line_break() -> None:
    connection = ready()
    text = "\u2028\u2029\u0085"
    raw = json.dumps(text, ensure_ascii=False).encode()
    list(connection.receive(request(text) + request(2)))
    connection.notify("event", raw, stream=text)
    connection.notify("log", raw)
    connection.call("runner.run", raw, "x")
    connection.respond(2, CarError("internal", text))
    connection.respond(text, raw)
    output = connection.take_output(1 << 20).decode()
    assert len(output.splitlines()) == output.count("\n") == 5
    assert json.loads(output.splitlines()[-1]) == {"jsonrpc": "2.0", "id": text, "result": text}


def test_the_answer_comes_in_the_framing_of_the_question() -> None:
    connection: Connection[str] = Connection()
    list(connection.receive(wrap(request(1).strip(), "lsp")))
    output = connection.take_output(1 << 20)
    header, _, body = output.partition(b"\r\n\r\n")
    assert header == b"Content-Length: %d" % len(body)
    assert json.loads(body)["error"]["data"]["kind"] == "not_initialized"


def test_the_end_of_the_input_still_delivers_the_last_line() -> None:
    connection = ready()
    assert list(connection.receive(request(1).strip())) == []
    assert list(connection.receive_eof()) == [Request(1, "work", b"{}")]


def test_input_is_not_wanted_while_answers_pile_up_and_deltas_do_not_count() -> None:
    connection = ready(max_message_bytes=100)
    list(connection.receive(request(1) + request(2) + request(3)))
    big = b'"%b"' % (b"x" * (OUTPUT_SLACK_BYTES + 100))
    connection.notify("event", big, stream=1)
    connection.notify("event", big, stream=1)
    assert connection.wants_input
    assert connection.stream_bytes(1) > 2 * OUTPUT_SLACK_BYTES
    connection.respond(2, big)
    assert not connection.wants_input
    connection.take_output(1)
    assert connection.wants_input
    assert connection.stream_bytes(3) == 0


def test_batches_that_are_not_done_hold_a_bounded_number_of_bytes() -> None:
    connection = ready()
    big = b'"%b"' % (b"x" * OUTPUT_SLACK_BYTES)
    batch = b"[%b,%b,%b]\n" % (request(1).strip(), request(2).strip(), request(3).strip())
    list(connection.receive(batch))
    connection.respond(1, big)
    further = b"[%b,%b]\n" % (request(4).strip(), request(5, "ping").strip())
    refused, ping = connection.receive(further)
    assert isinstance(refused, Refused)
    assert ping == Request(5, "ping", b"{}")
    assert [type(event) for event in connection.receive(request(6))] == [Request]  # no batch
    connection.respond(5, b"{}")
    (answers,) = sent(connection, 1)
    assert [(a["id"], "error" in a) for a in answers] == [(4, True), (5, False)]
    assert answers[0]["error"]["data"]["kind"] == "overloaded"
    connection.respond(2, b"2")
    connection.respond(3, b"3")
    assert len(sent(connection, 1)[0]) == 3
    assert len(list(connection.receive(further))) == 2


@pytest.mark.parametrize("method", ["ping", "shutdown", "runner.event"])
def test_a_client_at_its_limit_can_still_ask_for_what_gets_it_out_of_there(method: str) -> None:
    connection = ready(max_in_flight=1)
    list(connection.receive(request(1)))
    assert list(connection.receive(request(2, method))) == [Request(2, method, b"{}")]
    assert not connection.has_output
