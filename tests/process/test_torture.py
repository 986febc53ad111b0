"""What broke other JSON-RPC processes, done to the real one, in both framings.

Each row is a failure that was seen in the wild, and what shows that ours does not have it: words
of the names of tests, by file, and rows of the catalogue in `test_wire.py`, which runs over lines
and headers, pipes and sockets, polled and by threads. A test below holds the table to that.

Bytes
- malformed JSON                   catalogue garbage, cut object, cut string, unbalanced
- stray text before a frame        wire noise_before_a_header; catalogue text of a careless library
- garbage at the very start        wire garbage_before_the_first_message; start every_request
- invalid UTF-8 in key and value   catalogue bad UTF-8 in a key, bad UTF-8 in a value, overlong
- half a surrogate pair            wire lone_surrogate; catalogue surrogate in UTF-8
- a whole pair, NUL, VT, FF        torture any_text; catalogue surrogate pair, NUL escape
- U+2028, U+2029, U+0085           torture any_text; wire stream_comes_in_order
- NaN, Infinity, huge numbers      catalogue NaN, Infinity; torture as_it_was, no_double
- 200,000 levels, open or closed   catalogue very deep, deep, deepest; torture very_deep_and_closed
- nested `jsonrpc`, `method`, `id` catalogue a message inside
- duplicate keys                   catalogue duplicate keys
- cut at every byte, white space   wire byte_by_byte; torture sizes
- 64 KiB, 1 MiB, 10 MiB, 32 MiB    torture sizes, 32_mib
- oversize, and what follows it    catalogue oversize, largest
- CRLF, blank lines, a BOM         wire crlf, byte_order_mark
- odd, extra and split headers     wire headers_come_in_many_forms, byte_by_byte
- no line feed at the end          torture last_line
- a message that the end cuts      lifecycle cut_message; torture end_of_input_cuts
- params that are no params        catalogue notification; wire wrong_request; params defect
- any of these at random           process every_request; session every_request

Ids and batches
- 0, "", 1 and "1"                 catalogue id 0, id empty, id 1, id '1'
- null, true, 1.5, an object       catalogue id null, id true, id 1.5, id object
- 2^53 and beyond                  catalogue id largest, id 2^53, id 2^63, id 10^400
- used again after its response    wire id_may_be_used_again; torture follow_each_other
- two in flight with one id        wire duplicate_of_an_id
- batches                          wire batch_gets_one_array, batch_of_notifications
- batches of nothing, of 1,001     catalogue empty batch, oversize batch, cut batch

Cancels
- in the same write                wire cancel_in_the_same_write
- amid a stream, twice, too late   wire cancel_ends_a_stream
- at any moment                    torture races_the_end
- of an unknown id, malformed      catalogue cancel of nothing, malformed cancel
- of `initialize`                  torture cancel_of_initialize
- of an entry of a batch           wire entry_of_a_batch
- to the runner, and not confirmed runner cancel_cascades, does_not_confirm

Order and flow
- all events, then the response    wire stream_comes_in_order, streams_at_once
- 10,000 deltas                    torture ten_thousand_deltas
- the reader stalls in a flood     backpressure stalled; flood stalls_costs_no_memory
- a request of ours in a flood     flood urgent_overtakes
- a cancel in a flood              backpressure can_be_cancelled; flood urgent_overtakes
- a runner that floods             runner floods, events_sent_as_requests_wait; flood floods_with
- 10,000 requests at once          torture ten_thousand_requests
- a log that nobody reads          claims log_that_nobody_reads

The process
- print, C code, an import banner  claims prints_during_imports, native_prints
- closed standard streams          claims closed_stdin, closed_stdout, closed_stderr
- children that inherit the pipe   claims inherit_none
- EPIPE                            claims reader_is_gone; lifecycle every_ending
- EOF idle, in flight, SIGINT      lifecycle every_ending, may_finish
- stdout's reader gone             lifecycle every_ending, gone_altogether
- parent killed, the pipe held     lifecycle parents_death
- client death amid `runner.run`   lifecycle run_of_the_app_ends
- a thread that keeps it alive     lifecycle threads_and_sockets
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from tests.process.test_wire import CATALOGUE

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

KIB, MIB = 1024, 1024 * 1024

HERE = Path(__file__).parent
FUZZ = HERE.parent / "fuzz"


def named(file: str) -> list[str]:
    """The names of the tests in `test_FILE.py` here or among the fuzzers, or the catalogue's."""
    if file == "catalogue":
        return [*CATALOGUE]
    paths = [folder / f"test_{file}.py" for folder in (HERE, FUZZ)]
    source = "".join(path.read_text(encoding="utf-8") for path in paths if path.exists())
    return re.findall(r"^def test_(\w+)", source, re.MULTILINE)


def test_the_table_names_tests_that_there_are() -> None:
    rows = re.findall(r"^- (.{32}) (\S.*)$", __doc__ or "", re.MULTILINE)
    assert len(rows) == (__doc__ or "").count("\n- ")
    for row, proofs in rows:
        for proof in proofs.split("; "):
            file, _, words = proof.partition(" ")
            for each in words.split(", "):
                assert any(each in name for name in named(file)), f"{row.strip()}: {file} {each}"


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


@pytest.mark.parametrize(
    ("size", "place"),
    [(64 * KIB, "core"), (64 * KIB, "worker"), (MIB, "core"), (10 * MIB + 1, "worker")],
)
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


# Introductions


def test_an_introduction_that_is_wrong_is_refused_and_the_next_one_taken(
    start_core: StartCore,
) -> None:
    core = start_core()
    good: dict[str, Any] = {"protocol_version": 1}
    for wrong in (
        [1],
        {"protocol_version": "1"},
        {**good, "process_id": "me"},
        {**good, "allowed_paths": "/tmp"},
        {**good, "allowed_paths": [1]},
        {**good, "client_info": []},
        {**good, "capabilities": []},
        {**good, "capabilities": {"log": {"level": "odd"}}},
    ):
        assert core.fail("initialize", wrong)["code"] == -32602
    for odd in (-1, 2**53 - 1):
        good["process_id"] = odd  # nobody's parent
        good["allowed_paths"] = ["", "\0", "x" * 5000, "~"]
        core = start_core()
        assert core.initialize(**good)["protocol_version"] == 1
        core.call("models.list")


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


def test_ten_thousand_requests_at_once_are_all_answered(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/stall:1", {"stall": True})
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
