"""A client that stops reading costs neither memory nor events, and delays nobody else."""

import threading
import time
from collections.abc import Callable

import psutil
import pytest

from tests.process.conftest import (
    IN_WORKER,
    WAIT_S,
    Core,
    StartCore,
    check_stream,
    event,
    request,
)

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

#: What a stalled stream may cost: its buffer (256 KiB), the event log's next transaction (1 MiB)
#: and the allocator's reserve. Without a bound 30,000 events would be some 10 MB.
STREAM_BYTES = 4 * 1024 * 1024
#: What unread responses may cost: one message and 8 MiB, with their overhead, of 25 MB in all.
RESPONSES_BYTES = 20 * 1024 * 1024
#: What a ping may find before it: the pipe, what is being written, and what was read already.
AHEAD_BYTES = 3 * 1024 * 1024


@pytest.mark.parametrize("place", ["core", "worker"])
@pytest.mark.parametrize("threads", [False, True], ids=["polled", "threads"])
def test_a_stalled_client_gets_every_event_and_the_memory_stays_bounded(
    start_core: StartCore, proof_count: Callable[[int, int], int], place: str, threads: bool
) -> None:
    count = proof_count(30_000, 200_000)
    core = start_core(env={"CAR_RPC_THREAD_IO": "1"} if threads else {})
    core.initialize()
    head = [IN_WORKER] if place == "worker" else []
    core.fake("t/flood:1", *head, {**event("0123456789"), "repeat": count})
    core.fake("t/echo:1", {"echo": True})
    process = psutil.Process(core.pid)
    before = process.memory_info().rss
    stream = core.generate("t/flood:1")
    core.first_event(stream, "text_delta")
    core.stall()
    since = len(core.messages)
    most = wait_until_quiet(process)
    # Others are served although nobody reads, and their answers wait for nothing of the stream.
    core.send(
        request("ping", "ping"), request("echo", "generate", {"model": "t/echo:1", "prompt": "hi"})
    )
    most = max(most, wait_until_quiet(process))
    assert most - before < STREAM_BYTES
    start_bytes = core.raw_bytes
    core.resume()
    ping = core.response("ping", since)
    assert core.offset(ping) - start_bytes < AHEAD_BYTES
    assert core.response("echo", since)["result"]["text"] == "hi"
    response = core.response(stream, since, timeout=150)
    assert core.index(core.response("echo", since)) < core.index(response)
    events = core.stream(stream)
    check_stream(events)
    assert sum(each["event"]["type"] == "text_delta" for each in events) == count
    assert response["result"]["text"] == "0123456789" * count


def test_a_stalled_clients_stream_can_be_cancelled(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/flood:1", IN_WORKER, {**event("x"), "repeat": 10**9})
    stream = core.generate("t/flood:1")
    core.first_event(stream, "text_delta")
    core.stall()
    wait_until_quiet(psutil.Process(core.pid))
    core.cancel(stream)
    core.resume()
    assert core.response(stream)["error"]["code"] == -32800
    check_stream(core.stream(stream), "error")
    wait_until_quiet(core.worker())


def test_responses_that_nobody_reads_stop_the_reading(start_core: StartCore) -> None:
    core = start_core("--max-message-bytes", "1000000")
    core.initialize()
    core.call("models.list", {"available_only": True})
    process = psutil.Process(core.pid)
    before = process.memory_info().rss
    core.stall()
    ids = [f"p-{index}" for index in range(12_000)]  # 25 MB of answers
    feeder = threading.Thread(target=feed, args=(core, ids), daemon=True)
    feeder.start()  # it blocks once the core reads no more
    assert wait_until_quiet(process) - before < RESPONSES_BYTES
    assert feeder.is_alive()
    core.resume()
    feeder.join(WAIT_S)
    core.response(ids[-1])
    assert [m["id"] for m in core.messages[-len(ids) :]] == ids


def feed(core: Core, ids: list[str]) -> None:
    params = {"available_only": True}
    core.send(*(request(each, "models.list", params) for each in ids))


def wait_until_quiet(process: psutil.Process) -> int:
    """Wait until a process does nothing more; returns the most memory it had, in bytes.

    Quiet is a process that used no processor time in ten looks in a row.
    """
    pause = threading.Event()
    deadline = time.monotonic() + WAIT_S
    most = quiet = 0
    spent = -1.0
    while quiet < 10:
        assert time.monotonic() < deadline, "it does not come to rest"
        now = sum(process.cpu_times()[:2])
        quiet = quiet + 1 if now == spent else 0
        spent = now
        most = max(most, process.memory_info().rss)
        pause.wait(0.03)
    return most
