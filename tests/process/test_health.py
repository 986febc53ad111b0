"""The report on all models, of a real process."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from car_rpc.client import CarClient
from tests.process.conftest import Core, StartCore

pytestmark = pytest.mark.process

SECRET = "sk-" + "not-for-the-wire"
SERVER = {"type": "openai_compat", "endpoint": "https://api.example.com", "model": "m"}


def test_the_report_agrees_with_what_would_run_and_starts_nothing(
    start_core: StartCore, tmp_path: Path
) -> None:
    priors = tmp_path / "priors.json"
    priors.write_text('{"model_id": "me/echo:1", "overall_score": 0.88}')
    core = start_core(env={"KEY_A": SECRET, "CAR_BENCHMARK_PRIORS_PATH": str(priors)})
    core.initialize()
    core.fake("me/echo:1", {"echo": True})
    core.register("paid/one:1", {**SERVER, "api_key_env": "KEY_A"})
    core.register("paid/two:1", {**SERVER, "api_key_env": "KEY_B"}, "embed")
    report = core.call("models.health")
    listed = core.call("models.list")["models"]
    assert [each["model_id"] for each in report["models"]] == [each["id"] for each in listed]
    assert report["counts"]["available"] == sum(each["available"] for each in listed)
    paid = next(each for each in report["providers"] if each["provider"] == "paid")
    assert paid["credentials"] == [
        {"name": "KEY_A", "is_set": True},
        {"name": "KEY_B", "is_set": False},
    ]
    assert paid["configured"]
    text = report["routing_scenarios"][0]["decision"]
    explained = core.call("models.route", {"prompt": "Tell me of it."})
    assert text["candidates"] == explained["candidates"][: len(text["candidates"])]
    assert {**text, "candidates": []} == {**explained, "candidates": []}
    (prior,) = report["benchmark_priors"]
    assert (prior["overall_score"], prior["source_path"]) == (0.88, str(priors))
    assert SECRET not in json.dumps(core.messages)
    assert psutil.Process(core.pid).children() == []


def test_a_breaker_that_opened_is_seen(core: Core) -> None:
    core.fake("me/broken:1", {"fail": {"kind": "provider_error", "retry_after_ms": 1}})
    state: dict[str, Any] = {}
    for _ in range(10):
        core.fail("generate", {"model": "me/broken:1", "prompt": "x", "recovery": "none"})
        models = core.call("models.health")["models"]
        state = next(each for each in models if each["model_id"] == "me/broken:1")
        if state["breaker"] != "closed":
            break
    assert state["breaker"] == "open"
    assert 0 < state["retry_after_ms"] <= 30_000


async def test_the_python_client_has_it_typed(tmp_path: Path) -> None:
    async with CarClient.start(arguments=["--state-dir", str(tmp_path)]) as car:
        source = {"type": "fake", "script": [{"echo": True}]}
        await car.register_model({"id": "me/a:1", "source": source, "capabilities": ["generate"]})
        report = await car.model_health()
        decision = await car.route(prompt="hi", model="me/a:1")
    assert report.counts.total == len(report.models)
    assert (decision.model_id, decision.reason) == ("me/a:1", "explicit model")
