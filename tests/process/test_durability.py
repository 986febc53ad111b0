"""What the event log and the registry promise when processes are killed or share a database."""

import contextlib
import itertools
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import IN_WORKER, Core, StartCore, event, request

pytestmark = pytest.mark.process


def rows(state_dir: Path) -> list[dict[str, Any]]:
    """The log as it is on disk; every event is whole."""
    with contextlib.closing(sqlite3.connect(state_dir / "car.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.row_factory = sqlite3.Row
        found = [dict(row) for row in db.execute("SELECT * FROM events ORDER BY seq")]
    assert [row["seq"] for row in found] == list(range(1, len(found) + 1))
    for row in found:
        row["data"] = json.loads(row["data"])
        assert isinstance(row["data"], dict)
    return found


@pytest.mark.parametrize("place", ["core", "worker"])
def test_kill_9_amid_a_stream_leaves_the_request_and_no_half_event(
    start_core: StartCore, proof_count: Callable[[int, int], int], place: str, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    for round_number in range(proof_count(2, 50)):
        core = start_core(state_dir=state_dir)
        core.initialize()
        head = [IN_WORKER] if place == "worker" else []
        core.fake("t/flood:1", *head, {**event("x"), "repeat": 10**9})
        prompt = f"round {round_number}"
        stream = core.generate("t/flood:1", prompt)
        core.first_event(stream, "text_delta")
        os.kill(core.pid, signal.SIGKILL)
        core.wait()
        found = rows(state_dir)
        (received,) = [r for r in found if r["data"].get("params", {}).get("prompt") == prompt]
        assert received["type"] == "request"
        assert received["data"]["request_id"] == stream
        assert not [
            r for r in found if r["trace_id"] == received["trace_id"] and r["type"] == "completion"
        ]


def test_what_was_answered_is_logged_before_kill_9(
    start_core: StartCore, proof_count: Callable[[int, int], int], tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    for _ in range(proof_count(2, 50)):
        core = start_core(state_dir=state_dir)
        core.initialize()
        core.fake("t/echo:1", {"echo": True})
        core.fake("t/fail:1", {"fail": {"kind": "rate_limited"}})
        texts = [f"text {index}" for index in range(20)]
        ids = [core.generate("t/echo:1", text, stream=False) for text in texts]
        failing = core.generate("t/fail:1")
        traces = {
            core.response(each)["result"]["trace_id"]: text
            for each, text in zip(ids, texts, strict=True)
        }
        failed = core.response(failing)["error"]["data"]["trace_id"]
        os.kill(core.pid, signal.SIGKILL)
        core.wait()
        by_trace: dict[str, list[dict[str, Any]]] = {}
        for row in rows(state_dir):
            by_trace.setdefault(row["trace_id"], []).append(row)
        for trace_id, text in traces.items():
            first, *_, last = by_trace[trace_id]
            assert (first["type"], last["type"]) == ("request", "completion")
            assert last["data"]["result"]["text"] == text
        assert by_trace[failed][-1]["data"]["error"]["data"]["kind"] == "rate_limited"


def test_two_cores_share_one_sequence_and_one_registry(
    start_core: StartCore, proof_count: Callable[[int, int], int], tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    first, second = (start_core(state_dir=state_dir) for _ in range(2))
    sessions = [core.initialize()["session_id"] for core in (first, second)]
    for index in range(proof_count(5, 100)):
        owner, other = (first, second) if index % 2 else (second, first)
        model = owner.fake(f"t/shared:{index}", {"echo": True})
        result = other.call("generate", {"model": model, "prompt": "at once"})
        assert result["text"] == "at once"
        owner.call("models.unregister", {"model": model})
        assert other.fail("models.get", {"model": model})["data"]["kind"] == "model_not_found"
    first.fake("t/echo:1", {"echo": True})
    count = proof_count(50, 500)
    for core in (first, second):
        params = {"model": "t/echo:1", "prompt": "both", "stream": True}
        core.send(*(request(f"both-{index}", "generate", params) for index in range(count)))
    for core, index in itertools.product((first, second), range(count)):
        assert core.response(f"both-{index}")["result"]["text"] == "both"
    found = rows(state_dir)
    both = [r for r in found if r["type"] == "request" and r["data"]["method"] == "generate"]
    by_session = {session: [r for r in both if r["session_id"] == session] for session in sessions}
    assert all(len(part) >= count for part in by_session.values())
    assert set(by_session) == {r["session_id"] for r in found}


def test_the_log_can_be_read_page_by_page_while_it_grows(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    seen: list[dict[str, Any]] = []
    cursor = 0
    for index in range(20):
        core.call("generate", {"model": "t/echo:1", "prompt": f"text {index}"})
        page = core.call("eventlog.query", {"after_seq": cursor, "limit": 3})
        seen += page["events"]
        cursor = page["next_seq"]
    while page["events"]:
        page = core.call("eventlog.query", {"after_seq": cursor, "limit": 1000})
        seen += page["events"]
        cursor = page["next_seq"]
    assert [row["seq"] for row in seen] == list(range(1, len(seen) + 1))
    prompts = [
        r["data"]["params"]["prompt"]
        for r in seen
        if r["type"] == "request" and r["data"]["method"] == "generate"
    ]
    assert prompts == [f"text {index}" for index in range(20)]


def test_a_state_directory_that_cannot_be_used_is_said_and_the_connection_lives(
    start_core: StartCore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    core: Core = start_core("--state-dir", str(tmp_path / "file" / "state"))
    core.initialize()
    for _ in range(2):
        error = core.fail("models.list")
        assert error["data"]["kind"] == "io_error"
        assert str(tmp_path / "file") in error["message"]
        assert "--state-dir" in error["message"]
    core.ping()


def test_a_database_that_is_none_is_said(start_core: StartCore, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    (state_dir / "car.db").write_bytes(b"this is no database" * 100)
    core = start_core(state_dir=state_dir)
    core.initialize()
    error = core.fail("models.list")
    assert error["data"]["kind"] == "io_error"
    assert "car.db" in error["message"]
    core.ping()


def test_a_number_that_no_double_holds_is_logged_with_all_around_it(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    params = b'{"model":"t/echo:1","prompt":"p","x":1e400}'
    core.send_raw(b'{"jsonrpc":"2.0","id":"n","method":"generate","params":%b}\n' % params)
    trace_id = core.response("n")["result"]["trace_id"]
    query = {"trace_id": trace_id, "types": ["request"]}
    (row,) = core.call("eventlog.query", query)["events"]
    assert row["data"]["params"]["prompt"] == "p"
