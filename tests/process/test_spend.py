"""A spend limit holds over all cores on a state directory, also over those that are killed."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.conftest import Core, StartCore, event

pytestmark = pytest.mark.process

#: What each attempt on the models here is thought to cost and, once it is answered, costs: 5
#: tokens of a prompt at $1 for a million, and 10 of an answer at $10.
NANO = 105_000
USAGE = {"emit": {"type": "usage", "prompt_tokens": 5, "completion_tokens": 10}}


def priced(core: Core, model_id: str, *script: object) -> str:
    model = {
        "id": model_id,
        "source": {"type": "fake", "script": list(script)},
        "capabilities": ["generate"],
        "cost": {"input_per_mtok_usd": 1, "output_per_mtok_usd": 10},
    }
    core.call("models.register", {"model": model})
    return model_id


def ask(core: Core, model: str, *, stream: bool = False) -> int:
    return core.generate(model, "x", params={"max_tokens": 10}, recovery="none", stream=stream)


def test_two_cores_share_a_limit_and_kill_9_loses_and_doubles_nothing(
    start_core: StartCore, proof_count: Callable[[int, int], int], tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    survivor = start_core(state_dir=state_dir)
    survivor.initialize()
    quick = priced(survivor, "t/quick:1", USAGE)
    slow = priced(survivor, "t/slow:1", event("x"), {"stall": True})
    answered = refused = committed = 0
    for round_number in range(1, 1 + proof_count(2, 50)):
        victim = start_core(state_dir=state_dir)
        victim.initialize()
        # Room for 12 of the 21 attempts that follow.
        limit = committed + 12 * NANO
        survivor.call("spend.set_limits", {"max_usd_total": limit / 1e9})
        victim.first_event(ask(victim, slow, stream=True), "text_delta")
        ids = [(core, ask(core, quick)) for _ in range(10) for core in (victim, survivor)]
        for core, each in ids[: 2 * (round_number % 5) + 2]:
            core.response(each)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        for core, each in ids:
            if core is survivor:
                core.response(each)
        responses = [response for each in ids if (response := response_of(*each)) is not None]
        answered += sum("result" in response for response in responses)
        refused += sum("error" in response for response in responses)
        used, reserved, count = books(survivor)
        assert used == count * NANO  # each attempt once, and exactly
        assert used >= answered * NANO  # what was answered was charged
        assert reserved >= round_number * NANO  # what died stays reserved
        assert used + reserved <= limit
        committed = used + reserved
    assert refused
    with contextlib.closing(sqlite3.connect(state_dir / "car.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def books(core: Core) -> tuple[int, int, int]:
    """What was used and what is reserved, in billionths of a dollar, and how many were charged."""
    total = core.call("spend.status")["total"]
    return (
        round(total["used_usd"] * 1e9),
        round(total["reserved_usd"] * 1e9),
        total["priced_count"],
    )


def response_of(core: Core, request_id: int) -> dict[str, object] | None:
    return next((m for m in [*core.messages] if m.get("id") == request_id), None)


def test_a_limit_that_one_core_sets_holds_in_the_other_until_it_is_used_up(
    start_core: StartCore, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    first, second = (start_core(state_dir=state_dir) for _ in range(2))
    for core in (first, second):
        core.initialize()
    model = priced(first, "t/quick:1", USAGE)
    free = first.fake("t/free:1", {"echo": True})
    first.call("spend.set_limits", {"max_usd_per_month": 10 * NANO / 1e9, "model": "quick"})
    ids = [(core, ask(core, model)) for _ in range(20) for core in (first, second)]
    responses = [core.response(each) for core, each in ids]
    good = [r["result"] for r in responses if "result" in r]
    refused = [r["error"]["data"] for r in responses if "error" in r]
    assert (len(good), len(refused)) == (10, 30)
    assert {result["cost_usd"] for result in good} == {NANO / 1e9}
    last = refused[-1]
    assert (last["kind"], last["limit"], last["limit_model"], last["needed_usd"]) == (
        "spend_limit_exceeded",
        "max_usd_per_month",
        model,
        NANO / 1e9,
    )
    status = second.call("spend.status", {"model": "quick"})
    assert (status["month"]["left_usd"], status["month"]["priced_count"]) == (0, 10)
    assert second.call("generate", {"model": free, "prompt": "x"})["text"] == "x"
    rows = {row["model_id"]: row for row in second.call("outcomes.scoreboard")["models"]}
    assert rows[model]["cost_usd"] == pytest.approx(10 * NANO / 1e9)
    assert rows[free]["cost_usd"] == 0
    # A model that is gone keeps its accounts, and its limit can be lifted.
    first.call("models.unregister", {"model": model})
    assert second.call("spend.status", {"model": model})["month"]["priced_count"] == 10
    assert second.call("spend.set_limits", {"model": model})["limits"] == []
