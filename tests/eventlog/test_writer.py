"""Appending and committing: order, durability, bounds, and failures that end nothing."""

import asyncio
import logging
import sqlite3
import threading
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_rpc.errors import CarError
from car_rpc.eventlog import store as store_module
from car_rpc.eventlog import writer as writer_module
from car_rpc.eventlog.writer import EventLog, NewEvent
from car_rpc.wire.log import EventlogQueryParams

EVERYTHING = EventlogQueryParams(limit=1000)


def event(n=0, **fields):
    return NewEvent(type="t", data={"n": n}, **fields)


async def logged(log):
    return [entry.data for entry in (await log.query(EVERYTHING)).events]


@pytest.fixture
def held_writes(monkeypatch):
    """Hold every write transaction until the event is set."""
    free = threading.Event()
    append = store_module.Store.append

    def held(self, rows):
        free.wait()
        append(self, rows)

    monkeypatch.setattr(store_module.Store, "append", held)
    yield free
    free.set()


@pytest.fixture
def broken_disk(monkeypatch):
    """Fail every write while the list is not empty."""
    errors = [CarError("io_error", "the event log: disk full; free some disk space")]
    append = store_module.Store.append

    def failing(self, rows):
        if errors:
            raise errors[0]
        append(self, rows)

    monkeypatch.setattr(store_module.Store, "append", failing)
    return errors


async def test_a_commit_returns_when_its_events_and_all_before_are_on_disk(log, path):
    log.append(event(1))
    await log.commit(event(2), event(3))
    connection = sqlite3.connect(path)

    assert connection.execute("SELECT seq, data FROM events").fetchall() == [
        (1, '{"n":1}'),
        (2, '{"n":2}'),
        (3, '{"n":3}'),
    ]
    connection.close()


async def test_an_append_reaches_the_disk_without_a_commit(log):
    log.append(event(1))

    while not (found := await logged(log)):
        pass
    assert found == [{"n": 1}]


async def test_a_commit_of_nothing_waits_for_what_is_being_written(log, held_writes):
    first = asyncio.ensure_future(log.commit(event(1)))
    barrier = asyncio.ensure_future(log.commit())
    await asyncio.sleep(0)
    assert not barrier.done()

    held_writes.set()
    await asyncio.gather(first, barrier)
    assert await logged(log) == [{"n": 1}]


async def test_commits_that_wait_together_share_a_transaction(log, monkeypatch, held_writes):
    sizes = []
    taken = threading.Event()
    held = store_module.Store.append

    def counted(self, rows):
        sizes.append(len(rows))
        taken.set()
        held(self, rows)

    monkeypatch.setattr(store_module.Store, "append", counted)
    first = asyncio.ensure_future(log.commit(event()))
    await asyncio.to_thread(taken.wait)
    others = [asyncio.ensure_future(log.commit(event())) for _ in range(50)]
    await asyncio.sleep(0)
    held_writes.set()
    await asyncio.gather(first, *others)

    assert sizes == [1, 50]


async def test_a_cancelled_commit_is_written_all_the_same(log, held_writes):
    waiting = asyncio.ensure_future(log.commit(event(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    held_writes.set()
    await log.commit(event(2))

    assert waiting.cancelled()
    assert await logged(log) == [{"n": 1}, {"n": 2}]


async def test_data_may_be_builtins_structs_raw_or_encoded(log):
    class Point(msgspec.Struct):
        x: int

    await log.commit(
        NewEvent(type="t", data={"x": 1}),
        NewEvent(type="t", data=Point(1)),
        NewEvent(type="t", data=msgspec.Raw(b'{"x":1}')),
        NewEvent(type="t", data=b'{"x":1}'),
    )
    await log.commit(NewEvent(type="t", data={"params": msgspec.Raw(b'{ "y" : 1E2 }')}))

    *plain, forwarded = await logged(log)
    assert plain == [{"x": 1}] * 4
    assert msgspec.json.encode(forwarded) == b'{"params":{"y":1E2}}'


async def test_data_changed_after_the_append_is_logged_as_it_was(log):
    data = {"n": 1}
    log.append(NewEvent(type="t", data=data))
    data["n"] = 2
    await log.commit()

    assert await logged(log) == [{"n": 1}]


async def test_data_that_cannot_be_encoded_is_the_callers_mistake(log):
    with pytest.raises(TypeError):
        log.append(NewEvent(type="t", data={"x": object()}))


@pytest.mark.parametrize(
    "text", [b"[1]", b"{", b'{"a":"\xff"}', b'{"a":' * 9999 + b"1" + b"}" * 9999]
)
async def test_data_that_is_no_json_object_keeps_its_place_without_content(log, text):
    await log.commit(NewEvent(type="t", data=text))

    [found] = await logged(log)
    assert list(found) == ["unreadable"]


async def test_secrets_are_replaced_before_the_write(log, path):
    secret = "sk-" + "a1B2" * 8
    await log.commit(NewEvent(type="t", data={"text": f"my key is {secret}", "password": "p4ss"}))

    assert await logged(log) == [
        {"text": "my key is [redacted:api_key]", "password": "***", "redacted": True}
    ]
    for file in path.parent.iterdir():
        assert secret.encode() not in file.read_bytes()


async def test_a_failed_write_raises_from_every_commit_and_the_log_goes_on(log, broken_disk):
    results = await asyncio.gather(
        log.commit(event(1)), log.commit(event(2)), return_exceptions=True
    )
    assert [error.kind for error in results] == ["io_error", "io_error"]
    assert results[0] is not results[1]

    broken_disk.clear()
    await log.commit(event(3))
    assert log.lost == 2


async def test_lost_events_are_reported_once_and_told_by_the_log_itself(log, broken_disk, caplog):
    caplog.set_level(logging.WARNING, "car_rpc.eventlog")
    for n in range(3):
        log.append(event(n))
        with pytest.raises(CarError):
            await log.commit()
        with pytest.raises(CarError):
            await log.commit(event(n))
    assert log.lost == 6
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "free some disk space" in caplog.text

    broken_disk.clear()
    await log.commit(event(8))
    await log.commit(event(9))
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    truncated, *after = (await log.query(EVERYTHING)).events
    assert (truncated.seq, truncated.type, truncated.data) == (1, "log_truncated", {"lost": 6})
    assert [entry.data for entry in after] == [{"n": 8}, {"n": 9}]


async def test_a_full_disk_refuses_commits_until_there_is_space(log):
    await log.commit(event(1))
    connection = log._store._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CarError) as raised:
        await log.commit(NewEvent(type="t", data={"x": "y" * 100_000}))
    assert raised.value.kind == "io_error"
    assert "free some disk space" in raised.value.detail

    connection.execute("PRAGMA max_page_count = 1000000")
    await log.commit(event(2))
    assert await logged(log) == [{"n": 1}, {"lost": 1}, {"n": 2}]


async def test_a_defect_in_the_thread_answers_its_callers_and_does_not_end_it(
    log, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "redact_json", lambda *_: 1 / 0)
        with pytest.raises(CarError) as raised:
            await log.commit(event(1))
    assert raised.value.kind == "internal"
    assert "ZeroDivisionError" in caplog.text

    await log.commit(event(2))


async def test_a_caller_is_held_while_too_much_waits(log, held_writes, monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_WAITING_BYTES", 2000)
    await log.room()
    for n in range(4):
        log.append(event(n))
    held = asyncio.ensure_future(log.room())
    await asyncio.sleep(0)
    assert not held.done()

    held_writes.set()
    await held
    await log.commit()
    assert len(await logged(log)) == 4


async def test_much_data_is_written_without_waiting_for_more(log, monkeypatch):
    monkeypatch.setattr(writer_module, "FLUSH_S", 3600)
    log.append(NewEvent(type="t", data={"x": "y" * writer_module.FLUSH_BYTES}))

    while not await logged(log):
        pass


async def test_closing_writes_what_waits_and_refuses_what_comes_later(path, clock, monkeypatch):
    monkeypatch.setattr(writer_module, "FLUSH_S", 3600)
    log = EventLog.open(path, "s", clock)
    log.append(event(1))
    assert await log.close()
    assert await log.close()
    log.append(event(2))
    with pytest.raises(CarError) as raised:
        await log.commit(event(3))

    assert raised.value.kind == "shutting_down"
    assert log.lost == 2
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert await logged(log) == [{"n": 1}]


async def test_closing_gives_up_in_bounded_time(path, clock, held_writes, caplog):
    log = EventLog.open(path, "s", clock)
    log.append(event(1))

    assert not await log.close(timeout_s=0.01)
    assert "not written out" in caplog.text
    held_writes.set()
    assert await log.close()


async def test_closing_fails_nothing_when_the_database_cannot_be_closed(
    path, clock, monkeypatch, caplog
):
    log = EventLog.open(path, "s", clock)
    with monkeypatch.context() as patch:
        error = CarError("io_error", "the disk is gone")
        patch.setattr(log._store, "close", lambda: (_ for _ in ()).throw(error))
        assert await log.close()

    assert "the disk is gone" in caplog.text
    log._store.close()


def test_a_loop_that_ended_before_its_commit_does_not_end_the_thread(path, clock, held_writes):
    log = EventLog.open(path, "s", clock)

    async def give_up():
        asyncio.get_running_loop().create_task(log.commit(event(1)))
        await asyncio.sleep(0)

    asyncio.run(give_up())
    held_writes.set()

    async def go_on():
        await log.commit(event(2))
        await log.close()
        return await logged(log)

    assert asyncio.run(go_on()) == [{"n": 1}, {"n": 2}]


async def test_two_sessions_in_one_file_see_each_other(path, clock):
    one, two = EventLog.open(path, "one", clock), EventLog.open(path, "two", clock)
    await asyncio.gather(*(log.commit(event()) for log in (one, two) * 20))

    found = (await one.query(EVERYTHING)).events
    assert [entry.seq for entry in found] == list(range(1, 41))
    assert [entry.session_id for entry in found].count("two") == 20
    await asyncio.gather(one.close(), two.close())


#: What a task does: append, append and give way, commit, wait for room.
Steps = st.lists(st.sampled_from(["append", "yield", "commit", "room"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(tasks=st.lists(Steps, min_size=1, max_size=6))
def test_any_interleaving_is_one_gapless_sequence_that_keeps_each_tasks_order(
    tmp_path_factory, tasks
):
    path = tmp_path_factory.mktemp("interleaving") / "log.db"

    async def work(log, name, steps):
        for n, step in enumerate(steps):
            mine = NewEvent(type="t", trace_id=name, data={"n": n})
            if step == "commit":
                await log.commit(mine)
                page = await log.query(EventlogQueryParams(trace_id=name, limit=1000))
                assert [entry.data["n"] for entry in page.events] == list(range(n + 1))
                continue
            log.append(mine)
            if step == "yield":
                await asyncio.sleep(0)
            elif step == "room":
                await log.room()

    async def run():
        log = EventLog.open(path, "s", lambda: datetime.now(UTC))
        await asyncio.gather(*(work(log, str(name), steps) for name, steps in enumerate(tasks)))
        await log.close()
        return (await log.query(EVERYTHING)).events

    found = asyncio.run(run())
    assert [entry.seq for entry in found] == list(range(1, sum(map(len, tasks)) + 1))
    for name, steps in enumerate(tasks):
        mine = [entry.data["n"] for entry in found if entry.trace_id == str(name)]
        assert mine == list(range(len(steps)))
