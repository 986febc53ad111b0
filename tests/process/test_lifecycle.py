"""Every way to end a process ends all of it, soon, whatever it is doing."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.conftest import (
    EXIT_S,
    IN_WORKER,
    SLACK_S,
    Adopted,
    Closed,
    Core,
    Gate,
    StartCore,
    assert_gone,
    event,
    wait_until,
)

pytestmark = pytest.mark.process

#: The default of `--drain-ms`.
DRAIN_S = 2.0

#: A module that only a worker for GGUF models imports: holding it up makes a load last.
LOADING = "car_rpc.workers.llama_cpp.engine"

Situation = Callable[[StartCore, Callable[[str], Gate]], tuple[Core, list[Any]]]


# What a process may be doing. Each returns it and the ids of its requests in flight.


def idle(start: StartCore, make_gate: Callable[[str], Gate], **options: Any) -> tuple[Core, list]:
    core = start("--drain-ms", "0", **options)
    core.initialize()
    core.call("models.list")
    return core, []


def starting(
    start: StartCore, make_gate: Callable[[str], Gate], **options: Any
) -> tuple[Core, list]:
    """The engine behind the connection is not there yet."""
    gate = make_gate("jsonrpcserver")
    env = {**gate.env, **options.pop("env", {})}
    core = start("--drain-ms", "0", env=env, **options)
    core.initialize()
    requests = [core.ask("models.list"), core.ask("generate", {"prompt": "x"})]
    wait_until(gate.reached)
    return core, requests


def busy(start: StartCore, make_gate: Callable[[str], Gate], **options: Any) -> tuple[Core, list]:
    """Everything at once: stalled and flooding models, a load and a runner that says nothing."""
    gate = make_gate(LOADING)
    env = {**gate.env, **options.pop("env", {})}
    core = start("--drain-ms", "0", env=env, **options)
    core.initialize()
    core.fake("t/stall:core", event("a"), {"stall": True})
    core.fake("t/stall:worker", IN_WORKER, event("a"), {"stall": True})
    core.fake("t/flood:core", {**event("x"), "repeat": 10**9})
    core.fake("t/flood:worker", IN_WORKER, {**event("x"), "repeat": 10**9})
    core.register("t/slow:load", {"type": "local", "path": str(core.state_dir / "none.gguf")})
    core.register("t/app:1", {"type": "delegated"})
    core.call("runner.register")
    requests = [core.generate(model) for model in ("t/stall:core", "t/stall:worker", "t/app:1")]
    requests.append(core.generate("t/slow:load"))
    for stalled in requests[:2]:
        core.first_event(stalled, "text_delta")
    core.wait_for(lambda m: m.get("method") == "runner.run")
    wait_until(gate.reached)
    requests += [core.generate("t/flood:core"), core.generate("t/flood:worker")]
    for flood in requests[-2:]:
        core.first_event(flood, "text_delta")
    core.stall()
    return core, requests


# How it may end. Each returns the exit code that is due.


def end_of_input(core: Core) -> int:
    core.resume()
    core.close_stdin()
    return 0


def shutdown_and_exit(core: Core) -> int:
    core.resume()
    assert core.call("shutdown") is None
    core.notify("exit", {})
    return 0


def exit_alone(core: Core) -> int:
    core.notify("exit", {})
    return 1


def sigterm(core: Core) -> int:
    core.resume()
    os.kill(core.pid, signal.SIGTERM)
    return 128 + signal.SIGTERM


def sigint(core: Core) -> int:
    core.resume()
    os.kill(core.pid, signal.SIGINT)
    return 128 + signal.SIGINT


def client_reads_no_more(core: Core) -> int:
    core.stop_reading()
    with contextlib.suppress(OSError):  # a flood may have ended it before this
        core.ask("ping")
    return 4


def sigkill(core: Core) -> int:
    os.kill(core.pid, signal.SIGKILL)
    return -signal.SIGKILL


GRACEFUL = [end_of_input, shutdown_and_exit, sigterm, sigint]
ENDINGS = [*GRACEFUL, exit_alone, client_reads_no_more, sigkill]


@pytest.mark.parametrize(
    ("situation", "ending"),
    [
        *((situation, ending) for situation in (idle, busy) for ending in ENDINGS),
        *((starting, ending) for ending in (end_of_input, exit_alone, sigterm, sigkill)),
    ],
)
def test_every_ending_leaves_no_process(
    start_core: StartCore,
    make_gate: Callable[[str], Gate],
    situation: Situation,
    ending: Callable[[Core], int],
) -> None:
    core, requests = situation(start_core, make_gate)
    processes = core.tree()
    assert len(processes) == (4 if situation is busy else 1)
    expected = ending(core)
    assert core.wait() == expected
    assert_gone(processes)
    if ending in GRACEFUL:
        core.ended_output()
        for each in requests:
            assert core.responses(each) == 1
            error = core.response(each)["error"]
            assert error["data"]["kind"] in {"cancelled", "runner_failed", "shutting_down"}


@pytest.mark.parametrize("ending", [end_of_input, sigterm, client_reads_no_more])
def test_the_endings_work_with_threads_and_sockets(
    start_core: StartCore, make_gate: Callable[[str], Gate], ending: Callable[[Core], int]
) -> None:
    core, _ = busy(start_core, make_gate, io="sockets", env={"CAR_RPC_THREAD_IO": "1"})
    processes = core.tree()
    expected = ending(core)
    assert core.wait() == expected
    assert_gone(processes)


@pytest.mark.parametrize("ending", GRACEFUL)
def test_the_end_of_a_session_is_logged(
    start_core: StartCore, make_gate: Callable[[str], Gate], ending: Callable[[Core], int]
) -> None:
    core, _ = idle(start_core, make_gate)
    ending(core)
    core.wait()
    with contextlib.closing(sqlite3.connect(core.state_dir / "car.db")) as db:
        types = [row[0] for row in db.execute("SELECT type FROM events ORDER BY seq")]
    assert types == ["session_start", "session_end"]


@pytest.mark.parametrize("ending", [end_of_input, sigterm])
def test_a_worker_that_hangs_is_killed(
    start_core: StartCore, ending: Callable[[Core], int]
) -> None:
    core = start_core("--drain-ms", "0")
    core.initialize()
    core.fake("t/stall:worker", IN_WORKER, event("a"), {"stall": True})
    core.first_event(core.generate("t/stall:worker"), "text_delta")
    processes = core.tree()
    core.worker().suspend()
    expected = ending(core)
    assert core.wait() == expected
    assert_gone(processes)


def test_a_signal_cuts_the_time_short_that_requests_have_to_finish(start_core: StartCore) -> None:
    core = start_core("--drain-ms", "600000")
    core.initialize()
    core.fake("t/stall:worker", IN_WORKER, event("a"), {"stall": True})
    core.first_event(core.generate("t/stall:worker"), "text_delta")
    processes = core.tree()
    core.worker().suspend()  # and it does not react to a cancel
    core.close_stdin()
    wait_until(lambda: "stopping" in core.stderr())
    os.kill(core.pid, signal.SIGTERM)
    core.wait()
    assert_gone(processes)


@pytest.mark.parametrize("io", ["pipes", "sockets"])
@pytest.mark.parametrize("when", ["at once", "later"])
def test_an_app_that_is_gone_altogether_is_not_waited_for(
    start_core: StartCore, io: str, when: str
) -> None:
    core = start_core("--drain-ms", "600000", io=io)
    core.initialize()
    core.fake("t/stall:worker", IN_WORKER, event("a"), {"stall": True})
    core.first_event(core.generate("t/stall:worker"), "text_delta")
    processes = core.tree()
    if when == "later":
        core.close_stdin()
        wait_until(lambda: "stopping" in core.stderr())
        core.stop_reading()
    else:
        core.stop_reading()
        core.close_stdin()
    assert core.wait() == 4  # the end of the stream could not be written
    assert_gone(processes)


def test_requests_that_do_not_finish_have_two_seconds(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/stall:worker", IN_WORKER, event("a"), {"stall": True})
    stalled = core.generate("t/stall:worker")
    core.first_event(stalled, "text_delta")
    processes = core.tree()
    core.close_stdin()
    assert core.wait(DRAIN_S + EXIT_S + SLACK_S) == 0
    assert_gone(processes)
    core.ended_output()
    assert core.response(stalled)["error"]["code"] == -32800


def test_a_database_that_another_process_holds_does_not_keep_it(start_core: StartCore) -> None:
    core = start_core("--drain-ms", "0")
    core.state_dir.mkdir()
    with contextlib.closing(sqlite3.connect(core.state_dir / "car.db")) as db:
        db.execute("CREATE TABLE other (x)")
        db.execute("BEGIN EXCLUSIVE")
        core.initialize()
        core.ping()
        core.close_stdin()
        # Less than what the core would wait for the database.
        assert core.wait(EXIT_S + 2.5) == 0


def test_requests_may_finish_after_the_end_of_input(start_core: StartCore) -> None:
    core = start_core("--drain-ms", "60000")
    core.initialize()
    core.fake("t/slow:1", IN_WORKER, event("a"), {"sleep_ms": 300}, event("b"))
    slow = core.generate("t/slow:1")
    core.close_stdin()
    assert core.wait(60) == 0
    core.ended_output()
    assert core.response(slow)["result"]["text"] == "ab"


def test_a_run_of_the_app_ends_with_its_input(start_core: StartCore) -> None:
    core = start_core("--drain-ms", "600000")
    core.initialize()
    core.register("t/app:1", {"type": "delegated"})
    core.call("runner.register")
    run = core.generate("t/app:1")
    core.wait_for(lambda m: m.get("method") == "runner.run")
    core.close_stdin()
    assert core.wait() == 0
    assert core.response(run)["error"]["data"]["kind"] == "runner_failed"


def test_shutdown_refuses_new_work_and_lets_the_old_finish(start_core: StartCore) -> None:
    core = start_core("--drain-ms", "60000")
    core.initialize()
    core.fake("t/slow:1", event("a"), {"sleep_ms": 300}, event("b"))
    slow = core.generate("t/slow:1")
    core.first_event(slow, "text_delta")
    shutdown = core.ask("shutdown")
    assert core.fail("models.list")["data"]["kind"] == "shutting_down"
    core.ping()
    answer = core.response(shutdown)
    assert core.response(slow)["result"]["text"] == "ab"
    assert core.index(core.response(slow)) < core.index(answer)
    core.notify("exit", {})
    assert core.wait() == 0


def test_a_cut_message_at_the_end_of_input_is_answered(start_core: StartCore) -> None:
    core = start_core(framing="lsp")
    core.initialize()
    core.send_raw(b'Content-Length: 500\r\n\r\n{"jsonrpc":"2.0","id":"cut","method":"ping",')
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    assert core.response("cut")["error"]["data"]["kind"] == "parse_error"


# The parent's death, while somebody else holds the pipe open (here: this test)


@pytest.mark.parametrize("told_by", ["process_id", "parent_pid"])
@pytest.mark.parametrize("situation", [idle, busy])
def test_the_parents_death_ends_it_although_the_pipe_is_open(
    start_core: StartCore,
    make_gate: Callable[[str], Gate],
    inherits_orphans: None,
    situation: Callable[..., tuple[Core, list]],
    told_by: str,
) -> None:
    core, _ = situation(start_core, make_gate, kind=Adopted, told_by=told_by)
    assert isinstance(core, Adopted)
    processes = core.tree()
    core.parent.kill()
    core.parent.wait()
    assert core.exit_code() == 3
    assert_gone(processes)


def test_a_parent_that_died_before_the_handshake_ends_it(
    start_core: StartCore, inherits_orphans: None
) -> None:
    core = start_core(kind=Adopted)
    assert isinstance(core, Adopted)
    core.ping()  # it has started
    core.parent.kill()
    core.parent.wait()
    core.ask("initialize", {"protocol_version": 1, "process_id": core.parent.pid})
    assert core.exit_code() == 3


def test_a_parent_that_died_before_the_start_ends_it(start_core: StartCore) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ""])
    parent.wait()
    core = start_core("--parent-pid", str(parent.pid))
    assert core.wait(30) == 3


def test_a_process_that_is_no_ancestor_is_not_watched(start_core: StartCore) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    core = start_core()
    core.initialize(process_id=stranger.pid)
    stranger.communicate(b"\n")
    wait_until(lambda: f"process {stranger.pid} is not an ancestor" in core.stderr())
    core.call("models.list")
    core.ping()


def test_the_death_of_the_core_is_seen_by_its_client(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/stall:1", event("a"), {"stall": True})
    stalled = core.generate("t/stall:1")
    core.first_event(stalled, "text_delta")
    os.kill(core.pid, signal.SIGKILL)
    with pytest.raises(Closed):
        core.response(stalled)


# The worker's death


def test_kill_9_of_a_worker_fails_its_requests_and_nothing_else(
    start_core: StartCore, proof_count: Callable[[int, int], int]
) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/stall:worker", IN_WORKER, event("a"), {"stall": True})
    core.fake("t/stall:core", event("a"), {"stall": True})
    bystander = core.generate("t/stall:core")
    for _ in range(proof_count(2, 50)):
        streams = [core.generate("t/stall:worker", recovery="none") for _ in range(2)]
        for stream in streams:
            core.first_event(stream, "text_delta")
        worker = core.worker()
        worker.kill()
        for stream in streams:
            error = core.response(stream)["error"]
            assert error["data"]["kind"] == "worker_crashed"
            assert error["data"]["retryable"] is True
            assert "SIGKILL" in error["message"]
            assert core.stream(stream)[-1]["event"]["kind"] == "worker_crashed"
        assert_gone([worker])
    assert core.responses(bystander) == 0
    core.ping()


def test_a_script_that_crashes_takes_only_its_worker(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/crash:1", event("last words"), {"crash": True})
    for _ in range(2):
        stream = core.generate("t/crash:1", recovery="none")
        assert core.response(stream)["error"]["data"]["kind"] == "worker_crashed"
    core.ping()
    rows = core.call("eventlog.query", {"types": ["worker_crash"]})["events"]
    assert [row["data"]["model"] for row in rows] == ["t/crash:1"] * 2


def test_workers_come_after_the_core_in_priority(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/stall:worker", IN_WORKER, event("a"), {"stall": True})
    core.first_event(core.generate("t/stall:worker"), "text_delta")
    nice = psutil.Process(core.pid).nice()
    assert core.worker().nice() > min(nice, 18)


def test_a_load_goes_on_when_its_first_request_is_cancelled(
    start_core: StartCore, make_gate: Callable[[str], Gate], tmp_path: Path
) -> None:
    gate = make_gate(LOADING)
    core = start_core(env=gate.env)
    core.initialize()
    core.register("t/none:1", {"type": "local", "path": str(tmp_path / "none.gguf")})
    first, second = core.generate("t/none:1"), core.generate("t/none:1")
    wait_until(gate.reached)
    core.ping()
    core.cancel(first)
    assert core.response(first)["error"]["code"] == -32800
    assert core.responses(second) == 0
    gate.open()
    error = core.response(second)["error"]
    assert error["data"]["kind"] == "io_error"
    assert str(tmp_path / "none.gguf") in error["message"]
