"""The documents agree with the tables, with each other, and with what the process announces."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from car_rpc.cli import run_command
from car_rpc.errors import KINDS
from car_rpc.eventlog.story import MEMBERS
from car_rpc.spec import documents, literals
from car_rpc.spec.docstrings import describe
from car_rpc.wire import announced, lifecycle
from car_rpc.wire.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


def test_every_method_has_its_row(spec: dict[str, Any], definitions: dict[str, Any]) -> None:
    table = spec["methods"]["methods"]
    assert list(table) == sorted(METHODS)
    for name, row in METHODS.items():
        made = table[name]
        assert made["summary"].endswith("."), name
        assert (made["kind"], made["direction"]) == (row.kind, row.direction)
        assert ("result" in made) == (row.kind != "notification"), name
        for member in ("params", "result", "error_data"):
            target = made.get(member, {}).get("$ref", "schema.json#/$defs/ErrorData")
            assert target.removeprefix("schema.json#/$defs/") in definitions
        assert made.get("stream") is None or made["stream"] in table


def test_what_flows_back_from_a_run_is_in_its_row(spec: dict[str, Any]) -> None:
    row = spec["methods"]["methods"]["runner.run"]
    assert row["direction"] == "core_to_client"
    assert row["result"] == {"$ref": "schema.json#/$defs/RunnerResult"}
    assert row["stream"] == "runner.event"
    assert row["error_data"] == {"$ref": "schema.json#/$defs/RunnerErrorData"}


def test_every_kind_of_error_has_its_row(spec: dict[str, Any]) -> None:
    kinds = spec["errors"]["kinds"]
    assert list(kinds) == list(KINDS)
    assert kinds["timeout"] == {
        "code": 1004,
        "display": "timeout: {}",
        "retryable": True,
        "counts_toward_breaker": True,
        "meaning": "A time limit ran out.",
    }


def test_the_process_announces_what_the_documents_say(spec: dict[str, Any]) -> None:
    assert {name: getattr(announced, name) for name in literals()} == literals()
    assert spec["version"]["hash"] == announced.SPEC_HASH
    assert announced.PROTOCOL_VERSION == lifecycle.PROTOCOL_VERSION
    assert "runner.run" not in announced.METHODS
    assert {"generate", "ping", "runner.event"} <= set(announced.METHODS)


def test_to_announce_it_nothing_is_imported() -> None:
    assert isinstance(announced.__file__, str)
    tree = ast.parse(Path(announced.__file__).read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    program = "import sys, car_rpc.wire.announced; print('msgspec' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_the_hash_is_of_what_binds_and_not_of_how_it_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = announced.SPEC_HASH
    ping = METHODS["ping"]
    monkeypatch.setitem(METHODS, "ping", ping._replace(summary="Other words."))
    assert documents()["version"]["hash"] == before
    monkeypatch.setitem(METHODS, "ping", ping._replace(kind="either"))
    assert documents()["version"]["hash"] != before


def test_the_command_line_prints_the_same(
    spec: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == spec


def test_a_docstring_tells_of_the_type_and_of_its_fields() -> None:
    class Sample:
        """First line
        goes on with ``code``.

        Second paragraph.

        Attributes:
            one: Said in
                two lines: with a colon.
            two: Said.
        """

    about, fields = describe(Sample)
    assert about == "First line goes on with `code`.\n\nSecond paragraph."
    assert fields == {"one": "Said in two lines: with a colon.", "two": "Said."}


def test_a_type_without_attributes_is_still_described() -> None:
    class Sample:
        """One line."""

    assert describe(Sample) == ("One line.", {})
    assert describe(object())[1] == {}


def test_the_table_of_the_log_has_the_events_that_the_checker_knows() -> None:
    text = (ROOT / "spec" / "PROTOCOL.md").read_text(encoding="utf-8")
    table = text[text.index("| type | when | data |") :].split("\n\n")[0]
    told: dict[str, str] = {}
    for row in table.splitlines()[2:]:
        _, types, _, members, _ = row.split("|")
        told |= dict.fromkeys(re.findall(r"`(\w+)`", types), members)
    assert set(told) == set(MEMBERS)
    for event_type, members in MEMBERS.items():
        for member in members:
            assert f"`{member}`" in told[event_type], (event_type, member)
