import asyncio
from typing import Any

import msgspec

from car_rpc.host.progress import heartbeats
from car_rpc.host.services import Notify
from car_rpc.wire.lifecycle import ProgressValue


def sends(sent: list[Any]) -> Notify:
    def send(method: str, params: bytes, /, *, passing: bool = False) -> bool:
        sent.append({**msgspec.json.decode(params), "passing": passing})
        return True

    return send


async def test_a_cancel_at_the_end_of_the_work_does_not_undo_it() -> None:
    sent: list[Any] = []

    async def work() -> str:
        async with heartbeats("t", sends(sent)):
            return "answered"

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "answered", "whoever was answered already is not cancelled afterwards"
    assert [each["value"]["kind"] for each in sent] == ["begin", "end"]


async def test_what_was_reported_reaches_the_client_between_begin_and_end() -> None:
    sent: list[Any] = []
    async with heartbeats(7, sends(sent)) as report:
        report(ProgressValue(kind="report", done_bytes=3, total_bytes=4))
    assert [each["token"] for each in sent] == [7, 7, 7]
    assert [each["value"]["kind"] for each in sent] == ["begin", "report", "end"]
    assert sent[1]["value"]["total_bytes"] == 4
    assert [each["passing"] for each in sent] == [False, True, False]


async def test_of_reports_that_nobody_reads_the_newest_waits(app: Any) -> None:
    session = app.session
    begin, end = (b'{"token":1,"value":{"kind":"%s"}}' % kind for kind in (b"begin", b"end"))
    session.notify(1, "$/progress", begin)
    for done in range(10_000):
        report = b'{"token":1,"value":{"kind":"report","done_bytes":%d}}' % done
        assert session.notify(1, "$/progress", report, passing=True), "there is always room"
    session.notify(1, "$/progress", end)
    told = [each["params"]["value"] for each in app.read() if each.get("method") == "$/progress"]
    assert [each["kind"] for each in told] == ["begin", "report", "end"]
    assert told[1]["done_bytes"] == 9_999
