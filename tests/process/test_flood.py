"""Far more output than a client takes: it costs no memory, loses nothing and delays nobody else."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.process.conftest import (
    IN_WORKER,
    ROOT,
    WAIT_S,
    Core,
    StartCore,
    check_stream,
    event,
    is_response,
    request,
)
from tests.process.test_backpressure import wait_until_quiet

pytestmark = [pytest.mark.process, pytest.mark.timeout(1200)]

MIB = 1024 * 1024
DEMO = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"

#: What a flood may add to the memory of the core: the unread events of the stream, what the event
#: log has still to write, and the allocator's reserve.
FLOOD_BYTES = 32 * MIB
#: What may come before an urgent message after a stall: the pipe, what was being written, and what
#: this test had begun to read.
AHEAD_BYTES = MIB


class Digesting(Core):
    """Keeps the length of each text, and a digest of them all, instead of the texts."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.digest = hashlib.sha256()
        self.text_bytes = 0
        super().__init__(*arguments, **options)

    def _split(self, data: bytes) -> bytes:
        with self._changed:
            begin = len(self.messages)
            rest = super()._split(data)
            for message in self.messages[begin:]:
                step = message.get("params", {}).get("event", {})
                if step.get("type") == "tool_parse_error":
                    self.digest.update(step["raw"].encode())
                    self.text_bytes += len(step["raw"])
                    step["raw"] = ""
        return rest


@pytest.mark.parametrize("place", ["core", "worker"])
def test_a_flood_through_a_reader_that_stalls_costs_no_memory(
    start_core: StartCore, proof_count: Callable[[int, int], int], place: str
) -> None:
    """Every event comes in the end, in order. It is one whose text is no part of the result, which
    has to hold all of an answer.
    """
    parts = proof_count(6, 512)  # of 4 MiB: 24 MiB, 2 GiB
    core = start_core(kind=Digesting)
    assert isinstance(core, Digesting)
    core.initialize()
    texts = [f"{part:<8}" * 1024 for part in range(parts)]
    steps = [{"emit": said(text), "repeat": 512} for text in texts]
    head = [IN_WORKER] if place == "worker" else []
    core.fake("t/flood:1", *head, *steps, event("end"))
    process = psutil.Process(core.pid)
    before = most = process.memory_info().rss
    since = len(core.messages)
    stream = core.generate("t/flood:1", privacy="metadata")
    for stall in range(3):
        wait_for_text(core, stall * parts * MIB)
        core.stall()
        most = max(most, wait_until_quiet(process))
        core.resume()
    most = max(most, watch_until_answered(core, since, process))
    print(f"{core.text_bytes / MIB:.0f} MiB of text, {(most - before) / MIB:.1f} MiB of memory")
    assert core.response(stream)["result"]["text"] == "end"
    check_stream(core.stream(stream))
    expected = hashlib.sha256()
    for text in texts:
        expected.update((text * 512).encode())
    assert core.digest.digest() == expected.digest()
    assert most - before < FLOOD_BYTES


def said(text: str) -> dict[str, Any]:
    return {"type": "tool_parse_error", "index": 0, "raw": text, "message": "no call"}


def wait_for_text(core: Digesting, count: int) -> None:
    with core._changed:
        while core.text_bytes <= count:
            assert core._changed.wait(WAIT_S)


def watch_until_answered(core: Core, seen: int, process: psutil.Process) -> int:
    """Wait for the first response from an index on; returns the most memory used meanwhile."""
    most = 0
    with core._changed:
        while not any("method" not in message for message in core.messages[seen:]):
            seen = len(core.messages)
            assert core._changed.wait(WAIT_S)
            most = max(most, process.memory_info().rss)
    return most


@pytest.fixture
def flooded(start_core: StartCore) -> Iterator[tuple[Core, list[Any]]]:
    """A core with 16 endless streams, each with all that may be unread of it; nobody reads."""
    core = start_core()
    core.initialize()
    core.fake("t/flood:1", {**event("x" * 1000), "repeat": 10**9})
    core.fake("t/echo:1", {"echo": True})
    core.register("t/app:1", {"type": "delegated"})
    core.call("runner.register")
    streams = [core.generate("t/flood:1") for _ in range(16)]
    for stream in streams:
        core.first_event(stream, "text_delta")
    core.stall()
    wait_until_quiet(psutil.Process(core.pid))
    yield core, streams
    core.resume()
    for stream in streams:
        core.cancel(stream)
    for stream in streams:
        assert core.response(stream)["error"]["code"] == -32800
        check_stream(core.stream(stream), "error")


def test_what_is_urgent_overtakes_the_deltas_of_other_streams(
    flooded: tuple[Core, list[Any]],
) -> None:
    core, streams = flooded
    since, start_bytes = len(core.messages), core.raw_bytes
    core.send(
        request("ping", "ping"),
        request("echo", "generate", {"model": "t/echo:1", "prompt": "hi"}),
        request("wrong", "no.such"),
        request("app", "generate", {"model": "t/app:1", "prompt": "hi"}),
        {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": streams[0]}},
    )
    core.send_raw(b"garbage\n")
    wait_until_quiet(psutil.Process(core.pid))
    core.resume()
    run = core.wait_for(lambda m: m.get("method") == "runner.run", since)
    garbage = core.wait_for(lambda m: is_response(m) and m["id"] is None, since)
    urgent = [run, garbage, *(core.response(each, since) for each in ("ping", "echo", "wrong"))]
    assert max(core.offset(each) for each in urgent) - start_bytes < AHEAD_BYTES
    # A cancelled stream is urgent too, but never before its own events.
    ended = core.response(streams[0], since)
    assert core.offset(ended) - start_bytes < AHEAD_BYTES + core_unread(core, streams[0])
    last = core.first_event(streams[0], "error")
    assert core.index(last) < core.index(ended)
    core.cancel("app")
    cancel = core.wait_for(lambda m: m.get("method") == "$/cancelRequest", since)
    assert cancel["params"] == {"id": run["id"]}
    error = {"code": -32800, "message": "cancelled"}
    core.send({"jsonrpc": "2.0", "id": run["id"], "error": error})
    assert core.response("app")["error"]["code"] == -32800


def core_unread(core: Core, stream: Any) -> int:
    """About how many bytes the events of a stream had."""
    return len(core.stream(stream)) * 1200


@pytest.mark.parametrize("event_bytes", [MIB // 16, MIB])
def test_a_runner_that_floods_with_requests_gets_every_reply(
    start_core: StartCore, event_bytes: int
) -> None:
    """What is held: `runner_buffer_bytes` of unread events, 8 MiB, and of one event, wherever it
    is in between, about ten copies: its frame, its parameters, its text, its place in the output
    and in the log, where it is searched for secrets.
    """
    core = start_core()
    core.initialize()
    core.register("t/app:1", {"type": "delegated"})
    core.call("runner.register")
    stream = core.generate("t/app:1")
    run = core.wait_for(lambda m: m.get("method") == "runner.run")
    core.stall()
    process = psutil.Process(core.pid)
    before = process.memory_info().rss
    params = {"call_id": run["params"]["call_id"], "event": event("x" * event_bytes)["emit"]}
    ids = [f"event-{index}" for index in range(24 * MIB // event_bytes)]
    feeder = threading.Thread(target=feed, args=(core, ids, params), daemon=True)
    feeder.start()
    feeder.join(WAIT_S)  # the core never stops reading because of a stream
    assert not feeder.is_alive()
    assert wait_until_quiet(process) - before < FLOOD_BYTES
    core.resume()
    replies = [core.response(each)["result"] for each in ids]
    assert replies[-1] == {"emitted": False, "closed": True}
    error = core.response(stream)["error"]
    assert error["data"]["kind"] == "runner_failed"
    assert error["data"]["cause"] == "backpressure"
    check_stream(core.stream(stream), "error")
    assert all(core.responses(each) == 1 for each in ids)
    core.ping()
    assert wait_until_quiet(process) - before < FLOOD_BYTES, "and it is given back"


def feed(core: Core, ids: list[str], params: dict[str, Any]) -> None:
    for each in ids:
        core.send(request(each, "runner.event", params))


@pytest.mark.llama
def test_a_client_that_stops_reading_pauses_the_token_loop_and_nobody_else(
    start_core: StartCore,
) -> None:
    core = start_core()
    core.initialize()
    core.register("t/tiny:chat", {"type": "local", "path": str(DEMO)})
    params = {"ignore_eos": True, "temperature": 1.0, "max_tokens": 900}
    # Each event carries it, so a short answer fills what may be unread.
    stream = core.generate("t/tiny:chat", params=params, client_ref="x" * 8000)
    core.first_event(stream, "text_delta")
    core.stall()
    since = len(core.messages)
    worker = core.worker()
    wait_until_quiet(worker)
    short = {"model": "t/tiny:chat", "prompt": "hi", "params": {"max_tokens": 8}}
    core.send(request("other", "generate", short))
    wait_until_quiet(worker)
    wait_until_quiet(psutil.Process(core.pid))
    paused = sum(worker.cpu_times()[:2])
    core.resume()
    other = core.response("other", since)
    response = core.response(stream, since)
    assert sum(worker.cpu_times()[:2]) > paused  # most of the answer was still to come
    assert core.index(other) < core.index(response)
    assert other["result"]["usage"]["completion_tokens"] <= 8
    events = core.stream(stream)
    check_stream(events)
    text = "".join(e["event"]["text"] for e in events if e["event"]["type"] == "text_delta")
    assert text == response["result"]["text"]
    assert response["result"]["usage"]["completion_tokens"] == 900
