"""What broke other JSON-RPC processes, done to the real one, in both framings.

Each row is a failure that was seen in the wild, and the tests that show ours does not have it.
Files without a name of their own are in this folder; `catalogue: x` is a row of the table in
`test_wire.py`, which runs over lines and headers, pipes and sockets, polled and by threads.

Bytes
- malformed JSON                        catalogue: garbage, cut object, cut string, unbalanced
- stray text before a frame             test_wire noise_before_a_header, catalogue: text of a ...
- garbage at the very start             test_wire garbage_before_the_first_message
- invalid UTF-8, in key, value, raw     catalogue: bad UTF-8 ..., overlong UTF-8, surrogate in UTF-8
- lone surrogate                        test_wire lone_surrogate
- surrogate pair, NUL, VT, FF, emoji    here text_comes_back, catalogue: surrogate pair, NUL escape
- U+2028, U+2029, U+0085 in output      here text_comes_back; `Core` checks every line it reads
- NaN, Infinity, huge numbers           catalogue: NaN, Infinity; here what_the_client_wrote
- 200,000 levels, open and closed       catalogue: very deep; here very_deep_and_closed
- nested `jsonrpc`, `method`, `id`      catalogue: a message inside
- duplicate keys                        catalogue: duplicate keys
- split at every byte, at white space   test_wire byte_by_byte; here sizes
- 64 KiB, 1 MiB, 10 MiB + 1, 32 MiB     here sizes
- oversize, then a good message         catalogue: oversize (a ping follows each row)
- CRLF, blank lines, byte order mark    test_wire crlf, byte_order_mark
- lower-case, extra and split headers   test_wire headers_come_in_many_forms, byte_by_byte
- no line feed at the end of input      here last_line_without_its_end
- a message cut by the end of input     test_lifecycle cut_message; here end_of_input_cuts
- any of these at random                tests/fuzz

Ids and batches
- 0, "", 1 and "1", null, true, 1.5     catalogue: id ...
- 2^53 - 1, 2^53, 2^63, 10^400          catalogue: id ...
- used again after its response         test_wire id_may_be_used_again
- two in flight with one id             test_wire duplicate_of_an_id_in_flight
- a batch of two, of 1,001, of nothing  test_wire batch..., catalogue: ... batch

Cancels
- in the same write as the request      test_wire cancel_in_the_same_write
- amid a stream, twice, after the end   test_wire cancel_ends_a_stream
- at any moment up to the end           here cancel_that_races_the_end
- of an unknown id, malformed           catalogue: cancel of nothing, malformed cancel
- of `initialize`, which is answered    here cancel_of_initialize
- cascade to the runner and back        test_runner cancel_cascades, does_not_confirm
- of an entry of a batch                test_wire entry_of_a_batch

Order and flow
- events before the response, none after  test_wire stream_comes_in_order
- streams at once                         test_wire streams_at_once
- the response, then the next stream      here streams_that_follow_each_other
- 10,000 deltas, then the response        here ten_thousand_deltas; test_runner ten_thousand_events
- the reader stalls during a flood        test_backpressure, test_flood
- a request of ours during a flood        test_flood urgent_overtakes
- a cancel during a flood that stalls     test_backpressure stalled_clients_stream, test_flood
- a runner that floods                    test_runner floods_a_stalled_client, test_flood
- 10,000 requests at once                 here ten_thousand_requests
- a log that nobody reads                 test_claims log_that_nobody_reads

Streams of the process
- print, C-level write, import banner   test_claims prints_during_imports, native_prints; test_claim
- closed stdin, stdout or stderr        test_claims closed_...
- children inherit nothing              test_claims workers_inherit_none
- EPIPE                                 test_lifecycle client_reads_no_more, test_claims reader_is
- files and sockets instead of pipes    test_claims files_can_be, test_wire (sockets)

Ends
- EOF idle, in flight, amid a message   test_lifecycle every_ending, may_finish, cut_message
- SIGINT, SIGTERM                       test_lifecycle every_ending
- stdout's reader gone, then a request  test_lifecycle client_reads_no_more
- parent killed, pipe held by a sibling test_lifecycle parents_death
- client death amid `runner.run`        test_lifecycle run_of_the_app_ends_with_its_input
- a reading thread that keeps it alive  test_lifecycle endings_work_with_threads
"""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.process.conftest import (
    IN_WORKER,
    WAIT_S,
    Core,
    StartCore,
    check_stream,
    event,
    request,
    text_of,
)

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(scope="module", params=["ndjson", "lsp"])
def lasting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Core]:
    core = Core(tmp_path_factory.mktemp("torture") / "state", framing=request.param)
    core.initialize()
    core.fake("t/echo:core", {"echo": True})
    core.fake("t/echo:worker", IN_WORKER, {"echo": True})
    core.fake("t/short:core", event("a"))
    core.fake("t/short:worker", IN_WORKER, event("a"))
    core.fake("t/long:worker", IN_WORKER, {**event("x"), "repeat": 10_000})
    core.fake("t/stall:1", {"stall": True})
    core.register("t/app:1", {"type": "delegated"})
    core.call("runner.register")
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()
    assert "Traceback" not in core.stderr()


@pytest.fixture
def core(lasting: Core) -> Iterator[Core]:
    yield lasting
    lasting.ping()


# Bytes


@pytest.mark.parametrize("place", ["core", "worker"])
@pytest.mark.parametrize("size", [64 * KIB, MIB, 10 * MIB + 1])
def test_messages_of_all_sizes_come_back(core: Core, size: int, place: str) -> None:
    # White space where pipes and buffers end, which is where others lost it.
    text = "".join(f"{block:>{4 * KIB - 1}} " for block in range(size // (4 * KIB) + 1))[:size]
    answer = core.call("generate", {"model": f"t/echo:{place}", "prompt": text})
    assert answer["text"] == text


def test_a_message_of_32_mib_comes_back(core: Core) -> None:
    text = "0123456789abcde\\" * (2 * MIB)
    answer = core.call("generate", {"model": "t/echo:core", "prompt": text, "privacy": "metadata"})
    assert answer["text"] == text


@pytest.mark.parametrize("place", ["core", "worker"])
def test_any_text_comes_back(core: Core, place: str) -> None:
    text = "\0\v\f\x1f\x7f\u0085\u00a0\u2028\u2029\ufeff\ufffd\uffff\N{GRINNING FACE} e\u0301"
    for ascii_only in (True, False):
        message = request("text", "generate", {"model": f"t/echo:{place}", "prompt": text})
        since = len(core.messages)
        core.send_raw(core.wrap_raw(json.dumps(message, ensure_ascii=ascii_only).encode()))
        assert core.response("text", since)["result"]["text"] == text


def test_what_the_client_wrote_reaches_the_runner_and_the_log_as_it_was(core: Core) -> None:
    raw = b'{"huge":%d,"zero":-0.0,"twice":1,"twice":2,"of":["the",{"future":null}]}' % 2**70
    params = b'{"model":"t/app:1","prompt":"","x":%b}' % raw
    since = len(core.messages)
    payload = b'{"jsonrpc":"2.0","id":"n","method":"generate","params":%b}' % params
    core.send_raw(core.wrap_raw(payload))
    run = core.wait_for(lambda m: m.get("method") == "runner.run", since)
    core.send({"jsonrpc": "2.0", "id": run["id"], "result": {"text": "ok"}})
    assert core.response("n", since)["result"]["text"] == "ok"
    query = {"trace_id": run["params"]["trace_id"], "types": ["request"]}
    (row,) = core.call("eventlog.query", query)["events"]
    for kept in (run["params"]["request"]["x"], row["data"]["params"]["x"]):
        assert kept == json.loads(raw)
        assert str(kept["zero"]) == "-0.0"


def test_a_number_that_no_double_holds_reaches_the_runner(core: Core) -> None:
    since = len(core.messages)
    params = b'{"model":"t/app:1","prompt":"","x":[1e400]}'
    payload = b'{"jsonrpc":"2.0","id":"n","method":"generate","params":%b}' % params
    core.send_raw(core.wrap_raw(payload))
    run = core.wait_for(lambda m: m.get("method") == "runner.run", since)
    core.send({"jsonrpc": "2.0", "id": run["id"], "result": {"text": "ok"}})
    assert core.response("n", since)["result"]["text"] == "ok"
    assert run["params"]["request"]["x"] == [float("inf")]  # what this reader makes of it


def test_a_message_that_is_very_deep_and_closed_gets_its_id_back(core: Core) -> None:
    since = len(core.messages)
    deep = b"[" * 30_000 + b"]" * 30_000
    core.send_raw(
        core.wrap_raw(b'{"jsonrpc":"2.0","params":%b,"method":"ping","id":"deep"}' % deep)
    )
    assert core.response("deep", since)["error"]["data"]["kind"] == "parse_error"


# Cancels


@pytest.mark.parametrize("place", ["core", "worker"])
def test_a_cancel_that_races_the_end_gets_one_answer(
    core: Core, proof_count: Callable[[int, int], int], place: str
) -> None:
    for _ in range(proof_count(2, 200)):
        for moment in ("attempt", "text_delta", "stop", "done"):
            stream = core.generate(f"t/short:{place}")
            core.first_event(stream, moment)
            core.cancel(stream)
            response = core.response(stream)
            core.ping()
            check_stream(core.stream(stream), "error" if "error" in response else "done")
            assert moment != "done" or "result" in response
            assert core.responses(stream) == 1


@pytest.mark.parametrize("framing", ["ndjson", "lsp"])
def test_a_cancel_of_initialize_comes_too_late(start_core: StartCore, framing: str) -> None:
    core = start_core(framing=framing)
    core.send(
        request(0, "initialize", {"protocol_version": 1}),
        {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 0}},
    )
    assert core.response(0)["result"]["protocol_version"] == 1
    core.call("models.list")
    assert core.responses(0) == 1


# Order and flow


def test_streams_that_follow_each_other_do_not_mix(core: Core) -> None:
    """The next stream begins with the id of the last, the moment that one is answered."""
    for _ in range(20):
        since = len(core.messages)
        core.ask("generate", {"model": "t/short:core", "prompt": "", "stream": True}, "same")
        response = core.response("same", since)
        own = [
            m["params"]
            for m in core.messages[since : core.index(response)]
            if m.get("method") == "generate.event"
        ]
        check_stream(own)
        assert text_of(own) == "a"


def test_ten_thousand_deltas_come_before_their_response(core: Core) -> None:
    stream = core.generate("t/long:worker")
    response = core.response(stream)
    events = core.stream(stream)
    check_stream(events)
    assert text_of(events) == response["result"]["text"] == "x" * 10_000
    assert core.messages[-1] is response


def test_ten_thousand_requests_at_once_are_all_answered(core: Core) -> None:
    since = len(core.messages)
    ids = [f"r-{index:04}" for index in range(10_000)]
    stalls = [request(each, "generate", {"model": "t/stall:1", "prompt": ""}) for each in ids]
    cancels = [
        {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": each}} for each in ids
    ]
    core.send(*stalls, request("behind", "ping"), *cancels)
    with core._changed:
        assert core._changed.wait_for(lambda: len(core.messages) > since + len(ids), WAIT_S)
    behind = core.response("behind", since)
    answers = [m for m in core.messages[since:] if m is not behind]
    assert sorted(answer["id"] for answer in answers) == ids
    kinds = {answer["error"]["data"]["kind"] for answer in answers}
    assert kinds == {"cancelled", "overloaded"}


# Streams and ends of the process


@pytest.mark.parametrize("framing", ["ndjson", "lsp"])
def test_the_last_line_needs_no_end(start_core: StartCore, framing: str) -> None:
    core = start_core(framing=framing)
    core.initialize()
    core.send_raw(core.wrap(request("last", "ping")).rstrip(b"\n"))
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    assert "result" in core.response("last")


def test_a_line_that_the_end_of_input_cuts_is_answered(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.send_raw(b'{"jsonrpc":"2.0","id":"cut","method":"ping","params":{"a":')
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    assert core.response("cut")["error"]["data"]["kind"] == "parse_error"
