"""The event log of real processes: watched, verified, purged, kept in bounds, exported."""

import base64
import contextlib
import hashlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import Core, StartCore, event, same

pytestmark = pytest.mark.process


def watched(core: Core, subscription: object) -> list[dict[str, Any]]:
    """The events of a subscription so far."""
    return [
        message["params"]["event"]
        for message in [*core.messages]
        if isinstance(message, dict)
        and message.get("method") == "eventlog.event"
        and same(message["params"]["request_id"], subscription)
    ]


def wait_until_told(core: Core, subscription: object, trace_id: str) -> list[dict[str, Any]]:
    """The events of a subscription once the end of a request is among them."""

    def is_end(message: dict[str, Any]) -> bool:
        told = message.get("params", {}).get("event", {})
        return (
            message.get("method") == "eventlog.event"
            and same(message["params"]["request_id"], subscription)
            and (told["trace_id"], told["type"]) == (trace_id, "completion")
        )

    core.wait_for(is_end)
    return watched(core, subscription)


def say(core: Core, prompt: str, model: str = "t/echo:1") -> str:
    """Runs a request; returns its trace."""
    result = core.call("generate", {"model": model, "prompt": prompt})
    return str(result["trace_id"])


@pytest.fixture
def echo(core: Core) -> Core:
    core.fake("t/echo:1", {"echo": True})
    return core


def test_history_and_what_comes_are_one_without_gap_or_repetition(echo: Core) -> None:
    for number in range(20):
        say(echo, f"before {number}")
    subscription = echo.ask("eventlog.subscribe", {"from_seq": 1})
    for number in range(20):
        last = say(echo, f"after {number}")
    told = wait_until_told(echo, subscription, last)

    assert [each["seq"] for each in told] == list(range(1, len(told) + 1))
    page = echo.call("eventlog.query", {"limit": 1000})["events"]
    assert told == page[: len(told)]


def test_a_subscription_ends_by_a_cancel_and_nothing_comes_after(echo: Core) -> None:
    subscription = echo.ask("eventlog.subscribe", {})
    echo.ping()
    say(echo, "told or not, as it may be")
    echo.cancel(subscription)
    error = echo.response(subscription)["error"]
    assert error["data"]["kind"] == "cancelled"
    answered_at = len(echo.messages)
    say(echo, "not told")
    assert not any(
        message.get("method") == "eventlog.event" for message in echo.messages[answered_at:]
    )


def test_another_process_is_heard(echo: Core, start_core: StartCore) -> None:
    other = start_core(state_dir=echo.state_dir)
    other.initialize()
    subscription = echo.ask("eventlog.subscribe", {"from_seq": 1})
    trace_id = say(other, "from next door")
    told = wait_until_told(echo, subscription, trace_id)
    assert [each["seq"] for each in told] == list(range(1, len(told) + 1))
    assert len({each["session_id"] for each in told}) == 2


def test_who_reads_nothing_stops_nobody_and_gets_everything_later(
    echo: Core, start_core: StartCore
) -> None:
    other = start_core(state_dir=echo.state_dir)
    other.initialize()
    subscription = echo.ask("eventlog.subscribe", {"from_seq": 1})
    echo.stall()
    for number in range(30):
        last = say(other, f"{number} " + "x" * 50_000)
    # The memory of a subscription is a page and what the output holds.
    echo.resume()
    told = wait_until_told(echo, subscription, last)
    assert [each["seq"] for each in told] == list(range(1, len(told) + 1))


def test_requests_are_answered_beside_a_subscription_that_nobody_reads(echo: Core) -> None:
    for number in range(10):
        say(echo, f"{number} " + "x" * 100_000)
    subscription = echo.ask("eventlog.subscribe", {"from_seq": 1})
    last = say(echo, "answered")  # its answer does not wait behind a megabyte of events
    told = wait_until_told(echo, subscription, last)
    assert [each["seq"] for each in told] == list(range(1, len(told) + 1))


@pytest.mark.parametrize("ending", ["shutdown", "end of input"])
def test_a_subscription_does_not_hold_up_the_end(start_core: StartCore, ending: str) -> None:
    core = start_core("--drain-ms", "60000")
    core.initialize()
    subscription = core.ask("eventlog.subscribe", {"from_seq": 1})
    core.wait_for(lambda message: message.get("method") == "eventlog.event")
    if ending == "shutdown":
        core.call("shutdown")
    core.close_stdin()
    assert core.response(subscription)["error"]["data"]["kind"] == "cancelled"
    assert core.wait() == 0


def test_a_change_of_the_file_is_found(echo: Core) -> None:
    say(echo, "the truth")
    good = echo.call("eventlog.verify")
    assert good["ok"]
    assert good["checked"] >= 5

    def replace(old: str, new: str) -> int:
        with contextlib.closing(sqlite3.connect(echo.state_dir / "car.db")) as db, db:
            holds = "data LIKE '%' || ? || '%'"
            first = db.execute(f"SELECT min(seq) FROM events WHERE {holds}", (old,)).fetchone()[0]
            change = (
                f"UPDATE events SET data = replace(data, ?1, ?2) WHERE {holds.replace('?', '?1')}"
            )
            db.execute(change, (old, new))
            return int(first)

    first = replace("truth", "fraud")
    bad = echo.call("eventlog.verify")
    assert (bad["ok"], bad["first_bad_seq"]) == (False, first)
    replace("fraud", "truth")
    assert echo.call("eventlog.verify")["ok"]


def test_the_chain_holds_after_kill_9(
    start_core: StartCore, proof_count: Callable[[int, int], int], tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    for _ in range(proof_count(2, 50)):
        core = start_core(state_dir=state_dir)
        core.initialize()
        core.fake("t/flood:1", {**event("x"), "repeat": 10**9})
        stream = core.generate("t/flood:1")
        core.first_event(stream, "text_delta")
        os.kill(core.pid, signal.SIGKILL)
        core.wait()
    core = start_core(state_dir=state_dir)
    core.initialize()
    result = core.call("eventlog.verify")
    assert result["ok"], result


def test_the_log_is_checked_while_it_grows(echo: Core) -> None:
    checks = [echo.ask("eventlog.verify") for _ in range(5)]
    for number in range(30):
        say(echo, str(number))
    for check in checks:
        assert echo.response(check)["result"]["ok"]


def test_a_purged_request_is_gone_and_the_chain_holds(echo: Core) -> None:
    trace_id = say(echo, "nobody shall know of the wolpertinger")
    kept = say(echo, "kept")
    count = len(echo.call("eventlog.query", {"trace_id": trace_id})["events"])
    assert echo.call("eventlog.purge", {"trace_id": trace_id}) == {"purged": count}
    assert echo.call("eventlog.query", {"trace_id": trace_id})["events"] == []
    assert echo.call("eventlog.query", {"trace_id": kept})["events"]
    assert echo.call("eventlog.verify")["ok"]
    for file in echo.state_dir.glob("car.db*"):
        assert b"wolpertinger" not in file.read_bytes()
    error = echo.fail("eventlog.purge", {})
    assert (error["data"]["kind"], error["data"]["path"]) == ("invalid_params", "$.before")


def test_how_long_events_are_kept_is_configured_and_changed(start_core: StartCore) -> None:
    core = start_core(env={"CAR_EVENTLOG_MAX_AGE_MS": "86400000"})
    core.initialize()
    configured = core.call("eventlog.retention")
    assert configured["policy"] == {"max_age_ms": 86_400_000, "max_bytes": 4 * 1024**3}
    assert configured["used_bytes"] > 0
    subscription = core.ask("eventlog.subscribe", {"from_seq": 1})
    core.wait_for(lambda message: message.get("method") == "eventlog.event")

    changed = core.call("eventlog.retention", {"policy": {"max_age_ms": 1, "max_bytes": 0}})
    assert changed["policy"] == {"max_age_ms": 1, "max_bytes": 0}
    while core.call("eventlog.query")["events"]:
        pass  # deleted in the background, at once
    assert core.call("eventlog.verify")["ok"]
    back = core.call("eventlog.retention", {"policy": None})
    assert back["policy"] == configured["policy"]
    assert watched(core, subscription)


def test_an_export_is_a_private_file(echo: Core, tmp_path: Path) -> None:
    trace_id = say(echo, "hello")
    file = tmp_path / "export.jsonl"
    result = echo.call(
        "eventlog.export", {"format": "jsonl", "path": str(file), "trace_id": trace_id}
    )
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == echo.call("eventlog.query", {"trace_id": trace_id})["events"]
    assert (result["count"], result["bytes"]) == (len(lines), file.stat().st_size)
    assert file.stat().st_mode & 0o777 == 0o600
    spans = echo.call("eventlog.export", {"format": "otlp_json", "trace_id": trace_id})
    assert spans["count"] == 1
    assert "hello" not in spans["content"]


def files(core: Core) -> dict[str, bytes]:
    """The files beside the database, by name."""
    return {f.name: f.read_bytes() for f in core.state_dir.glob("car.blobs/*/*")}


def test_a_picture_is_kept_once_survives_kill_9_is_resumed_from_exported_and_purged(
    start_core: StartCore, tmp_path: Path
) -> None:
    picture = bytes(range(256)) * 40
    shown = tmp_path / "shown.png"
    shown.write_bytes(picture)
    digest = hashlib.sha256(picture).hexdigest()
    core = start_core("--allow-path", str(tmp_path))
    core.initialize()
    script = [event("Once upon a time there was"), {"stall": True}]
    core.register("t/see:1", {"type": "fake", "script": script}, "generate", "vision")
    block = {"type": "image", "source": {"type": "path", "path": str(shown)}}
    stream = core.generate("t/see:1", images=[block, block])
    trace_id = core.first_event(stream, "attempt")["params"]["event"]["trace_id"]
    core.first_event(stream, "text_delta")
    os.kill(core.pid, signal.SIGKILL)
    core.wait()
    assert files(core) == {digest: picture}
    shown.unlink()  # the log has it

    core = start_core(state_dir=core.state_dir)
    core.initialize()
    echo = [event("There was a picture.")]
    core.register("t/see:1", {"type": "fake", "script": echo}, "generate", "vision")
    result = core.call("generate", {"resume_trace_id": trace_id})
    assert result["text"].endswith("There was a picture.")
    assert files(core) == {digest: picture}
    (asked,) = core.call(
        "eventlog.query", {"trace_id": result["trace_id"], "types": ["request"]}
    )["events"]  # fmt: skip
    assert asked["data"]["params"]["images"][0]["source"] == {
        "type": "blob",
        "media_type": "image/png",
        "sha256": digest,
    }
    exported = core.call("eventlog.export", {"format": "jsonl", "trace_id": trace_id})["content"]
    assert exported.count(base64.b64encode(picture).decode()) == 2

    assert core.call("eventlog.verify")["ok"]
    core.call("eventlog.purge", {"trace_id": trace_id})
    assert files(core) == {digest: picture}
    core.call("eventlog.purge", {"trace_id": result["trace_id"]})
    assert files(core) == {}
    assert core.call("eventlog.verify")["ok"]
