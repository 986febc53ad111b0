"""The doctor talks to a process as an app would, and says what is wrong with its wire."""

import sys
from pathlib import Path

import pytest

from car_rpc.cli import wire_check
from car_rpc.client import SERVE

pytestmark = pytest.mark.process

#: Answers each line that is a request, as the check expects it.
ANSWERS = """
import json, sys
for line in sys.stdin:
    try:
        print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": {}}))
    except ValueError:
        print(json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": -32700}}))
"""


async def checked(script: str) -> str:
    return await wire_check.check_wire([sys.executable, "-c", script])


async def test_our_own_process_is_in_order(tmp_path: Path) -> None:
    line = await wire_check.check_wire([*SERVE, "--state-dir", str(tmp_path)])

    assert line.startswith("ok - ")


async def test_whatever_answers_as_it_should_is_in_order() -> None:
    assert (await checked(ANSWERS)).startswith("ok - ")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("print('hello');" + ANSWERS, "something else than messages"),
        (ANSWERS.replace("sys.stdin", "list(sys.stdin)[:2]"), "0 answers to"),
        (ANSWERS + "\nsys.exit(3)", "exit code 3"),
        ("", "0 answers to"),
    ],
)
async def test_what_is_wrong_is_named(script: str, problem: str) -> None:
    line = await checked(script)

    assert line.startswith("broken: ")
    assert problem in line


async def test_a_process_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_check, "CHECK_TIMEOUT_S", 0.5)

    assert "no end after" in await checked("import threading; threading.Event().wait()")
