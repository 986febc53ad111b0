"""The messages of the conformance dialogues are what the schema says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema.protocols import Validator

from car_rpc.errors import CarError
from car_rpc.host.params import decode_params
from car_rpc.spec.names import HELD
from car_rpc.wire.methods import METHODS

DIALOGUES = sorted(
    (Path(__file__).resolve().parents[2] / "spec" / "conformance" / "dialogues").glob("*.ndjson")
)
SIDES = ("client", "core")
RAW = {struct for struct, _ in HELD if struct.startswith("Runner")}


class Said(NamedTuple):
    side: str
    message: dict[str, Any]


def resolved(value: Any, examples: dict[str, Any]) -> Any:
    """A value as it is said: variables have their example, absent members are absent."""
    if isinstance(value, list):
        return [resolved(member, examples) for member in value]
    if isinstance(value, dict):
        return {
            key: resolved(member, examples) for key, member in value.items() if member != "$absent"
        }
    if isinstance(value, str) and value.startswith("$$"):
        return value[1:]
    return examples.get(value[1:], value) if isinstance(value, str) and value[:1] == "$" else value


def messages(steps: Any, examples: dict[str, Any]) -> Iterator[Said]:
    """All messages of some steps, also those inside of batches and unordered groups."""
    for step in steps if isinstance(steps, list) else [steps]:
        if isinstance(step, list):
            yield from messages(step, examples)
        for kind, value in step.items() if isinstance(step, dict) else ():
            if kind in SIDES:
                said = value if isinstance(value, list) else [value]
                yield from (Said(kind, resolved(m, examples)) for m in said if isinstance(m, dict))
            elif kind in ("unordered", "may"):
                yield from messages(value, examples)


def load(path: Path) -> tuple[dict[str, Any], list[Said]]:
    """A dialogue's head, and its messages."""
    lines = path.read_text(encoding="utf-8").split("\n")
    head, *steps = [json.loads(line) for line in lines if line]
    return head, list(messages(steps, head.get("examples", {})))


def answers(said: list[Said], asked: Said) -> list[dict[str, Any]]:
    """What the other side answers to a request."""
    return [
        message
        for side, message in said
        if side != asked.side
        and "method" not in message
        and message.get("id") == asked.message["id"]
    ]


@pytest.mark.parametrize("path", DIALOGUES, ids=lambda path: path.stem)
def test_what_both_sides_may_say_is_valid(path: Path, validators: dict[str, Validator]) -> None:
    head, said = load(path)
    if "sides" in head:
        return  # it shows what one side must cope with
    for side, message in said:
        row = METHODS.get(str(message.get("method")))
        if row is None:
            continue
        replies = answers(said, Said(side, message)) if "id" in message else []
        if not any("error" in reply for reply in replies):
            validators[row.params.__name__].validate(message.get("params", {}))
        for reply in replies:
            if "result" in reply and row.result is not None:
                validators[row.result.__name__].validate(reply["result"])


@pytest.mark.parametrize("path", DIALOGUES, ids=lambda path: path.stem)
def test_the_schema_judges_params_as_the_core_does(
    path: Path, validators: dict[str, Validator]
) -> None:
    for _, message in load(path)[1]:
        row = METHODS.get(str(message.get("method")))
        # Raw JSON is judged later by the core.
        if row is None or "params" not in message or row.params.__name__ in RAW:
            continue
        try:
            decode_params(json.dumps(message["params"]).encode(), row.params)
            taken = True
        except CarError:
            taken = False
        assert validators[row.params.__name__].is_valid(message["params"]) == taken, message


def test_enough_was_said_to_be_a_proof() -> None:
    methods = [
        str(message.get("method"))
        for path in DIALOGUES
        for head, said in [load(path)]
        if "sides" not in head
        for _, message in said
    ]
    assert {"generate", "generate.event", "runner.run", "runner.event"} <= set(methods)
    assert sum(method in METHODS for method in methods) >= 50
