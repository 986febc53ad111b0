"""The README's own commands and programs, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(language, code) for language, code in BLOCK.findall(README)]

pytestmark = [pytest.mark.process, pytest.mark.llama]


def runnable(code: str) -> bool:
    # `make test` is what runs this test, and `make demo` runs the program tested below.
    return not code.startswith("make ")


def run(command: list[str], tmp_path: Path) -> str:
    bin_dir = Path(sys.executable).parent
    environment = {
        **os.environ,
        "CAR_HOME": str(tmp_path),
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
    }
    finished = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_every_block_of_the_readme_is_a_program_or_a_command() -> None:
    assert {language for language, _ in BLOCKS} <= {"bash", "python"}
    assert sum(runnable(code) for _, code in BLOCKS) >= 4


@pytest.mark.parametrize("code", [c for lang, c in BLOCKS if lang == "bash" and runnable(c)])
def test_shell_commands_of_the_readme_run(code: str, tmp_path: Path) -> None:
    # The tests already run in the environment that the README activates.
    code = code.replace("source .venv/bin/activate\n", "")
    assert run(["bash", "-euo", "pipefail", "-c", code], tmp_path)


@pytest.mark.parametrize("code", [c for lang, c in BLOCKS if lang == "python"])
def test_programs_of_the_readme_run(code: str, tmp_path: Path) -> None:
    assert run([sys.executable, "-c", code], tmp_path)


def test_the_main_job_runs_and_leaves_no_process_behind(tmp_path: Path) -> None:
    output = run([sys.executable, "examples/python-client/main.py"], tmp_path)

    assert "no process is left behind" in output
    assert "Hello from the cloud." in output
    assert "cancelled" in output
    assert "the model calls get_weather({'city': 'Paris'})" in output
    assert "and answers: In Paris it is 18 degrees and sunny." in output
