"""What `--trace` writes down is a dialogue, which any core and any binding can be played with."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import StartCore, event

pytestmark = pytest.mark.process

CONFORMANCE = Path(__file__).parents[2] / "spec" / "conformance"


@pytest.fixture
def trace(start_core: StartCore, tmp_path: Path) -> Path:
    """A connection on which much happened, written down."""
    path = tmp_path / "happened.ndjson"
    core = start_core("--trace", str(path))
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    core.fake("t/stall:1", event("a"), {"stall": True})
    core.register("t/app:1", {"type": "delegated", "hint": "big"})
    core.call("runner.register")
    core.response(core.generate("t/echo:1", "one $two three"))
    stalled = core.generate("t/stall:1")
    core.first_event(stalled, "text_delta")
    core.cancel(stalled)
    core.response(stalled)
    delegated = core.generate("t/app:1", "x", x_unknown={"kept": True})
    run: dict[str, Any] = core.wait_for(lambda m: m.get("method") == "runner.run")
    core.send({"jsonrpc": "2.0", "id": run["id"], "result": {"text": "served"}})
    core.response(delegated)
    core.send_raw(b"no message\n")
    core.wait_for(lambda m: m.get("error", {}).get("code") == -32700)
    core.call("shutdown")
    core.notify("exit", {})
    core.wait()
    return path


def conformance(tool: str, *arguments: str) -> str:
    command = [sys.executable, str(CONFORMANCE / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_trace_can_be_played_with_a_core(trace: Path) -> None:
    core = [sys.executable, "-P", "-m", "car_rpc", "serve"]

    printed = conformance("play.py", str(trace), "--framing", "ndjson", "--", *core)

    assert "1 of 1 passed" in printed


def test_a_trace_can_be_played_with_a_client(trace: Path) -> None:
    core = [sys.executable, str(CONFORMANCE / "fake_core.py"), str(trace)]

    printed = conformance("play.py", str(trace), "--framing", "ndjson", "--", *core)

    assert "1 of 1 passed" in printed


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_trace_is_private(trace: Path) -> None:
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written_costs_only_the_trace(
    start_core: StartCore, tmp_path: Path
) -> None:
    core = start_core("--trace", str(tmp_path / "missing" / "t.ndjson"))
    core.initialize()
    core.ping()
    core.close_stdin()
    core.wait()
    assert "there is no trace" in core.stderr()
