"""What is left of an ended process: its last words, its exit code and the pipes it was lent."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from tests.process.conftest import (
    ROOT,
    WAIT_S,
    Core,
    StartCore,
    wait_until,
)

pytestmark = pytest.mark.process

#: More than a pipe and the chunk that is being written hold.
BIG = 4 * 1024 * 1024


def with_a_big_answer_unread(start_core: StartCore, *arguments: str) -> tuple[Core, int]:
    """A core whose client has not read an answer that is ready; and the answer's id."""
    core = start_core(*arguments)
    core.initialize()
    core.fake("t/big:1", {"emit": {"type": "text_delta", "text": "x" * BIG}})
    core.stall()
    answer = core.ask("generate", {"model": "t/big:1", "prompt": ""})
    wait_until(lambda: completed(core) == 2)
    return core, answer


def completed(core: Core) -> int:
    """How many requests have come to their end, which is logged before they are answered."""
    with contextlib.closing(sqlite3.connect(core.state_dir / "car.db")) as db:
        rows = db.execute("SELECT count(*) FROM events WHERE type = 'completion'").fetchone()
    return int(rows[0])


def test_a_reader_that_is_slow_at_the_end_gets_the_last_answer_whole(start_core: StartCore) -> None:
    core, answer = with_a_big_answer_unread(start_core, "--drain-ms", "600000")
    core.close_stdin()
    with pytest.raises(subprocess.TimeoutExpired):
        core.wait(1.5)  # longer than a process that does not wait for its reader takes to end
    core.resume()
    assert core.wait() == 0
    core.ended_output()
    assert core.response(answer)["result"]["text"] == "x" * BIG


@pytest.mark.parametrize("drain_ms", ["0", "100"])
def test_an_answer_that_nobody_reads_shows_in_the_exit_code(
    start_core: StartCore, drain_ms: str
) -> None:
    core, _ = with_a_big_answer_unread(start_core, "--drain-ms", drain_ms)
    core.close_stdin()
    assert core.wait() == 4


def test_after_a_signal_the_exit_code_is_that_of_the_signal_although_nobody_reads(
    start_core: StartCore,
) -> None:
    core, _ = with_a_big_answer_unread(start_core)
    core.process.terminate()
    assert core.wait() == 128 + 15


def serve_on(stdin: int, stdout: int, state_dir: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "car_rpc", "serve", "--state-dir", str(state_dir)]
    return subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, cwd=ROOT
    )


PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
EXIT = b'{"jsonrpc":"2.0","method":"exit"}\n'


@pytest.mark.parametrize("ending", ["end of input", "exit", "signal"])
@pytest.mark.parametrize("io", ["pipes", "one socket"])
def test_descriptors_that_the_app_shares_block_again_afterwards(
    tmp_path: Path, io: Literal["pipes", "one socket"], ending: str
) -> None:
    # The app keeps the very ends that it hands over, as a shell does with its terminal.
    with contextlib.ExitStack() as stack:
        if io == "pipes":
            their_stdin, ours_in = os.pipe()
            ours_out, their_stdout = os.pipe()
            fds = {their_stdin, ours_in, ours_out, their_stdout}
        else:
            ours, theirs = socket.socketpair()
            ours_in = ours_out = ours.detach()
            their_stdin = their_stdout = theirs.detach()
            fds = {ours_in, their_stdin}
        for fd in fds:
            stack.callback(lambda fd=fd: fd in fds and os.close(fd))
        process = serve_on(their_stdin, their_stdout, tmp_path / "state")
        stack.callback(process.wait)
        stack.callback(process.kill)
        os.write(ours_in, PING)
        assert b'"result"' in os.read(ours_out, 65536)
        wait_until(lambda: not os.get_blocking(their_stdin))
        if ending == "exit":
            os.write(ours_in, EXIT)
        elif ending == "signal":
            process.terminate()
        elif io == "pipes":
            fds.remove(ours_in)
            os.close(ours_in)
        else:
            with socket.socket(fileno=os.dup(ours_in)) as end:
                end.shutdown(socket.SHUT_WR)
        assert process.wait(WAIT_S) == {"end of input": 0, "exit": 1, "signal": 143}[ending]
        assert os.get_blocking(their_stdin)
        assert os.get_blocking(their_stdout)


def test_a_log_level_of_the_client_counts_for_the_client_alone(start_core: StartCore) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    core = start_core("--log-level", "error")
    core.initialize(process_id=stranger.pid, capabilities={"log": {"level": "info"}})
    line = core.wait_for(lambda m: m.get("method") == "log")
    stranger.communicate(b"\n")
    assert line["params"]["level"] == "warning"
    assert f"process {stranger.pid} is not an ancestor" in line["params"]["message"]
    core.notify("nobody/knows", {})
    core.wait_for(lambda m: m.get("method") == "log" and m["params"]["level"] == "info")
    core.close_stdin()
    assert core.wait() == 0
    assert core.stderr() == ""


@pytest.mark.parametrize("pid", ["0", "-1", str(10**12)])
def test_a_parent_that_cannot_be_is_refused_on_stderr(tmp_path: Path, pid: str) -> None:
    command = [sys.executable, "-m", "car_rpc", "serve", "--parent-pid", pid]
    done = subprocess.run(
        [*command, "--state-dir", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=ROOT,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage:" in done.stderr
    assert b"Traceback" not in done.stderr
