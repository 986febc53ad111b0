"""The fuzzer that follows the code, as a part of `make soak`; see `atheris_connection.py`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SOAK

ROOT = Path(__file__).parent.parent.parent
FOR_S = 600


@pytest.mark.skipif(
    not SOAK or importlib.util.find_spec("atheris") is None,
    reason="ten minutes of `make soak`, where atheris is installed",
)
@pytest.mark.timeout(2 * FOR_S)
def test_no_input_is_found_that_is_answered_wrong(tmp_path: Path) -> None:
    module = "tests.fuzz.atheris_connection"
    options = (f"-max_total_time={FOR_S}", "-max_len=4000", f"-artifact_prefix={tmp_path}/")
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
