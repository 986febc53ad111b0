"""The programs of docs/TESTING.md, run as they stand: each records first, and then replays."""

import json
import sys
from pathlib import Path

import pytest

from tests.docs.test_readme import BLOCK, ROOT, app, folder, needs_node, run, shell

__all__ = ["app", "folder"]

pytestmark = [pytest.mark.process]

PAGE = (ROOT / "docs" / "TESTING.md").read_text(encoding="utf-8")
BLOCKS = [(language, code) for language, code in BLOCK.findall(PAGE)]


#: Asks what is not on the cassette of the page.
ASKS_OTHERWISE = """
import { Car } from 'car-rpc';

const command = '../car-rpc/.venv/bin/car-rpc';
const car = await Car.start({ command, cassette: { file: 'hello.jsonl' } });
const { result } = car.generate({ model: 'acme/large:cloud', prompt: 'Hi.' });
console.log(JSON.stringify((await result.catch((error) => error)).data));
await car.close();
"""


def blocks(language: str) -> list[str]:
    return [code for each, code in BLOCKS if each == language]


def test_every_block_of_the_page_is_run_or_read() -> None:
    assert [language for language, _ in BLOCKS] == ["js", "js", "json", "python", "bash", "python"]


def passes(code: str, app: Path, tmp_path: Path) -> None:
    """Run a program with Node's test runner."""
    (app / "main.test.mjs").write_text(code, encoding="utf-8")
    told = run(["node", "--test", "--test-reporter=tap", "main.test.mjs"], app, tmp_path)
    assert "# pass 1\n" in told


@needs_node
@pytest.mark.parametrize("code", blocks("js"))
def test_programs_for_node_pass_when_they_record_and_when_they_replay(
    code: str, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as recording:
        recording.setenv("CASSETTE_MODE", "record")
        passes(code, app, tmp_path)
    passes(code, app, tmp_path)


@needs_node
def test_the_error_that_is_shown_is_the_one_that_comes(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as recording:
        recording.setenv("CASSETTE_MODE", "record")
        passes(blocks("js")[1], app, tmp_path)
    (app / "main.mjs").write_text(ASKS_OTHERWISE, encoding="utf-8")
    assert [json.loads(run(["node", "main.mjs"], app, tmp_path))] == [
        *map(json.loads, blocks("json"))
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_programs_in_python_run(code: str, tmp_path: Path) -> None:
    run([sys.executable, "-c", code], tmp_path, tmp_path / "home")


@pytest.mark.parametrize("code", blocks("bash"))
def test_shell_commands_run(code: str, folder: Path, tmp_path: Path) -> None:
    assert '"id":2' in shell(code, folder, tmp_path).replace(" ", "")
