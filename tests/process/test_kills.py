"""Kill -9 at random moments of a mixed load, by one core and by several on one state directory.

After each kill the database is whole, the sequence has no gap and no half event, every answer that
the client got is in the log, money is right, and no event names a file that is not there.
"""

import base64
import contextlib
import itertools
import json
import os
import random
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from car_rpc.eventlog.store import select
from car_rpc.eventlog.story import problems
from car_rpc.eventlog.verification import Verified, verify_page
from car_rpc.wire.log import EventlogQueryParams, LogEvent
from tests.process.conftest import WAIT_S, Closed, Core, StartCore, event, is_response

pytestmark = [pytest.mark.process, pytest.mark.timeout(3000)]

#: What a priced request takes and costs: $1 and $10 for a million tokens.
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}
COST_NANO_USD = 60_000

#: Requests of each kind that a core is given at once.
BURST = 8

#: A core says more than so much to a burst.
MESSAGES = BURST * 280

#: Kills in one state directory: what is checked after each grows with it.
KILLS_PER_LOG = 50

PICTURES = [bytes([number]) * 5000 for number in range(4)]


class Client:
    """An app: its core, its runner, and the answers that it got."""

    def __init__(self, core: Core, rng: random.Random) -> None:
        self.core = core
        self.rng = rng
        core.initialize()
        core.fake("t/echo:1", {"echo": True})
        core.fake("t/many:1", {**event("x"), "repeat": 300})
        core.register("t/see:1", {"type": "fake", "script": [{"echo": True}]}, "generate", "vision")
        core.call(
            "models.register",
            {
                "model": {
                    "id": "t/paid:1",
                    "source": {"type": "delegated"},
                    "capabilities": ["generate"],
                    "cost": {"input_per_mtok_usd": 1, "output_per_mtok_usd": 10},
                }
            },
        )
        core.call("runner.register")
        self._runner = threading.Thread(target=self._run, daemon=True)
        self._runner.start()

    def load(self, purged: str | None) -> None:
        """Ask for everything at once."""
        images = [
            {
                "type": "image",
                "source": {
                    "type": "base64",
                    "media_type": "image/png",
                    "data": base64.b64encode(self.rng.choice(PICTURES)).decode(),
                },
            }
        ]
        if purged is not None:
            self.core.ask("eventlog.purge", {"trace_id": purged})
        for _ in range(BURST):
            self.core.generate("t/echo:1", "echo")
            self.core.generate("t/many:1", "many")
            self.core.generate("t/paid:1", "paid", params={"max_tokens": 10})
            self.core.generate("t/see:1", "see", images=images)

    def kill(self, after_messages: int = 0) -> list[dict[str, Any]]:
        """Kill the core some time after it said so much; returns all results."""
        seen = len(self.core.messages) + after_messages - 1
        if after_messages:
            self.core.wait_for(lambda _: len(self.core.messages) > seen)
        threading.Event().wait(self.rng.random() * 0.05)
        os.kill(self.core.pid, signal.SIGKILL)
        self.core.wait()
        self.core._reader.join(WAIT_S)  # all that it said before is read
        self._runner.join(WAIT_S)
        self.core.stop_reading()
        self.core.close_stdin()
        results = [
            message["result"]
            for message in self.core.messages
            if is_response(message) and "trace_id" in message.get("result", {})
        ]
        self.core.messages.clear()  # of a stream that a kill cut the log has more
        return results

    def _run(self) -> None:
        seen = 0
        with contextlib.suppress(Closed, AssertionError, OSError, TimeoutError):
            while True:
                run = self.core.wait_for(lambda m: m.get("method") == "runner.run", seen)
                seen = self.core.index(run) + 1
                told = {"call_id": run["params"]["call_id"], "event": event("paid")["emit"]}
                self.core.notify("runner.event", told)
                self.core.send({"jsonrpc": "2.0", "id": run["id"], "result": {"usage": USAGE}})


class Checked:
    """What is known of a log, and how far it was looked at."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.path = state_dir / "car.db"
        self.answers: dict[str, str] = {}
        self.purged: set[str] = set()
        self._verified = Verified()

    def check(self, results: list[dict[str, Any]]) -> None:
        self.answers |= {result["trace_id"]: result["text"] for result in results}
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            self._check_money(db)
        self._check_chain()
        self._check_stories()

    def choose_purged(self, rng: random.Random) -> str | None:
        """A request that was answered, to be forgotten."""
        left = sorted(self.answers.keys() - self.purged)
        if not left:
            return None
        trace_id = rng.choice(left)
        self.purged.add(trace_id)
        return trace_id

    def _check_chain(self) -> None:
        """Without a gap, whole, with its files; from the beginning, as old events are deleted."""
        verified = Verified()
        while not verified.done:
            verified = verify_page(self.path, verified)
        assert verified.bad_seq is None, verified

    def _check_stories(self) -> None:
        stories: dict[str, list[LogEvent]] = {}
        page = EventlogQueryParams(limit=1000)
        while (found := select(self.path, page)).events:
            for each in found.events:
                stories.setdefault(each.trace_id or "", []).append(each)
            page = EventlogQueryParams(limit=1000, after_seq=found.next_seq)
        stories.pop("", None)
        for trace_id, story in stories.items():
            if trace_id not in self.purged:  # of which a kill may have left a part
                assert list(problems(story)) == [], trace_id
        for trace_id, text in self.answers.items():
            if trace_id not in self.purged:
                last = stories[trace_id][-1]
                assert last.type == "completion", trace_id
                assert last.data["result"]["text"] == text
        settled = {
            trace_id
            for trace_id, story in stories.items()
            if any(each.type == "spend_settled" for each in story)
        }
        paid = {trace_id for trace_id, text in self.answers.items() if text == "paid"}
        assert paid - self.purged <= settled

    def _check_money(self, db: sqlite3.Connection) -> None:
        """All that was ever reserved is charged once at its price, or still reserved."""
        db.execute("BEGIN")  # one moment for all of it: other cores go on
        used = db.execute(
            "SELECT nano_usd, priced_count FROM spend_used WHERE scope = '' AND period = ''"
        ).fetchone()
        nano_usd, count = used or (0, 0)
        (reserved,) = db.execute("SELECT count(*) FROM spend_reserved").fetchone()
        made = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spend_reserved'")
        assert nano_usd == count * COST_NANO_USD
        assert count + reserved == (made.fetchone() or (0,))[0]
        assert count >= sum(text == "paid" for text in self.answers.values())


@pytest.mark.parametrize(("cores", "full"), [(1, 300), (3, 200)])
def test_kill_9_at_random_moments_loses_nothing_that_was_told(
    start_core: StartCore,
    proof_count: Callable[[int, int], int],
    tmp_path: Path,
    cores: int,
    full: int,
) -> None:
    kills = proof_count(3, full)
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    answered = 0
    for log in itertools.count():
        checked = Checked(tmp_path / f"log-{log}")
        clients = [Client(start_core(state_dir=checked.state_dir), rng) for _ in range(cores)]
        for _ in range(min(kills, KILLS_PER_LOG)):
            for client in clients:
                client.load(checked.choose_purged(rng))
            victim = rng.randrange(cores)
            checked.check(clients[victim].kill(rng.randrange(MESSAGES)))
            clients[victim] = Client(start_core(state_dir=checked.state_dir), rng)
        for client in clients:
            checked.check(client.kill())
        answered += len(checked.answers)
        kills -= KILLS_PER_LOG
        if kills <= 0:
            break
    print(json.dumps({"seed": seed, "cores": cores, "answers": answered, "logs": log + 1}))
    assert answered
