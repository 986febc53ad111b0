"""Nothing but messages on stdout, whoever prints; and a log that nobody has to read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.conftest import (
    IN_WORKER,
    ROOT,
    WAIT_S,
    StartCore,
    check_stream,
    event,
    parse,
    request,
    wait_until,
)

pytestmark = pytest.mark.process

#: Modules of every layer that the core imports after it has claimed its descriptors.
NOISY = ("asyncio", "msgspec", "car_rpc.host.server", "jsonrpcserver", "sqlite3", "asyncio.tasks")


def test_prints_during_imports_become_log_lines(start_core: StartCore, site_dir: Path) -> None:
    env = {"PYTHONPATH": str(site_dir), "NOISY_IMPORTS": ",".join(NOISY)}
    core = start_core(env=env)
    core.initialize()
    core.call("models.list")
    core.close_stdin()
    assert core.wait() == 0
    assert len(core.ended_output()) == 2
    for module in NOISY:
        assert f"native print while importing {module}" in core.stderr()
    for module in ("jsonrpcserver", "sqlite3"):  # imported when the log is at work
        assert f"INFO car_rpc.captured: python print while importing {module}" in core.stderr()
        assert f"INFO car_rpc.captured: native print while importing {module}" in core.stderr()


@pytest.mark.parametrize("io", ["pipes", "sockets"])
def test_native_prints_of_a_worker_become_log_lines_and_notifications(
    start_core: StartCore, io: str
) -> None:
    core = start_core(io=io)
    core.initialize(capabilities={"log": {"level": "info"}})
    core.fake("t/noisy:1", {"print": '{"jsonrpc":"2.0","id":1,"result":{}}\n'}, event("clean"))
    stream = core.generate("t/noisy:1")
    assert core.response(stream)["result"]["text"] == "clean"
    check_stream(core.stream(stream))
    line = core.wait_for(lambda m: m.get("method") == "log" and '"jsonrpc"' in str(m["params"]))
    assert line["params"]["level"] == "info"
    assert line["params"]["source"] == "car_rpc.worker.t/noisy:1"
    core.close_stdin()
    assert core.wait() == 0
    assert '{"jsonrpc":"2.0","id":1,"result":{}}' in core.stderr()


def test_a_log_that_nobody_reads_holds_nothing_up(start_core: StartCore) -> None:
    reading, writing = os.pipe()
    core = start_core("--log-level", "debug", stderr=writing)
    os.close(writing)
    core.initialize()
    core.fake("t/noisy:1", *[{"print": "x" * 7000 + "\n"}] * 250, event("said"))  # 1.7 MB
    assert core.response(core.generate("t/noisy:1"))["result"]["text"] == "said"
    core.ping()
    core.close_stdin()
    assert core.wait() == 0
    os.close(reading)


def test_a_log_whose_reader_is_gone_ends_nothing(start_core: StartCore) -> None:
    reading, writing = os.pipe()
    core = start_core("--log-level", "debug", stderr=writing)
    os.close(writing)
    os.close(reading)
    core.initialize()
    core.fake("t/noisy:1", IN_WORKER, {"print": "more\n"}, event("said"))
    for _ in range(2):
        assert core.response(core.generate("t/noisy:1"))["result"]["text"] == "said"
    core.close_stdin()
    assert core.wait() == 0


#: Closes descriptors, then becomes the command.
CLOSE_AND_RUN = """
import os, sys
for fd in sys.argv[1].split(","):
    os.close(int(fd))
os.execv(sys.argv[2], sys.argv[2:])
"""


def closed(fds: str) -> tuple[str, ...]:
    return (sys.executable, "-c", CLOSE_AND_RUN, fds)


def test_a_closed_stderr_at_the_start_is_no_harm(start_core: StartCore) -> None:
    core = start_core(under=closed("2"))
    core.initialize()
    core.fake("t/noisy:1", IN_WORKER, event("said"))
    assert core.response(core.generate("t/noisy:1"))["result"]["text"] == "said"
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()


@pytest.mark.parametrize("fds", ["0", "0,2"])
def test_a_closed_stdin_at_the_start_is_its_end(start_core: StartCore, fds: str) -> None:
    core = start_core(under=closed(fds))
    assert core.wait(30) == 0
    assert core.ended_output() == []
    assert "Traceback" not in core.stderr()


@pytest.mark.parametrize("fds", ["1", "1,2", "0,1,2"])
def test_a_closed_stdout_at_the_start_ends_with_the_input(start_core: StartCore, fds: str) -> None:
    core = start_core(under=closed(fds))
    core.close_stdin()
    assert core.wait(30) in {0, 4}
    assert core.ended_output() == []
    assert "Traceback" not in core.stderr()


def test_workers_inherit_none_of_our_descriptors(start_core: StartCore) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    core = start_core()
    core.initialize()
    core.fake("t/stall:1", IN_WORKER, event("a"), {"stall": True})
    core.first_event(core.generate("t/stall:1"), "text_delta")

    def files(pid: int) -> set[str]:
        return {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_fifo()}

    wire = files(os.getpid()) & files(core.pid)
    assert len(wire) == 2
    assert not wire & files(core.worker().pid)


def test_files_can_be_the_input_and_the_output(start_core: StartCore, tmp_path: Path) -> None:
    first = start_core()
    first.initialize()
    first.fake("t/echo:1", {"echo": True})
    params = {"model": "t/echo:1", "prompt": "from a file", "stream": True}
    lines = [
        request(1, "initialize", {"protocol_version": 1}),
        request(2, "generate", params),
        request(3, "ping"),
    ]
    source, target = tmp_path / "in.ndjson", tmp_path / "out.ndjson"
    source.write_bytes(first.wrap(*lines).rstrip(b"\n"))  # no line feed at the end
    # Bare `car-rpc`, as in a shell: the input is no terminal, so it serves.
    command = [sys.executable, "-m", "car_rpc", "--drain-ms", "30000", "--state-dir"]
    with source.open("rb") as stdin, target.open("wb") as stdout:
        code = subprocess.run(
            [*command, first.state_dir],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            timeout=WAIT_S,
            check=False,
        ).returncode
    assert code == 0
    messages = [parse(line) for line in target.read_bytes().splitlines()]
    assert [m["id"] for m in messages if "id" in m] == [1, 3, 2]
    assert messages[-1]["result"]["text"] == "from a file"
    check_stream([m["params"] for m in messages if "params" in m])


def test_the_log_of_a_session_goes_to_stderr(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.notify("no.such.notification", {})
    core.ping()
    wait_until(lambda: "'no.such.notification' is unknown" in core.stderr())
