"""The README's own commands and programs, run as they stand, in a folder beside the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(language, code) for language, code in BLOCK.findall(README)]
DEMO_MODEL = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"

pytestmark = [pytest.mark.process, pytest.mark.llama]
needs_node = pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not installed")


def blocks(language: str) -> list[str]:
    return [code for each, code in BLOCKS if each == language]


def is_make(code: str) -> bool:
    # `make test` is what runs this test, and the programs of `make demo` have tests of their own.
    return all(line.startswith("make ") for line in code.splitlines())


def makes_app(code: str) -> bool:
    return code.startswith("mkdir my-app")


def run(command: list[str], folder: Path, state_dir: Path) -> str:
    bin_dir = Path(sys.executable).parent
    environment = {
        **os.environ,
        "CAR_HOME": str(state_dir),
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
    }
    finished = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def shell(code: str, folder: Path, state_dir: Path) -> str:
    return run(["bash", "-euo", "pipefail", "-c", code], folder, state_dir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the checkout beside it, and a model of the reader's own."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "car-rpc").symlink_to(ROOT, target_is_directory=True)
    (folder / "model.gguf").symlink_to(DEMO_MODEL)
    return folder


@pytest.fixture(scope="module")
def app(folder: Path) -> Path:
    """The app that the README lets its reader make."""
    (code,) = [code for code in blocks("bash") if makes_app(code)]
    shell(code, folder, folder / "state")
    return folder / "my-app"


def test_every_block_of_the_readme_is_a_program_a_command_or_a_picture() -> None:
    assert [language for language, _ in BLOCKS].count("text") == 1
    assert {language for language, _ in BLOCKS} == {"bash", "js", "python", "text"}


@pytest.mark.parametrize(
    "code", [code for code in blocks("bash") if not (is_make(code) or makes_app(code))]
)
def test_shell_commands_of_the_readme_run(code: str, folder: Path, tmp_path: Path) -> None:
    assert shell(code, folder, tmp_path)


@needs_node
@pytest.mark.parametrize("code", blocks("js"))
def test_programs_for_node_run_in_the_app_that_the_readme_makes(
    code: str, app: Path, tmp_path: Path
) -> None:
    (app / "main.mjs").write_text(code, encoding="utf-8")
    assert run(["node", "main.mjs"], app, tmp_path)


@pytest.mark.parametrize("code", blocks("python"))
def test_programs_in_python_run(code: str, folder: Path, tmp_path: Path) -> None:
    assert run([sys.executable, "-c", code], folder, tmp_path)


def test_the_example_in_python_runs_and_leaves_no_process_behind(tmp_path: Path) -> None:
    output = run([sys.executable, "examples/python-client/main.py"], ROOT, tmp_path)

    assert "no process is left behind" in output
    assert "Hello from the cloud." in output
    assert "cancelled, with what was there so far:\n  'Once upon a time" in output
    assert "the model calls get_weather({'city': 'Paris'})" in output
    assert "and answers: In Paris it is 18 degrees and sunny." in output


def test_the_example_with_a_server_runs_and_keeps_what_the_server_said_before_it_died(
    tmp_path: Path,
) -> None:
    output = run([sys.executable, "examples/python-server/main.py"], ROOT, tmp_path)

    assert "The capital of France is Paris." in output
    assert "[attempt 2: recovery: connection_reset]" in output
    assert "stream_interrupted (connection_reset), after all attempts" in output
