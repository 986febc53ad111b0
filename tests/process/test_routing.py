"""Routing on the wire of real processes."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.process.conftest import Core, StartCore

pytestmark = pytest.mark.process

SLOW = {"mode": "best", "min_trust_tier": "curated"}


def test_a_configuration_holds_at_once_in_every_process_on_the_state_directory(
    start_core: StartCore,
) -> None:
    one = start_core()
    other = start_core(state_dir=one.state_dir)
    for core in (one, other):
        core.initialize()
    one.fake("me/mine:1", {"echo": True})
    asked = {"prompt": "hi"}
    assert other.call("models.route", asked)["model_id"] == "me/mine:1"
    stored = one.call("routing.set_config", {"config": SLOW})["config"]
    assert SLOW.items() <= stored.items()
    assert other.call("routing.get_config")["config"] == stored
    reasons = {
        each["model_id"]: each.get("why_not")
        for each in other.call("models.route", {**asked, "model": "me/mine:1"})["candidates"]
    }
    assert reasons == {"me/mine:1": None}, "whoever names a model gets it"
    answer = other.response(other.ask("models.route", asked))
    if "error" in answer:  # without an engine for the demo models nobody is left
        assert answer["error"]["data"]["kind"] == "model_not_found"
        shown = answer["error"]["data"]["candidates"]
    else:
        shown = answer["result"]["candidates"]
    why_not = {each["model_id"]: each.get("why_not") for each in shown}
    assert why_not["me/mine:1"] == "below min_trust_tier"


def test_what_was_explained_is_what_runs_and_what_the_log_tells(core: Core) -> None:
    core.fake("me/one:1", {"echo": True})
    core.fake("me/two:1", {"echo": True})
    asked = {"prompt": "hi", "intent": {"exclude_models": ["one"]}}
    explained = core.call("models.route", asked)
    assert explained["model_id"] == "me/two:1"
    result = core.call("generate", asked)
    assert result["model_used"] == "me/two:1"
    query = {"trace_id": result["trace_id"], "types": ["route"]}
    (event,) = core.call("eventlog.query", query)["events"]
    for member in ("reason", "strategy", "propensity", "fallbacks"):
        assert event["data"][member] == explained[member]
    logged = event["data"]["candidates"]
    assert len(logged) > 1
    assert logged == explained["candidates"][: len(logged)]


def test_a_pool_keeps_a_conversation_with_one_member_over_processes(start_core: StartCore) -> None:
    one = start_core()
    other = start_core(state_dir=one.state_dir)
    for core in (one, other):
        core.initialize()
    for name in ("a", "b", "c"):
        one.fake(f"me/{name}:1", {"echo": True})
    members = [{"model_id": f"me/{name}:1"} for name in ("a", "b", "c")]
    one.call("routing.set_config", {"config": {"pools": {"team": {"members": members}}}})
    homes = []
    for core in (one, other):
        asked = [
            {"prompt": "hi", "model": "pool/team", "conversation_id": str(n)} for n in range(12)
        ]
        homes.append([core.call("generate", each)["model_used"] for each in asked])
    assert homes[0] == homes[1]
    assert len(set(homes[0])) == 3


def test_a_model_that_is_too_large_for_the_machine_is_passed_over(
    core: Core, tmp_path: Path
) -> None:
    weights = tmp_path / "huge.gguf"
    weights.write_bytes(b"")
    source = {"type": "local", "path": str(weights)}
    large = {"id": "me/huge:1", "source": source, "capabilities": ["generate"]}
    core.call("models.register", {"model": {**large, "cost": {"ram_bytes": 10**15}}})
    core.fake("me/small:1", {"echo": True})
    # The machine is looked at while the first requests are answered.
    for _ in range(1000):
        decision = core.call("models.route", {"prompt": "x", "intent": {"prefer_local": True}})
        reasons = {each["model_id"]: each.get("why_not") for each in decision["candidates"]}
        if reasons["me/huge:1"] in ("does not fit in memory", "not available"):
            break
    wanted = "does not fit in memory" if find_spec("llama_cpp") else "not available"
    assert reasons["me/huge:1"] == wanted
    assert decision["model_id"] == "me/small:1"
