"""The demo model that ships: its files are what was recorded, and both engines agree on it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "demo_model"


@pytest.mark.llama
@pytest.mark.process
@pytest.mark.timeout(900)
def test_files_have_their_hashes_and_llama_cpp_and_mlx_do_the_same_with_them(
    proof_count: Callable[[int, int], int],
) -> None:
    finished = subprocess.run(
        [sys.executable, "check.py", "--each", str(proof_count(1, 4))],
        cwd=TOOLS,
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "| files have their recorded hashes | 7/7 |" in finished.stdout
