"""``car-rpc log``: show the event log, follow it, export and import it, check and purge it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec

from car_rpc.cli.start import FAILED, start
from car_rpc.cli.timeline import line, timeline
from car_rpc.client import CarClient
from car_rpc.config import car_home
from car_rpc.errors import CarError
from car_rpc.wire.log import LogEvent

#: Most events that are asked for at a time.
PAGE_EVENTS = 1000


async def log(options: argparse.Namespace) -> int:
    """Do what was asked for with the log."""
    if options.log_command is not None:
        return await COMMANDS[options.log_command](options)
    async with start(options) as car:
        if options.follow:
            await _follow(car, options)
        elif options.trace and not options.json:
            story = await _story(car, options.trace)
            if not story:
                print(f"car-rpc: the log has nothing of {options.trace}", file=sys.stderr)
                return FAILED
            print("\n".join(timeline(story)))
        else:
            await _newest(car, options)
    return 0


async def export(options: argparse.Namespace) -> int:
    """Write events to a file or to standard output."""
    params: dict[str, Any] = {
        name: value
        for name, value in (
            ("trace_id", options.trace),
            ("conversation_id", options.conversation),
            ("since", options.since),
            ("until", options.until),
            ("content", options.content or None),
            ("path", str(options.output.absolute()) if options.output else None),
        )
        if value is not None
    }
    async with start(options) as car:
        result = await car.export_log(options.format, **params)
    if isinstance(result.content, str):
        print(result.content, end="")
    else:
        print(f"{result.count} written to {result.path}", file=sys.stderr)
    return 0


async def import_(options: argparse.Namespace) -> int:
    """Take the events of a JSONL export into the log."""
    try:
        count = await anyio.to_thread.run_sync(_import_file, options.file, _database(options))
    except (CarError, OSError) as error:
        print(f"car-rpc: {error}", file=sys.stderr)
        return FAILED
    print(f"{count} events imported", file=sys.stderr)
    return 0


async def verify(options: argparse.Namespace) -> int:
    """Check that the log is as it was written."""
    async with start(options) as car:
        result = await car.verify_log()
    if result.ok:
        print(f"ok: {result.checked} events are as they were written")
        return 0
    print(f"event {result.first_bad_seq} is not as it was written, or is missing")
    return FAILED


async def purge(options: argparse.Namespace) -> int:
    """Delete events for good."""
    chosen = {
        name: value
        for name, value in (
            ("before", options.before),
            ("trace_id", options.trace),
            ("conversation_id", options.conversation),
        )
        if value is not None
    }
    async with start(options) as car:
        print(f"{await car.purge_log(**chosen)} events deleted")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], Awaitable[int]]] = {
    "export": export,
    "import": import_,
    "verify": verify,
    "purge": purge,
}


async def _newest(car: CarClient, options: argparse.Namespace) -> int:
    """Print the newest events, oldest first; returns the number of the last one."""
    filters: dict[str, Any] = {"order": "desc", "limit": options.limit}
    if options.trace:
        filters["trace_id"] = options.trace
    page = await car.query_log(**filters)
    for event in reversed(page.events):
        _print(event, options)
    return page.events[0].seq if page.events else 0


async def _follow(car: CarClient, options: argparse.Namespace) -> None:
    last_seq = await _newest(car, options)
    async with car.watch_log(last_seq + 1) as events:
        async for event in events:
            if options.trace in (None, event.trace_id):
                _print(event, options)


async def _story(car: CarClient, trace_id: str) -> list[LogEvent]:
    story: list[LogEvent] = []
    last_seq = 0
    while (
        page := await car.query_log(trace_id=trace_id, after_seq=last_seq, limit=PAGE_EVENTS)
    ).events:
        story += page.events
        last_seq = page.next_seq
    return story


def _print(event: LogEvent, options: argparse.Namespace) -> None:
    text = msgspec.json.encode(event).decode() if options.json else line(event)
    print(text, flush=options.follow)


def _database(options: argparse.Namespace) -> Path:
    from car_rpc.host.wiring import DATABASE_NAME  # noqa: PLC0415 - only this command needs it

    return Path(options.state_dir or car_home()).absolute() / DATABASE_NAME


def _import_file(file: Path, database: Path) -> int:
    # The log's own code, because a file of any size does not go through the wire.
    from car_rpc.eventlog.imported import import_lines  # noqa: PLC0415 - only this command needs it
    from car_rpc.eventlog.store import Store  # noqa: PLC0415 - as above

    with file.open("rb") as lines:
        store = Store.open(database)
        try:
            return import_lines(store, lines)
        finally:
            store.close()
