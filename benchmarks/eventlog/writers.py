"""Ways to keep the events of an answer, from the whole event log to a plain file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from car_rpc.engine.ports import EventSink
from car_rpc.engine.privacy import Privacy
from car_rpc.engine.recording import Recorder
from car_rpc.eventlog.deletion import empty_write_ahead_log
from car_rpc.eventlog.writer import EventLog
from car_rpc.host.wiring import SystemClock
from car_rpc.testing import MemorySink
from car_rpc.wire.events import Attempt, TextDelta
from car_rpc.wire.inference import PrivacyLevel

_encode = msgspec.json.Encoder().encode


class Writer(Protocol):
    """Takes the events of one answer after the other."""

    async def begin(self, trace_id: str) -> None:
        """A request; returns when it is as safe as this way makes it."""
        ...

    async def delta(self, event: TextDelta) -> None:
        """A piece of the answer."""
        ...

    async def end(self, text: str) -> None:
        """The whole answer, as safe as this way makes it."""
        ...


class Recorded:
    """The engine's own recorder, in front of an event log."""

    def __init__(self, sink: EventSink, level: PrivacyLevel) -> None:
        self._sink = sink
        self._privacy = Privacy(level, salt=bytes(32))
        self._recorder: Recorder

    async def begin(self, trace_id: str) -> None:
        self._recorder = Recorder(self._sink, SystemClock(), trace_id, privacy=self._privacy)
        self._recorder.request(request_id=1, method="generate", params={"prompt": "tell me"})
        self._recorder.note("route", model="a/b:1", reason="best", fallbacks=[])
        await self._recorder.written()
        self._recorder.attempt(Attempt(attempt=1, trace_id=trace_id, model="a/b:1"))

    async def delta(self, event: TextDelta) -> None:
        self._recorder.delta(event)
        await self._recorder.room()

    async def end(self, text: str) -> None:
        await self._recorder.commit_final("completion", outcome="success", result={"text": text})


class Plain:
    """A line or a row for every event, written at once by a function."""

    def __init__(self, write: Callable[[str, str, bytes], None]) -> None:
        self._write = write
        self._trace_id = ""

    async def begin(self, trace_id: str) -> None:
        self._trace_id = trace_id
        self._put("request", {"request_id": 1, "params": {"prompt": "tell me"}})
        self._put("route", {"model": "a/b:1", "reason": "best"})
        self._put("attempt", {"model": "a/b:1"})

    async def delta(self, event: TextDelta) -> None:
        self._put("delta", event)

    async def end(self, text: str) -> None:
        self._put("completion", {"outcome": "success", "result": {"text": text}})

    def _put(self, kind: str, data: object) -> None:
        self._write(self._trace_id, kind, _encode(data))


#: Opens a writer in an empty folder.
Way: TypeAlias = Callable[[Path], AbstractAsyncContextManager[Writer]]


def logged(level: PrivacyLevel) -> Way:
    """The event log at a level of privacy."""

    @asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Writer]:
        path = folder / "car.db"
        log = EventLog.open(path, "ses_1", lambda: datetime.now(UTC))
        yield Recorded(log, level)
        await log.commit()
        empty_write_ahead_log(path)
        await log.close()

    return opened


@asynccontextmanager
async def in_memory(_: Path) -> AsyncGenerator[Writer]:
    """The recorder in front of a list."""
    yield Recorded(MemorySink(), "redacted")


@asynccontextmanager
async def lines(folder: Path) -> AsyncGenerator[Writer]:
    """A line of JSON for each event, flushed to the operating system."""
    with (folder / "log.jsonl").open("wb", buffering=0) as file:

        def write(trace_id: str, kind: str, data: bytes) -> None:
            now = datetime.now(UTC).isoformat()
            file.write(
                _encode({"ts": now, "trace_id": trace_id, "type": kind, "data": msgspec.Raw(data)})
                + b"\n"
            )

        yield Plain(write)


@asynccontextmanager
async def inserts(folder: Path) -> AsyncGenerator[Writer]:
    """A transaction for each event, into a table with the log's indexes and its journal."""
    database = sqlite3.connect(folder / "rows.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute(
        "CREATE TABLE events"
        " (seq INTEGER PRIMARY KEY, ts TEXT, trace_id TEXT, type TEXT, data TEXT)"
    )
    for column in ("trace_id", "type", "ts"):
        database.execute(f"CREATE INDEX by_{column} ON events ({column})")

    def write(trace_id: str, kind: str, data: bytes) -> None:
        database.execute(
            "INSERT INTO events (ts, trace_id, type, data) VALUES (?, ?, ?, ?)",
            (datetime.now(UTC).isoformat(), trace_id, kind, data.decode()),
        )

    yield Plain(write)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()


#: All of them, by their titles; the first is what the others are compared with.
WAYS: dict[str, Way] = {
    "redacted (default)": logged("redacted"),
    "full": logged("full"),
    "metadata": logged("metadata"),
    "recorder, kept in memory": in_memory,
    "plain JSONL": lines,
    "SQLite, one insert per event": inserts,
}


async def answer(writer: Writer, trace_id: str, events: Sequence[TextDelta]) -> float:
    """One answer; returns how long its request took to be safe, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await writer.begin(trace_id)
    taken = loop.time() - began
    for number, event in enumerate(events):
        await writer.delta(event)
        if number % 16 == 0:  # as they come from a pipe: some, and then the loop goes on
            await asyncio.sleep(0)
    await writer.end("".join(event.text for event in events))
    return taken
