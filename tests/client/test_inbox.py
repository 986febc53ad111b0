"""The events of one request between who reads the pipe and who reads the stream."""

import asyncio

import anyio
import pytest

from car_rpc.client.inbox import Inbox


async def turns() -> None:
    """Let everybody else go as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_events_come_in_order_and_then_the_end() -> None:
    inbox = Inbox[int](3)
    for number in range(3):
        await inbox.put(number)
    inbox.end()
    assert [await inbox.take() for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await inbox.take()


async def test_who_takes_waits_for_an_event_or_the_end() -> None:
    inbox = Inbox[int](3)
    takers = [asyncio.ensure_future(inbox.take()) for _ in range(2)]
    await turns()
    await inbox.put(1)
    await turns()
    assert [taker.done() for taker in takers] == [True, False]
    inbox.end()
    outcomes = await asyncio.gather(*takers, return_exceptions=True)
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], anyio.EndOfStream)


async def test_who_puts_waits_for_room() -> None:
    inbox = Inbox[int](2)
    await inbox.put(1)
    await inbox.put(2)
    late = asyncio.ensure_future(inbox.put(3))
    await turns()
    assert not late.done()
    assert await inbox.take() == 1
    await late
    assert [await inbox.take(), await inbox.take()] == [2, 3]


async def test_a_closed_one_holds_nobody_up_and_keeps_nothing() -> None:
    inbox = Inbox[int](1)
    await inbox.put(1)
    late = asyncio.ensure_future(inbox.put(2))
    await turns()
    inbox.close()
    await late
    await inbox.put(3)
    with pytest.raises(anyio.ClosedResourceError):
        await inbox.take()
