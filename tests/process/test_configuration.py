import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import ROOT, WAIT_S, StartCore

pytestmark = pytest.mark.process

FAILS = {"fail": {"kind": "provider_error"}}


def test_what_the_file_and_the_environment_say_counts(
    start_core: StartCore, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[retry]\nmax_retries = 1\nbackoff_base_ms = 0\n")
    core = start_core("--config", str(file), env={"CAR_BREAKER_FAILURE_THRESHOLD": "2"})
    core.initialize()
    core.fake("t/fails:1", FAILS)
    failed = core.response(core.generate("t/fails:1"))["error"]["data"]
    assert failed["kind"] == "provider_error"
    shut = core.response(core.generate("t/fails:1"))["error"]["data"]
    assert shut["kind"] == "all_models_unavailable", "two failures in one request opened it"


def test_the_preferred_model_answers_and_a_request_goes_before_it(
    start_core: StartCore, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[preferred]\ngeneration = "liked"\n')
    core = start_core("--config", str(file))
    core.initialize()
    for name in ("first", "liked"):
        core.fake(f"t/{name}:1", {"echo": True})
    assert core.call("generate", {"prompt": "x"})["model_used"] == "t/liked:1"
    assert core.call("generate", {"prompt": "x", "model": "first"})["model_used"] == "t/first:1"


def test_a_wrong_file_answers_every_request_with_its_line_and_the_process_lives(
    start_core: StartCore, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[retry]\nmax_retrys = 1\n")
    core = start_core("--config", str(file))
    core.initialize()
    for _ in range(2):
        error = core.response(core.ask("models.list"))["error"]
        assert (error["data"]["kind"], error["data"]["line"]) == ("invalid_params", 2)
        assert "mine.toml, line 2" in error["message"]
        assert "max_retries" in error["message"]
    core.ping()


def test_the_command_line_shows_the_configuration_that_counts(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[breaker]\nweight_4xx = 1\n")

    def shown() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "car_rpc", "config", "--state-dir", str(tmp_path)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=WAIT_S, check=False
        )

    assert "weight_4xx = 1  # instead of 0" in shown().stdout
    (tmp_path / "config.toml").write_text("[breaker]\nweight = 1\n")
    refused = shown()
    assert refused.returncode == 1
    assert refused.stderr.startswith("car-rpc: invalid params: ")
    assert "config.toml, line 2" in refused.stderr


def test_what_the_file_calls_private_reaches_the_client_and_never_the_disk(
    start_core: StartCore, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    file = tmp_path / "mine.toml"
    file.write_text("[privacy]\npatterns = ['ACME-[0-9]+']\n")
    core = start_core("--config", str(file), state_dir=state_dir)
    core.initialize()
    key = "sk-" + "a1B2" * 8
    pieces = ["to ACME", "-12", "34 and ", key[:9], key[9:], "."]
    core.fake("t/tells:1", *({"emit": {"type": "text_delta", "text": piece}} for piece in pieces))
    said = core.call("generate", {"model": "t/tells:1", "prompt": "of ACME-77?"})
    assert said["text"] == f"to ACME-1234 and {key}."
    hashed = core.call("generate", {"model": "t/tells:1", "prompt": "?", "privacy": "metadata"})

    def events(trace_id: str) -> dict[str, dict[str, Any]]:
        story = core.call("eventlog.query", {"trace_id": trace_id})["events"]
        return {event["type"]: event["data"] for event in story}

    story = events(said["trace_id"])
    assert story["request"]["params"]["prompt"] == "of [redacted:pattern]?"
    assert [event.get("text") for event in story["deltas"]["events"][:-1]] == [
        *("to [redacted:pattern]", "", " and ", "[redacted:api_key]", "", "."),
    ]
    assert all(story[name]["redacted"] for name in ("request", "deltas", "completion"))
    assert "redacted" not in story["attempt"]
    params = events(hashed["trace_id"])["request"]["params"]
    assert sorted(params) == ["bytes", "hash"]
    core.close_stdin()
    core.wait()
    for written in state_dir.iterdir():
        assert b"ACME-1" not in written.read_bytes()
        assert key[6:].encode() not in written.read_bytes()


def test_the_doctor_says_what_is_wrong_with_the_configuration_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[breaker]\nweight = 1\n")
    command = [sys.executable, "-m", "car_rpc", "doctor", "--state-dir", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=WAIT_S, check=False
    )
    assert done.returncode == 1
    assert "config.toml, line 2" in done.stdout
    assert "wire\n  ok" in done.stdout
