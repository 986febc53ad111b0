"""What cores on one state directory learn together, and keep when they are killed."""

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.conftest import Core, StartCore

pytestmark = pytest.mark.process


def calls(core: Core, model: str) -> int:
    (stats,) = core.call("models.stats", {"model": model})["models"]
    return stats["total_calls"]


def test_two_cores_learn_together(start_core: StartCore, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    first, second = (start_core(state_dir=state_dir) for _ in range(2))
    for core in (first, second):
        core.initialize()
    first.fake("t/good:1", {"echo": True})
    first.fake("t/bad:1", {"fail": {"kind": "inference_failed"}})
    assert second.call("models.stats", {"model": "t/good:1"})["models"][0]["success_rate"] is None
    trace = first.call("generate", {"model": "t/good:1", "prompt": "x"})["trace_id"]
    second.fail("generate", {"model": "t/bad:1", "prompt": "x"})
    assert calls(first, "t/good:1") == calls(second, "t/bad:1") == 1
    good, bad = (
        second.call("models.stats", {"model": name})["models"][0] for name in ("good", "bad")
    )
    assert (good["success_rate"], bad["success_rate"]) == (1.0, 0.0)
    report = second.call("outcomes.report", {"trace_id": trace, "outcome": "accepted"})
    assert (report["model_id"], report["recorded"]) == ("t/good:1", True)
    rows = first.call("outcomes.scoreboard")["models"]
    assert [row["model_id"] for row in rows] == ["t/bad:1", "t/good:1"]
    assert rows[1]["accepted_count"] == 1
    exported = first.call("profiles.export")
    assert [profile["model_id"] for profile in exported["profiles"]] == ["t/bad:1", "t/good:1"]
    other = start_core(state_dir=tmp_path / "other")
    other.initialize()
    assert other.call("profiles.import", exported) == {"imported": 2}
    assert other.call("profiles.export") == exported


def test_kill_9_leaves_counts_and_receipts_that_agree(
    start_core: StartCore, proof_count: Callable[[int, int], int], tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    answered = 0
    for _ in range(proof_count(2, 50)):
        core = start_core(state_dir=state_dir)
        core.initialize()
        core.fake("t/echo:1", {"echo": True})
        ids = [core.generate("t/echo:1", stream=False) for _ in range(40)]
        for each in ids[:20]:
            core.response(each)
        counted = calls(core, "t/echo:1")  # what was answered before was learned
        assert counted >= answered + 20
        answered = counted
        os.kill(core.pid, signal.SIGKILL)
        core.wait()
        with contextlib.closing(sqlite3.connect(state_dir / "car.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            ((profile,),) = db.execute("SELECT profile FROM profiles")
            ((receipts,),) = db.execute("SELECT count(*) FROM receipts")
        total = json.loads(profile)["total_calls"]
        assert total == receipts
        assert total >= answered
        answered = total


def test_benchmark_priors_are_read_at_the_start(start_core: StartCore, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    path = tmp_path / "priors.json"
    path.write_text('{"model_id": "t/echo:1", "overall_score": 0.88}')
    core = start_core(state_dir=state_dir, env={"CAR_BENCHMARK_PRIORS_PATH": str(path)})
    core.initialize()
    (row,) = core.call("models.stats")["models"]
    assert (row["model_id"], row["ema_quality"], row["success_rate"]) == ("t/echo:1", 0.88, None)


def test_what_was_learned_reaches_the_router(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    before = core.call("models.route", {"prompt": "x"})
    reliability = {each["model_id"]: each["reliability"] for each in before["candidates"]}
    code = "```python\ndef f(): return 1\n```\nFix this function."
    core.call("generate", {"model": "t/echo:1", "prompt": "x"})
    core.call("models.stats")
    after = core.call("models.route", {"prompt": "x"})
    learned = {each["model_id"]: each["reliability"] for each in after["candidates"]}
    assert learned["t/echo:1"] != reliability["t/echo:1"]
    task = core.call("models.route", {"prompt": code, "model": "t/echo:1"})["task"]
    core.call("generate", {"prompt": code, "model": "t/echo:1"})
    (stats,) = core.call("models.stats", {"model": "t/echo:1"})["models"]
    assert (task, set(stats["task_stats"])) == ("code", {"generate", "code"})
