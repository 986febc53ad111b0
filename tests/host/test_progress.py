import asyncio
from typing import Any

import msgspec

from car_rpc.host.progress import heartbeats
from car_rpc.wire.lifecycle import ProgressValue


async def test_a_cancel_at_the_end_of_the_work_does_not_undo_it() -> None:
    sent: list[Any] = []

    async def work() -> str:
        async with heartbeats("t", lambda _, params: sent.append(msgspec.json.decode(params))):
            return "answered"

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "answered", "whoever was answered already is not cancelled afterwards"
    assert [each["value"]["kind"] for each in sent] == ["begin", "end"]


async def test_what_was_reported_reaches_the_client_between_begin_and_end() -> None:
    sent: list[Any] = []
    async with heartbeats(7, lambda _, params: sent.append(msgspec.json.decode(params))) as report:
        report(ProgressValue(kind="report", done_bytes=3, total_bytes=4))
    assert [each["token"] for each in sent] == [7, 7, 7]
    assert [each["value"]["kind"] for each in sent] == ["begin", "report", "end"]
    assert sent[1]["value"]["total_bytes"] == 4
