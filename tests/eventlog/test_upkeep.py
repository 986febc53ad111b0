"""Deleting: what is named, and what is too old or too much."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from car_rpc.errors import CarError
from car_rpc.eventlog import deletion
from car_rpc.eventlog.upkeep import Upkeep
from car_rpc.eventlog.writer import NewEvent
from car_rpc.wire.log import EventlogPurgeParams, EventlogQueryParams, RetentionPolicy

START = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)
WITHOUT_END = RetentionPolicy(max_bytes=0)


def upkeep_of(path, log, policy=WITHOUT_END, now=lambda: START):
    return Upkeep(path, log, policy, now)


def write(log, count, conversation_id=None, text=""):
    for number in range(count):
        data = {"n": number, "text": text}
        log.append(
            NewEvent(
                type="t",
                data=data,
                trace_id=f"tr_{number % 3}",
                conversation_id=conversation_id,
            )
        )


async def left(log):
    await log.commit()
    return [event.seq for event in (await log.query(EventlogQueryParams(limit=1000))).events]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"trace_id": "tr_1"}, [1, 3, 4, 6]),
        ({"trace_id": "nobody"}, [1, 2, 3, 4, 5, 6]),
        ({"conversation_id": "b"}, [1, 2, 3]),
        ({"before": "2026-01-31T08:30:02Z"}, [3, 4, 5, 6]),
        ({"before": "2026-01-31T09:30:04+01:00"}, [5, 6]),
    ],
)
async def test_what_is_named_is_deleted_and_the_chain_holds(path, log, params, expected):
    write(log, 3, "a")
    write(log, 3, "b")

    count = await upkeep_of(path, log).purge(EventlogPurgeParams(**params))

    assert count == 6 - len(expected)
    assert await left(log) == expected
    assert (await log.verify()).ok


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "$.before"),
        ({"trace_id": "a", "conversation_id": "b"}, "$.before"),
        ({"before": "yesterday"}, "$.before"),
    ],
)
async def test_exactly_one_thing_must_be_named(path, log, params, field):
    write(log, 3)
    with pytest.raises(CarError) as raised:
        await upkeep_of(path, log).purge(EventlogPurgeParams(**params))
    assert (raised.value.kind, raised.value.data["path"]) == ("invalid_params", field)
    assert await left(log) == [1, 2, 3]


async def test_more_than_one_batch_is_deleted(path, log, monkeypatch):
    monkeypatch.setattr(deletion, "BATCH_EVENTS", 4)
    monkeypatch.setattr("car_rpc.eventlog.upkeep.BATCH_EVENTS", 4)
    write(log, 30)
    assert await upkeep_of(path, log).purge(EventlogPurgeParams(trace_id="tr_0")) == 10
    assert (await log.verify()).ok


async def test_nothing_of_what_was_said_is_left_on_the_disk(path, log):
    write(log, 20, "the secret talk", "what nobody shall read")
    write(log, 20)
    await log.commit()
    assert any(b"nobody shall read" in file.read_bytes() for file in path.parent.iterdir())

    await upkeep_of(path, log).purge(EventlogPurgeParams(conversation_id="the secret talk"))

    for file in path.parent.iterdir():
        assert b"nobody shall read" not in file.read_bytes()
        assert b"the secret talk" not in file.read_bytes()


async def test_events_are_deleted_when_they_are_too_old(path, log):
    write(log, 6)
    await log.commit()
    policy = RetentionPolicy(max_age_ms=2_000, max_bytes=0)
    upkeep = upkeep_of(path, log, policy, lambda: datetime(2026, 1, 31, 8, 30, 5, tzinfo=UTC))

    assert await upkeep.enforce() == 3
    assert await left(log) == [4, 5, 6]
    assert (await log.verify()).ok
    assert await upkeep.enforce() == 0


async def test_an_age_beyond_all_years_keeps_everything(path, log):
    write(log, 2)
    await log.commit()
    policy = RetentionPolicy(max_age_ms=2**53 - 1, max_bytes=0)
    assert await upkeep_of(path, log, policy).enforce() == 0


async def test_the_oldest_events_are_deleted_when_they_are_too_much_and_the_file_shrinks(
    path, log, monkeypatch
):
    monkeypatch.setattr(deletion, "MIN_FREE_BYTES", 64 * 1024)
    write(log, 2000, text="x" * 1000)
    await log.commit()
    deletion.empty_write_ahead_log(path)
    size = path.stat().st_size
    upkeep = upkeep_of(path, log, RetentionPolicy(max_bytes=1_000_000))

    assert 500 < await upkeep.enforce() < 2000
    kept = await left(log)
    assert kept[-1] == 2000
    assert (await upkeep.retention()).used_bytes <= 1_000_000
    assert path.stat().st_size < size / 1.5
    result = await log.verify()
    assert (result.ok, result.checked) == (True, 2000 - kept[0] + 1)


async def test_a_policy_holds_for_all_processes_and_before_the_configuration(path, log):
    configured = RetentionPolicy(max_age_ms=5)
    one, two = upkeep_of(path, log, configured), upkeep_of(path, log, WITHOUT_END)
    assert (await one.retention()).policy == configured

    await one.set_policy(RetentionPolicy(max_age_ms=7, max_bytes=8))
    assert (await two.retention()).policy == RetentionPolicy(max_age_ms=7, max_bytes=8)

    await two.set_policy(None)
    assert (await one.retention()).policy == configured


async def test_a_new_file_gives_its_space_back_and_an_old_one_uses_it_again(path, log):
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    await log.commit()
    assert deletion.give_back_space(path) is False, "there is nothing to give back"
