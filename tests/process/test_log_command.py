"""``car-rpc log`` as a person uses it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import ROOT, WAIT_S, Core, StartCore

pytestmark = pytest.mark.process

COMMAND = [sys.executable, "-m", "car_rpc", "log"]


def run(state_dir: Path, *arguments: str, expected: int = 0) -> str:
    """What a command prints."""
    done = subprocess.run(
        [*COMMAND, *arguments, "--state-dir", str(state_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    return done.stdout + (done.stderr if expected else "")


@contextmanager
def following(state_dir: Path, *arguments: str) -> Iterator[Iterator[str]]:
    """The lines of a command that goes on."""
    command = [*COMMAND, "--follow", *arguments, "--state-dir", str(state_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield iter(process.stdout)
        finally:
            process.terminate()


@pytest.fixture
def echo(start_core: StartCore) -> Core:
    core = start_core()
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    return core


def say(core: Core, prompt: str, **params: Any) -> str:
    result = core.call("generate", {"model": "t/echo:1", "prompt": prompt, **params})
    return str(result["trace_id"])


def test_a_request_is_shown_as_a_timeline(echo: Core) -> None:
    trace_id = say(echo, "Hello there")
    head, *lines = run(echo.state_dir, "--trace", trace_id).splitlines()
    assert head.startswith(f"{trace_id}  generate")
    assert "request" in lines[0]
    assert '"Hello there"' in lines[0]
    assert any("route" in each and "t/echo:1" in each for each in lines)
    assert "success" in lines[-1]
    assert "nothing of tr_none" in run(echo.state_dir, "--trace", "tr_none", expected=1)


def test_following_shows_what_was_and_what_other_processes_write(echo: Core) -> None:
    before = say(echo, "before")
    with following(echo.state_dir, "--json", "--limit", "1000") as lines:
        events = []
        for text in lines:
            events.append(json.loads(text))
            if events[-1]["trace_id"] == before and events[-1]["type"] == "completion":
                break
        after = say(echo, "after")
        for text in lines:
            events.append(json.loads(text))
            if events[-1]["trace_id"] == after and events[-1]["type"] == "completion":
                break
    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))


def test_an_export_is_imported_into_another_log(echo: Core, tmp_path: Path) -> None:
    trace_id = say(echo, "to be kept", conversation_id="talk")
    file = tmp_path / "log.jsonl"
    run(echo.state_dir, "export", "--conversation", "talk", "--output", str(file))
    other = tmp_path / "other"
    run(other, "import", str(file))
    run(other, "import", str(file))  # a second time adds nothing
    printed = run(other, "export", "--trace", trace_id)
    here, there = (
        [{**json.loads(each), "seq": 0} for each in text.splitlines()]
        for text in (file.read_text(), printed)
    )
    assert here == there
    assert len(here) >= 4
    (tmp_path / "wrong.jsonl").write_text("{}\n")
    assert "line 1" in run(other, "import", str(tmp_path / "wrong.jsonl"), expected=1)


def test_the_log_is_verified_and_purged(echo: Core) -> None:
    trace_id = say(echo, "to be forgotten")
    assert "events deleted" in run(echo.state_dir, "purge", "--trace", trace_id)
    assert run(echo.state_dir, "export", "--trace", trace_id) == ""
    assert "are as they were written" in run(echo.state_dir, "verify")
