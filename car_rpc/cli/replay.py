"""``car-rpc replay``: what a request got, or gets now."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import msgspec

from car_rpc.cli.answer import Answer
from car_rpc.cli.start import start
from car_rpc.wire.replay import Difference, Divergence, ReplayRunResult

#: How much of a value is shown, in characters.
MAX_VALUE_CHARS = 300


async def replay(options: argparse.Namespace) -> int:
    """Show the answer as it came, and then what is to be said of it."""
    speed = "timed" if options.timed else "fast"
    answer = Answer(silent=options.json)
    async with (
        start(options) as car,
        car.stream_replay(options.trace, options.mode, speed=speed) as stream,
    ):
        async for event in stream:
            answer.show(event)
        result = await stream.result()
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(result)).decode())
        return 0
    answer.end()
    for line in report(result, was_streamed=answer.shown):
        print(line)
    return 0


def report(result: ReplayRunResult, *, was_streamed: bool) -> Iterator[str]:
    """What is to be said of a replay, in lines."""
    if result.diverged is not msgspec.UNSET:
        yield from _decisions(result.diverged)
        return
    if not was_streamed:
        yield msgspec.json.format(msgspec.json.encode(result.result)).decode()
    if result.redacted:
        yield "(secrets were replaced before this was written)"
    if isinstance(result.diff, list):
        yield f"differences: {len(result.diff)}"
        for difference in result.diff:
            yield from _told(difference)


def _decisions(diverged: Divergence | msgspec.UnsetType | None) -> Iterator[str]:
    if not isinstance(diverged, Divergence):
        yield "all is decided as it was"
        return
    yield f"event {diverged.at} is decided otherwise"
    yield f"  - {_value(diverged.recorded)}"
    yield f"  + {_value(diverged.now)}"


def _told(difference: Difference) -> Iterator[str]:
    yield difference.path
    yield f"  - {_value(difference.recorded)}"
    yield f"  + {_value(difference.now)}"


def _value(value: Any) -> str:
    if value is msgspec.UNSET:
        return "(not there)"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"
