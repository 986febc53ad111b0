"""Pages of the log: filters, cursors in both directions, everything once."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.eventlog import store as store_module
from car_rpc.eventlog.deletion import Chosen, delete_batch
from car_rpc.eventlog.moments import bounds
from car_rpc.eventlog.store import EventRow, Store, connect_to_read, select
from car_rpc.eventlog.times import to_text
from car_rpc.eventlog.writer import NewEvent
from car_rpc.wire.log import EventlogQueryParams, EventlogQueryResult


def query(**params):
    return msgspec.convert(params, EventlogQueryParams)


def numbers(result):
    return [event.seq for event in result.events]


async def fill(log, count, **fields):
    await log.commit(*(NewEvent(type="t", data={"n": n}, **fields) for n in range(count)))


async def test_an_event_comes_back_as_it_was_written(log):
    await log.commit(
        NewEvent(
            type="request.received",
            data={"text": "grün 🌍", "unknown": [1, 2.5, None]},
            trace_id="tr-1",
            attempt=2,
        ),
        NewEvent(type="session.ended", data=b'{ "reason" : "eof" }'),
    )
    first, second = (await log.query(query())).events

    assert msgspec.to_builtins(first) == {
        "seq": 1,
        "ts": "2026-01-31T08:30:00.000Z",
        "session_id": "session-1",
        "trace_id": "tr-1",
        "attempt": 2,
        "type": "request.received",
        "data": {"text": "grün 🌍", "unknown": [1, 2.5, None]},
    }
    assert (second.trace_id, second.attempt, second.data) == (None, UNSET, {"reason": "eof"})


async def test_every_filter_selects_its_events_and_together_they_intersect(log):
    for trace, conversation, kind in [
        ("a", "c1", "x"),
        ("a", "c1", "y"),
        ("b", "c1", "x"),
        ("b", None, "z"),
        (None, None, "x"),
    ]:
        await log.commit(NewEvent(type=kind, data={}, trace_id=trace, conversation_id=conversation))

    async def found(**params):
        return numbers(await log.query(query(**params)))

    assert await found() == [1, 2, 3, 4, 5]
    assert await found(trace_id="a") == [1, 2]
    assert await found(conversation_id="c1") == [1, 2, 3]
    assert await found(types=["x"]) == [1, 3, 5]
    assert await found(types=["y", "z"]) == [2, 4]
    assert await found(since="2026-01-31T08:30:01Z") == [2, 3, 4, 5]
    assert await found(until="2026-01-31T08:30:01Z") == [1]
    assert await found(since="2026-01-31T10:30:01+02:00", until="2026-01-31T08:30:03Z") == [2, 3]
    assert await found(conversation_id="c1", types=["x"], after_seq=1) == [3]
    assert await found(trace_id="' OR 1=1 --") == []


@pytest.mark.parametrize("name", ["since", "until"])
async def test_a_malformed_time_is_an_error_of_the_parameters(log, name):
    with pytest.raises(CarError) as raised:
        await log.query(query(**{name: "yesterday"}))

    assert raised.value.kind == "invalid_params"
    assert raised.value.data["path"] == f"$.{name}"


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 1001},
        {"after_seq": -1},
        {"after_seq": 2**63},
        {"order": "up"},
        {"types": []},
    ],
)
def test_parameters_out_of_range_do_not_convert(params):
    with pytest.raises(msgspec.ValidationError):
        query(**params)


async def test_an_ascending_cursor_can_be_polled_for_what_is_written_later(log):
    assert await log.query(query()) == EventlogQueryResult(events=[], next_seq=0)
    await fill(log, 3, trace_id="mine")
    page = await log.query(query(trace_id="mine"))
    await fill(log, 2, trace_id="other")
    nothing = await log.query(query(trace_id="mine", after_seq=page.next_seq))
    await fill(log, 1, trace_id="mine")

    assert (numbers(page), page.next_seq) == ([1, 2, 3], 3)
    assert (numbers(nothing), nothing.next_seq) == ([], 5)  # past the other request's events
    assert numbers(await log.query(query(trace_id="mine", after_seq=5))) == [6]


async def test_an_ascending_cursor_beyond_the_end_stays(log):
    await fill(log, 1)

    assert (await log.query(query(after_seq=70))).next_seq == 70


async def test_a_descending_cursor_begins_at_the_newest_and_ends_at_one(log):
    await fill(log, 5)
    first = await log.query(query(order="desc", limit=3))
    second = await log.query(query(order="desc", limit=3, after_seq=first.next_seq))
    third = await log.query(query(order="desc", limit=3, after_seq=second.next_seq))

    assert (numbers(first), first.next_seq) == ([5, 4, 3], 3)
    assert (numbers(second), second.next_seq) == ([2, 1], 1)
    assert (numbers(third), third.next_seq) == ([], 1)


@settings(max_examples=40, deadline=None)
@given(
    traces=st.lists(st.sampled_from("ab"), max_size=25),
    limit=st.integers(1, 7),
    order=st.sampled_from(["asc", "desc"]),
    trace=st.sampled_from(["a", "b", UNSET]),
)
def test_following_the_cursor_returns_every_match_once(
    tmp_path_factory, traces, limit, order, trace
):
    path = tmp_path_factory.mktemp("paging") / "log.db"
    store = Store.open(path)
    store.append([EventRow("", "s", name, None, None, "t", "{}") for name in traces])
    seen = []
    cursor = 0
    while True:
        params = EventlogQueryParams(after_seq=cursor, limit=limit, order=order, trace_id=trace)
        page = select(path, params)
        if not page.events:
            break
        seen += numbers(page)
        cursor = page.next_seq
    store.close()

    matches = [n for n, name in enumerate(traces, 1) if trace in (UNSET, name)]
    assert seen == (matches if order == "asc" else matches[::-1])


async def test_a_page_of_large_events_ends_early_and_continues(log, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_PAGE_BYTES", 2500)
    await log.commit(*(NewEvent(type="t", data={"x": "y" * 1000}) for _ in range(5)))
    page = await log.query(query())
    rest = await log.query(query(after_seq=page.next_seq))

    assert numbers(page) + numbers(rest) == [1, 2, 3, 4, 5]
    assert numbers(page) == [1, 2, 3]


@given(
    seconds=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    batches=st.integers(1, 5),
    deleted=st.sets(st.integers(1, 30), max_size=10),
    since=st.none() | st.integers(-1, 41),
    until=st.none() | st.integers(-1, 41),
    more=st.sampled_from(
        [{}, {"order": "desc"}, {"limit": 3}, {"after_seq": 7}, {"types": ["t1"]}]
    ),
)
@settings(max_examples=60)
def test_what_was_at_a_time_is_found_whatever_clocks_did(
    tmp_path_factory, seconds, batches, deleted, since, until, more
):
    path = tmp_path_factory.mktemp("times") / "log.db"
    store = Store.open(path)
    rows = [
        EventRow(f"2026-01-31T08:30:{n:02}.000Z" if n < 40 else "2030-01-01T00:00:00.000Z",
                 "s", None, None, None, f"t{n % 2}", "{}")
        for n in seconds
    ]  # fmt: skip
    for start in range(0, len(rows), batches):
        store.append(rows[start : start + batches])
    store.close()
    delete_batch(path, Chosen(f"seq IN ({', '.join(map(str, deleted)) or '0'})"))
    begin = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)
    window = {
        name: (begin + timedelta(seconds=value)).isoformat()
        for name, value in (("since", since), ("until", until))
        if value is not None
    }
    found = select(path, query(**window, **more)).events
    everything = select(path, query(**more | {"limit": 1000})).events
    wanted = [
        event
        for event in everything
        if ("since" not in window or event.ts >= to_text(datetime.fromisoformat(window["since"])))
        and ("until" not in window or event.ts < to_text(datetime.fromisoformat(window["until"])))
    ]
    assert found == wanted[: more.get("limit", 1000)]


def test_a_time_is_found_in_a_few_steps(path):
    store = Store.open(path)
    rows = [
        EventRow(f"2026-01-31T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}.000Z", "s", None, None,
                 None, "t", "{}")
        for n in range(5000)
    ]  # fmt: skip
    store.append([*rows[:2000], rows[1990], *rows[2000:]])  # one ten seconds late
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        first, last = bounds(
            connection, "2026-01-31T00:30:00.000Z", "2026-01-31T00:31:00.000Z", 5001
        )
    assert 1780 <= first < 1801
    assert 1860 < last <= 1880


def test_a_log_of_an_older_version_is_measured_when_it_is_opened(path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "MIGRATIONS", store_module.MIGRATIONS[:3])
        Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        for seq, second in enumerate((1, 9, 4, 30), 1):
            connection.execute(
                "INSERT INTO events (seq, ts, session_id, type, data)"
                " VALUES (?, ?, 's', 't', '{}')",
                (seq, f"2026-01-31T08:30:{second:02}.000Z"),
            )
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        (latest, skew_ms), = connection.execute(
            "SELECT latest, skew_ms FROM chain WHERE name = 'head'"
        ).fetchall()  # fmt: skip
    assert latest == "2026-01-31T08:30:30.000Z"
    assert 5000 <= skew_ms <= 5001


def test_a_log_that_somebody_else_wrote_is_searched_as_a_whole(path):
    store = Store.open(path)
    row = EventRow("2026-01-31T08:30:00.000Z", "s", None, None, None, "t", "{}")
    store.append([row])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE chain SET skew_ms = NULL")
    store.append([row._replace(ts="2020-01-31T08:30:00.000Z"), row])
    store.close()
    assert numbers(select(path, query(since="2026-01-01T00:00:00Z"))) == [1, 3]
    assert numbers(select(path, query(until="2026-01-01T00:00:00Z"))) == [2]


def test_a_page_begins_where_it_is_to_begin_and_nothing_before_is_read(path, monkeypatch):
    store = Store.open(path)
    row = EventRow("2026-01-31T08:30:00.000Z", "s", None, None, None, "t", "{}")
    store.append([row] * 20_000)
    store.close()
    steps = []

    def counted(opened):
        connection = connect_to_read(opened)
        connection.set_progress_handler(lambda: steps.append(1), 100)  # of SQLite's instructions
        return connection

    monkeypatch.setattr(store_module, "connect_to_read", counted)
    for params in ({}, {"order": "desc"}, {"since": "2026-01-31T08:30:00Z"}):
        assert len(select(path, query(after_seq=15_000, limit=10, **params)).events) == 10
        assert len(steps) < 50
        steps.clear()
