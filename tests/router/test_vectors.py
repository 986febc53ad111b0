"""The router beside a second writing of its rules: both come to the decisions in the files."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.registry.catalog import normalised
from car_rpc.router.ask import ask_of
from car_rpc.router.router import route
from car_rpc.router.scores import Candidate
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.outcomes import ModelProfile
from car_rpc.wire.routing import RoutingConfig

ROUTING = Path(__file__).parent.parent.parent / "spec" / "vectors" / "routing"
DOCUMENT = json.loads((ROUTING / "cases.json").read_text(encoding="utf-8"))
CASES = DOCUMENT["cases"]


@pytest.fixture(scope="module")
def reference() -> Any:
    return SimpleNamespace(**runpy.run_path(str(ROUTING / "reference.py")))


def routed(case: dict[str, Any]) -> dict[str, Any]:
    """The router's decision as JSON."""
    request = msgspec.convert(case["request"], GenerateRequest)
    config = msgspec.convert(case.get("config", {}), RoutingConfig)
    candidates = []
    for row in case["candidates"]:
        profile = row.get("profile")
        candidates.append(
            Candidate(
                normalised(msgspec.convert(DOCUMENT["models"][row["model"]], ModelSchema)),
                row.get("available", True),
                row.get("fits", True),
                row.get("breaker_open", False),
                None if profile is None else msgspec.convert(profile, ModelProfile),
            )
        )
    try:
        decision = route(candidates, ask_of(request, case["complexity"]), config, case["seed"])
    except CarError as error:
        why_not = {each["model_id"]: each["why_not"] for each in error.extra["candidates"]}
        return {"error": error.kind, "why_not": why_not}
    return json.loads(msgspec.json.encode(decision))


def close(value: Any) -> Any:
    """The same value, but for the last digits of its numbers."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-9, abs=1e-12)
    if isinstance(value, dict):
        return {name: close(item) for name, item in value.items()}
    return [close(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_router_decides_as_its_vectors_say(case: dict[str, Any]) -> None:
    assert routed(case) == close(case["is"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_so_does_what_was_written_from_the_prose_alone(
    case: dict[str, Any], reference: Any
) -> None:
    decision = json.loads(json.dumps(reference.solve_case(DOCUMENT, case)))
    assert decision == close(case["is"])


def test_the_second_writing_knows_nothing_of_the_first() -> None:
    text = (ROUTING / "reference.py").read_text(encoding="utf-8")
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert imports
    assert not any("car_rpc" in line for line in imports)
