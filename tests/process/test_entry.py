"""The ways to start it, and what it says when it is started wrongly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.conftest import ROOT, WAIT_S, StartCore

pytestmark = pytest.mark.process

SCRIPT = Path(sys.executable).with_name("car-rpc")

#: Each serves when its input is no terminal.
COMMANDS = {
    "module serve": (sys.executable, "-m", "car_rpc", "serve"),
    "module": (sys.executable, "-m", "car_rpc"),
    "script serve": (str(SCRIPT), "serve"),
    "script": (str(SCRIPT),),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_way_to_start_it_serves(start_core: StartCore, name: str) -> None:
    core = start_core(command=COMMANDS[name])
    assert core.initialize()["server_info"]["name"] == "car-rpc"
    core.close_stdin()
    assert core.wait() == 0


def test_the_framing_can_be_fixed(start_core: StartCore) -> None:
    core = start_core("--framing", "lsp", framing="lsp")
    core.send_raw(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')  # no header of LSP
    core.ping()
    assert core.messages[0]["error"]["data"]["kind"] == "parse_error"


def run(*arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "car_rpc", *arguments],
        stdin=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=WAIT_S,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--nonsense"),
        ("--nonsense",),
        ("serve", "--max-message-bytes", "0"),
        ("serve", "--drain-ms", "-1"),
        ("serve", "--framing", "morse"),
        ("no-such-command",),
    ],
)
def test_a_wrong_command_line_is_said_on_stderr(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("--version",)])
def test_help_goes_to_stdout(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 0
    assert "car-rpc" in done.stdout


def test_in_a_terminal_it_shows_its_help() -> None:
    ours, theirs = os.openpty()
    done = run(stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert "usage:" in done.stdout


def test_an_empty_input_ends_at_once(tmp_path: Path) -> None:
    done = run("serve", "--state-dir", str(tmp_path))
    assert done.returncode == 0
    assert done.stdout == ""
