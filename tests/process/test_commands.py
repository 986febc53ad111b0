"""Commands in a terminal that look at models, on the real process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.conftest import ROOT, WAIT_S, StartCore

pytestmark = pytest.mark.process


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "car_rpc", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=WAIT_S,
        check=False,
    )


@pytest.fixture
def state(start_core: StartCore) -> list[str]:
    """Options for a state directory that knows two models."""
    core = start_core()
    core.initialize()
    core.fake("me/one:1", {"echo": True})
    core.fake("me/two:1", {"echo": True})
    core.close_stdin()
    core.wait()
    return ["--state-dir", str(core.state_dir)]


def rows(text: str) -> dict[str, str]:
    """What stands behind the id in each line that begins with one."""
    lines = (line.partition(" ") for line in text.splitlines())
    return {first: rest.strip() for first, _, rest in lines if first.count(":") == 1 and rest}


def test_models_shows_what_is_here_and_the_catalog_when_it_is_asked_for(state: list[str]) -> None:
    short = run("models", *state)
    assert short.returncode == 0, short.stderr
    assert rows(short.stdout)["me/one:1"].split() == ["ok", "-", "-", "generate"]
    assert "--all" in short.stderr
    catalog = "qwen/qwen3-0.6b:q8_0"
    assert catalog not in short.stdout
    full = rows(run("models", "--all", *state).stdout)
    assert "GiB" in full[catalog]
    assert len(full) > 50


def test_call_may_allow_the_folder_of_a_file(state: list[str], tmp_path: Path) -> None:
    notes = tmp_path / "pictures" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("hello")
    block = {"type": "document", "source": {"type": "path", "path": str(notes)}}
    asked = json.dumps({"messages": [{"role": "user", "content": [block]}]})
    refused = run("call", "models.route", asked, *state)
    assert refused.returncode == 1
    assert "--allow-path" in refused.stderr
    allowed = run("call", "models.route", asked, "--allow-path", str(notes.parent), *state)
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads(allowed.stdout)["model_id"].startswith("me/")


def test_models_explain_says_why_each_other_model_lost(state: list[str]) -> None:
    done = run("models", "explain", "Hello", *state)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("me/one:1: best score for generate of ")
    shown = rows(done.stdout.partition("\n\n")[2])
    assert shown["me/one:1"].endswith("<- selected")
    assert shown["me/two:1"].endswith("lower score")
    named = json.loads(run("models", "explain", "x", "--model", "two", "--json", *state).stdout)
    assert (named["model_id"], named["reason"]) == ("me/two:1", "explicit model")
    missing = run("models", "explain", "x", "--model", "nobody", *state)
    assert missing.returncode == 1
    assert "nobody" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_models_explain_says_what_each_lacks_when_none_can(
    state: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[routing]\nmin_trust_tier = "curated"\nmax_latency_ms = 0\nmax_cost_usd = 0\n'
    )
    done = run("models", "explain", "x", *state, "--config", str(config), "--models-dir", "/none")
    if done.returncode:  # without an engine for the demo models nobody is left
        assert done.stdout == ""
        shown = rows(done.stderr)
    else:
        shown = rows(done.stdout)
    assert shown["me/one:1"].endswith("below min_trust_tier")


def test_the_doctor_shows_the_health_in_short(state: list[str]) -> None:
    done = run("doctor", *state)
    assert done.returncode == 0, done.stderr
    health = done.stdout.partition("\nhealth\n")[2].splitlines()
    assert " available" in health[0]
    assert any(line.split()[:3] == ["interactive", "text", "me/one:1:"] for line in health)
    assert any(line.split()[:3] == ["interactive", "vision", "nobody:"] for line in health)
