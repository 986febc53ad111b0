"""Heartbeats of long work, for clients that asked for them with a ``progress_token``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import msgspec
from msgspec import UnsetType

from car_rpc.host.services import Notify
from car_rpc.wire.lifecycle import ProgressParams, ProgressValue

#: How often a heartbeat is sent, in seconds: half of the 10 s that the protocol promises.
HEARTBEAT_S = 5.0

Report: TypeAlias = Callable[[ProgressValue], None]


@asynccontextmanager
async def heartbeats(token: int | str | UnsetType, send: Notify) -> AsyncGenerator[Report]:
    """Send ``$/progress`` begin, a report every few seconds, and end, around some work.

    What it gives takes a report that says more; heartbeats repeat the last one. Of reports that
    nobody reads only the newest is kept.

    Args:
        token: The client's token; without one nothing is sent.
        send: Sends a notification.
    """
    if isinstance(token, UnsetType):
        yield lambda _: None
        return
    last = ProgressValue(kind="report")

    def notify(value: ProgressValue) -> None:
        params = msgspec.json.encode(ProgressParams(token=token, value=value))
        send("$/progress", params, passing=value.kind == "report")

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            notify(last)

    def report(value: ProgressValue) -> None:
        nonlocal last
        last = value
        notify(value)

    notify(ProgressValue(kind="begin"))
    beating = asyncio.create_task(beat())
    try:
        yield report
    finally:
        # Nothing is awaited here: a cancel that came now would undo an answer that was given.
        beating.cancel()
        notify(ProgressValue(kind="end"))
