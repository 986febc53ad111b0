"""Clients that others wrote, and a shell, drive the real process."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.conftest import ROOT, request

pytestmark = pytest.mark.process

CLIENTS = ROOT / "tests" / "clients"
SERVE = [sys.executable, "-m", "car_rpc", "serve"]

#: Bound of a client's whole run, in seconds; it takes two on an idle machine.
CLIENT_S = 50


#: Node is the one thing that `make test-setup` does not bring.
node_only = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


def run_client(state_dir: Path, *words: str) -> str:
    done = subprocess.run(
        ["node", *words, *SERVE, "--state-dir", str(state_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=CLIENT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@node_only
@pytest.mark.parametrize(
    "scenario", ["requests", "stream", "cancel", "progress", "runner", "failing_runner"]
)
def test_vscode_jsonrpc_finds_what_it_expects(tmp_path: Path, scenario: str) -> None:
    said = run_client(tmp_path / "state", str(CLIENTS / "vscode.js"), scenario)
    assert said == f"{scenario} is as it should be\n"


@node_only
def test_the_line_transport_of_mcp_finds_what_it_expects(tmp_path: Path) -> None:
    assert run_client(tmp_path / "state", str(CLIENTS / "mcp.js")) == "MCP is as it should be\n"


def test_a_shell_can_pipe_requests_and_gets_all_answers(tmp_path: Path) -> None:
    model = {"id": "t/echo:1", "source": {"type": "fake", "script": [{"echo": True}]}}
    lines = [
        json.dumps(each)
        for each in (
            request(1, "initialize", {"protocol_version": 1}),
            request(2, "models.register", {"model": {**model, "capabilities": ["generate"]}}),
            request(3, "generate", {"model": "t/echo:1", "prompt": "It's $HOME\n"}),
            request(4, "ping"),
        )
    ]
    script = "printf '%s\\n' \"$@\" | $SERVE"
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *lines],
        cwd=ROOT,
        env={"SERVE": f"{sys.executable} -m car_rpc serve --state-dir {tmp_path / 'state'}"},
        capture_output=True,
        text=True,
        timeout=CLIENT_S,
        check=False,
    )
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    assert sorted(answers) == [1, 2, 3, 4]
    assert answers[3]["result"]["text"] == "It's $HOME\n"
    assert done.returncode == 0
