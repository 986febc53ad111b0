"""Whether the log can show again what clients got: every answer and every stream."""

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from car_rpc.engine.premises import Own, Snapshot
from car_rpc.engine.redriven import Story, first_divergence
from car_rpc.errors import CarError
from car_rpc.eventlog import store
from car_rpc.eventlog.blobs import BlobFiles
from car_rpc.eventlog.recorded import Recorded, recorded
from car_rpc.wire.log import EventlogQueryParams, LogEvent

#: Why a request that has its answer cannot be shown again.
EXCUSES = ("only metadata were kept", "its result was too long to be kept")


def check_replays(stories: dict[str, list[LogEvent]], messages: Iterable[Any]) -> int:
    """Compare what the log would show with what was on the wire.

    Args:
        stories: The events of each trace.
        messages: What the core said, or several of them, as JSON values.

    Returns:
        How many answers and streams were found on the wire and are the same.
    """
    said = [*_flat(messages)]
    answers: dict[str, list[str]] = {}
    for answer in map(_answer, said):
        answers.setdefault(_trace(answer) or "", []).append(_shown(answer))
    streams = {_trace_of_stream(stream): stream for stream in _streams(said)}
    compared = 0
    for trace_id, story in stories.items():
        if story[-1].type != "completion":
            continue
        try:
            found = recorded(trace_id, story)
        except CarError as error:
            if any(excuse in error.message for excuse in EXCUSES):
                continue
            raise
        if found.redacted:
            continue  # the wire had it as it was
        if trace_id in answers:
            # An error of another request may name the trace, too.
            assert _shown(_replayed(found)) in answers[trace_id]
            compared += 1
        if trace_id in streams:
            events = [each.event for each in found.events]
            assert _shown(events) == _shown(streams[trace_id])
            compared += 1
    return compared


def check_decisions(
    stories: dict[str, list[LogEvent]], inputs: Iterable[LogEvent], most: int
) -> int:
    """Decide again what was decided for requests, at most so many, and compare.

    Returns:
        For how many that was done.
    """
    snapshots = {event.data["hash"]: event for event in inputs}
    checked = 0
    for trace_id, story in stories.items():
        route = next((event for event in story if event.type == "route"), None)
        if route is None or "premises" not in route.data or checked == most:
            continue
        if any(event.type in ("resumed", "policy") for event in story):
            continue  # they need more than the log of the one request
        if story[0].data.get("redacted") or story[0].data.get("blobs"):
            continue  # what was asked is not in the log as it was
        try:
            found = recorded(trace_id, story)
        except CarError:
            continue  # of which `check_replays` judges
        own = msgspec.convert(route.data["premises"], Own)
        shared = msgspec.convert(snapshots[own.inputs].data, Snapshot)
        params = msgspec.json.encode(found.params)
        diverged = asyncio.run(first_divergence(params, Story(story), own, shared, None))
        assert diverged is None, (trace_id, diverged)
        checked += 1
    return checked


def read_log(path: Path) -> Iterator[LogEvent]:
    """All events of a database; none where its process ended before it made the table."""
    with closing(sqlite3.connect(path)) as db:
        if ("events",) not in db.execute("SELECT name FROM sqlite_master").fetchall():
            return
    files = BlobFiles(path)
    page = EventlogQueryParams(limit=1000)
    while (found := store.select(path, page)).events:
        yield from map(files.restored, found.events)
        page = EventlogQueryParams(limit=1000, after_seq=found.next_seq)


def stories_of(events: Iterable[LogEvent]) -> dict[str, list[LogEvent]]:
    """The events of each trace, in order."""
    stories: dict[str, list[LogEvent]] = {}
    for event in events:
        if event.trace_id is not None:
            stories.setdefault(event.trace_id, []).append(event)
    return stories


def _flat(messages: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for message in messages:
        yield from message if isinstance(message, list) else [message]


def _answer(message: dict[str, Any]) -> Any:
    return message.get("result", message.get("error")) if "method" not in message else None


def _trace(answer: Any) -> str | None:
    if not isinstance(answer, dict):
        return None
    data = answer.get("data") if "code" in answer else answer
    trace_id = data.get("trace_id") if isinstance(data, dict) else None
    return trace_id if isinstance(trace_id, str) else None


def _replayed(found: Recorded) -> Any:
    answer = found.answered()
    return answer.error or answer.result


def _streams(said: Sequence[dict[str, Any]]) -> Iterator[list[Any]]:
    """The streams that came to their end, each with its events."""
    begun: dict[str, list[Any]] = {}
    for message in said:
        if message.get("method") == "generate.event":
            params = message["params"]
            stream = begun.setdefault(json.dumps(params["request_id"]), [])
            stream.append(params["event"])
            if params["event"]["type"] in ("done", "error"):
                yield begun.pop(json.dumps(params["request_id"]))


def _trace_of_stream(stream: Sequence[Any]) -> str | None:
    traces = (event["trace_id"] for event in stream if event["type"] == "attempt")
    return next(traces, None)


def _shown(value: Any) -> str:
    """Its JSON, with every member in its place."""
    return json.dumps(json.loads(msgspec.json.encode(value)))
