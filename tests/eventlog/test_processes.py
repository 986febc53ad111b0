"""Several processes, and a process that is killed: no gap, no half event, nothing promised lost."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from car_rpc.eventlog.store import select
from car_rpc.eventlog.writer import EventLog, NewEvent
from car_rpc.wire.log import EventlogQueryParams

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]

# Appends and commits without end, or `count` times, and prints each committed number.
WRITER = """
import asyncio, itertools, sys
from datetime import UTC, datetime
from pathlib import Path
from car_rpc.eventlog.writer import EventLog, NewEvent

async def main(path, session, count):
    log = EventLog.open(Path(path), session, lambda: datetime.now(UTC))
    for n in itertools.count() if count == 0 else range(count):
        for _ in range(3):
            log.append(NewEvent(type="delta", data={"n": n, "text": "x" * 300}))
        await log.commit(NewEvent(type="done", data={"n": n}))
        print(n, flush=True)
    await log.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@contextmanager
def writer(path, session, count=0) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(path), session, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def everything(path):
    found, cursor = [], 0
    while (page := select(path, EventlogQueryParams(after_seq=cursor, limit=1000))).events:
        found += page.events
        cursor = page.next_seq
    return found


def check_order_of(session, found):
    """Each number three times as a delta, then once as done, in order; the end may be cut."""
    mine = [(entry.type, entry.data["n"]) for entry in found if entry.session_id == session]
    expected = [(kind, n) for n in range(len(mine)) for kind in ["delta"] * 3 + ["done"]]
    assert mine == expected[: len(mine)]
    return [n for kind, n in mine if kind == "done"]


def test_two_processes_write_one_gapless_sequence(path):
    with writer(path, "a", 100) as a, writer(path, "b", 100) as b:
        a.communicate()
        b.communicate()
        assert (a.returncode, b.returncode) == (0, 0)

    found = everything(path)
    assert [entry.seq for entry in found] == list(range(1, 801))
    assert check_order_of("a", found) == check_order_of("b", found) == list(range(100))


def test_a_kill_leaves_no_gap_no_half_event_and_everything_that_was_committed(
    path, clock, proof_count
):
    sessions = [str(number) for number in range(proof_count(5, 50))]
    committed = {}
    for number, session in enumerate(sessions):
        with writer(path, session) as process:
            for _ in range(5 + 7 * number % 40):
                process.stdout.readline()
            process.kill()
            # Whole lines only: the last one may have been cut by the kill.
            rest = process.stdout.read().rpartition("\n")[0].split()
        committed[session] = int(rest[-1]) if rest else 4 + 7 * number % 40

    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert check.execute("SELECT count(*) FROM events WHERE NOT json_valid(data)").fetchone() == (
        0,
    )
    check.close()
    found = everything(path)
    assert [entry.seq for entry in found] == list(range(1, len(found) + 1))
    for session in sessions:
        assert check_order_of(session, found)[-1] >= committed[session]

    async def reopen():
        log = EventLog.open(path, "after", clock)
        await log.commit(NewEvent(type="session.started", data={}))
        await log.close()

    asyncio.run(reopen())
    assert everything(path)[-1].seq == len(found) + 1


def test_a_process_that_is_killed_does_not_stop_the_others(path):
    with writer(path, "survivor", 60) as survivor:
        for number in range(3):
            with writer(path, f"victim-{number}") as victim:
                victim.stdout.readline()
                victim.kill()
        survivor.communicate()
        assert survivor.returncode == 0

    found = everything(path)
    assert [entry.seq for entry in found] == list(range(1, len(found) + 1))
    assert check_order_of("survivor", found) == list(range(60))


def test_importing_the_package_does_not_load_sqlite():
    code = "import json, sys, car_rpc.eventlog; print(json.dumps('sqlite3' in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment
    )

    assert json.loads(done.stdout) is False
