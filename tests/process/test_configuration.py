import subprocess
import sys
from pathlib import Path

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


def test_a_wrong_file_answers_every_request_with_its_line_and_the_process_lives(
    start_core: StartCore, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[retry]\nmax_retrys = 1\n")
    core = start_core("--config", str(file))
    core.initialize()
    for _ in range(2):
        error = core.response(core.ask("models.list"))["error"]
        assert error["data"]["kind"] == "io_error"
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
    assert refused.stderr.startswith("car-rpc: io error: ")
    assert "config.toml, line 2" in refused.stderr
