"""Pages of the log: filters, cursors in both directions, everything once."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.eventlog import store as store_module
from car_rpc.eventlog.store import EventRow, Store, select
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


async def test_a_time_of_few_events_and_one_of_many_are_read_alike(log, monkeypatch):
    for number in range(20):
        await log.commit(NewEvent(type=f"t{number % 2}", data={}))
    window = {"since": "2026-01-31T08:30:05Z", "until": "2026-01-31T08:30:15Z"}
    wanted = [
        query(**window, **more)
        for more in ({}, {"order": "desc"}, {"types": ["t1"]}, {"after_seq": 8}, {"limit": 3})
    ]
    few = [await log.query(params) for params in wanted]
    monkeypatch.setattr("car_rpc.eventlog.store.NARROW_EVENTS", 5)
    many = [await log.query(params) for params in wanted]
    assert few == many
    assert [event.seq for event in few[0].events] == list(range(6, 16))
