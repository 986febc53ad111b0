"""Watching: history and what comes, joined without gap or repetition."""

import asyncio
from contextlib import aclosing

import pytest

from car_rpc.eventlog import writer as writer_module
from car_rpc.eventlog.deletion import Chosen, delete_batch
from car_rpc.eventlog.writer import EventLog, NewEvent


def event(number):
    return NewEvent(type="t", data={"n": number})


async def take(watched, count):
    return [(await anext(watched)).seq for _ in range(count)]


@pytest.mark.parametrize("from_seq", [0, 1, 4])
async def test_history_comes_first_and_then_what_is_written(log, from_seq):
    await log.commit(*(event(n) for n in range(5)))
    async with aclosing(log.watch(from_seq)) as watched:
        first = max(from_seq, 1)
        assert await take(watched, 6 - first) == list(range(first, 6))
        log.append(event(5))
        log.append(event(6))
        assert await take(watched, 2) == [6, 7]


async def test_without_a_number_only_what_is_written_from_now_on_comes(log, monkeypatch):
    began = asyncio.Event()
    loop, real = asyncio.get_running_loop(), writer_module.last_seq_of

    def told(path):
        last_seq = real(path)
        loop.call_soon_threadsafe(began.set)
        return last_seq

    monkeypatch.setattr(writer_module, "last_seq_of", told)
    await log.commit(event(0), event(1))
    async with aclosing(log.watch(None)) as watched:
        coming = asyncio.ensure_future(anext(watched))
        await began.wait()
        await log.commit(event(2))
        assert (await coming).seq == 3


async def test_a_number_that_is_not_there_yet_is_waited_for(log):
    async with aclosing(log.watch(3)) as watched:
        coming = asyncio.ensure_future(anext(watched))
        await log.commit(event(1), event(2))
        await log.commit(event(3))
        assert (await coming).seq == 3


async def test_nothing_is_lost_or_repeated_while_others_write(path, log, clock, monkeypatch):
    monkeypatch.setattr(writer_module, "POLL_S", 0.02)
    other = EventLog.open(path, "session-2", clock)

    async def write(to):
        for number in range(150):
            to.append(event(number))
            if number % 7 == 0:
                await to.commit()
        await to.commit()

    async with asyncio.TaskGroup() as tasks:
        for each in (log, other):
            tasks.create_task(write(each))
        async with aclosing(log.watch(1)) as watched:
            assert await take(watched, 300) == list(range(1, 301))
    await other.close()


async def test_events_of_another_process_come_without_any_of_our_own(path, log, clock, monkeypatch):
    monkeypatch.setattr(writer_module, "POLL_S", 0.02)
    other = EventLog.open(path, "session-2", clock)
    async with aclosing(log.watch(1)) as watched:
        coming = asyncio.ensure_future(anext(watched))
        await other.commit(event(1))
        assert (await coming).session_id == "session-2"
    await other.close()


async def test_who_takes_slowly_holds_a_page_and_gets_all(log, monkeypatch):
    monkeypatch.setattr(writer_module, "WATCHED_EVENTS", 3)
    read = []
    real = writer_module.select

    def counted(*args):
        page = real(*args)
        read.append(len(page.events))
        return page

    monkeypatch.setattr(writer_module, "select", counted)
    await log.commit(*(event(n) for n in range(20)))
    async with aclosing(log.watch(1)) as watched:
        assert await take(watched, 1) == [1]
        assert read == [3], "the rest stays in the database"
        assert await take(watched, 19) == list(range(2, 21))


async def test_deleted_events_are_passed_over(path, log):
    await log.commit(*(event(n) for n in range(5)))
    delete_batch(path, Chosen("seq IN (2, 5)"))
    async with aclosing(log.watch(1)) as watched:
        assert await take(watched, 3) == [1, 3, 4]
        await log.commit(event(6))
        assert await take(watched, 1) == [6]


async def test_nobody_is_told_after_leaving(log):
    await log.commit(event(1))
    async with aclosing(log.watch(1)) as watched:
        await anext(watched)
        assert log._watchers
    assert not log._watchers
