"""The chain: what car-rpc wrote is right, and whatever else was done to it shows."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_rpc.eventlog import store as store_module
from car_rpc.eventlog.chain import ORIGIN, content_hash, link
from car_rpc.eventlog.deletion import OLDEST, Chosen, delete_batch
from car_rpc.eventlog.store import EventRow, Store
from car_rpc.eventlog.verification import Verified, verify_page

EVENTS = 40


def row(number, trace_id="tr_1"):
    data = f'{{"n":{number}}}'
    return EventRow(
        "2026-01-31T08:30:00.000Z", "s", trace_id, "talk" if number % 2 else None, 1, "t", data
    )


def fill(path, count=EVENTS):
    store = Store.open(path)
    for number in range(0, count, 7):
        store.append([row(n, f"tr_{n % 5}") for n in range(number, min(number + 7, count))])
    store.close()


def change(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def verify(path, limit=6):
    verified = Verified()
    while not verified.done:
        verified = verify_page(path, verified, limit)
    return verified


def first_bad(path):
    return verify(path).bad_seq


def test_what_was_written_is_right_also_by_several_stores_and_when_empty(path):
    Store.open(path).close()
    assert verify(path).result().ok
    fill(path)
    one, two = Store.open(path), Store.open(path)
    one.append([row(1), row(2)])
    two.append([row(3)])
    one.append([row(4)])
    one.close()
    two.close()

    result = verify(path).result()
    assert (result.ok, result.checked) == (True, EVENTS + 4)


@pytest.mark.parametrize("limit", [1, 8, EVENTS, EVENTS + 1])
def test_pages_of_any_size_find_the_same(path, limit):
    fill(path)
    assert verify(path, limit)[2:] == (EVENTS, True, None)
    change(path, "UPDATE events SET type = 'u' WHERE seq = 17")
    assert verify(path, limit)[2:] == (17, True, 17)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ts", "2026-01-31T08:30:00.001Z"),
        ("session_id", "other"),
        ("trace_id", "tr_other"),
        ("trace_id", None),
        ("conversation_id", "another talk"),
        ("attempt", 2),
        ("attempt", None),
        ("type", "request"),
        ("data", '{"n":41}'),
        ("data", b'{"n":7}'),
        ("salt", bytes(16)),
        ("salt", None),
        ("hash", bytes(32)),
        ("hash", None),
    ],
)
def test_a_change_of_any_column_shows(path, column, value):
    fill(path)
    change(path, f"UPDATE events SET {column} = ? WHERE seq = 8", value)
    assert first_bad(path) == 8


@given(seq=st.integers(1, EVENTS), flip=st.integers(0, 7 * 8 - 1))
@settings(max_examples=25)
def test_a_flipped_bit_of_any_content_shows(tmp_path_factory, seq, flip):
    path = tmp_path_factory.mktemp("flip") / "log.db"
    fill(path)
    ((data,),) = change(path, "SELECT data FROM events WHERE seq = ?", seq)
    changed = bytearray(data.encode())
    changed[flip // 8 % len(changed)] ^= 1 << flip % 8
    change(path, "UPDATE events SET data = CAST(? AS TEXT) WHERE seq = ?", bytes(changed), seq)
    assert first_bad(path) == seq


def test_what_is_removed_added_or_exchanged_shows(path):
    fill(path)
    before = path.read_bytes()

    def after(*statements):
        path.write_bytes(before)
        for statement in statements:
            change(path, statement)
        return first_bad(path)

    copied = "ts, session_id, trace_id, conversation_id, attempt, type, data, salt, hash"
    assert after("DELETE FROM events WHERE seq = 20") == 20
    assert after("DELETE FROM events WHERE seq <= 3") == 1
    assert after("DELETE FROM events WHERE seq > 30") == 31
    assert after("DELETE FROM events") == 1
    assert after(f"INSERT INTO events SELECT 41, {copied} FROM events WHERE seq = 40") == 41
    assert (
        after(
            "UPDATE events SET seq = 100 WHERE seq = 10",
            "UPDATE events SET seq = 10 WHERE seq = 11",
            "UPDATE events SET seq = 11 WHERE seq = 100",
        )
        == 10
    )


def test_marks_that_were_moved_show(path):
    fill(path)
    before = path.read_bytes()

    def after(statement):
        path.write_bytes(before)
        change(path, statement)
        return first_bad(path)

    assert after("UPDATE chain SET seq = 30 WHERE name = 'head'") == 31
    assert after("UPDATE chain SET seq = 50 WHERE name = 'head'") == 41
    assert after("UPDATE chain SET hash = zeroblob(32) WHERE name = 'head'") == 40
    assert after("DELETE FROM chain WHERE name = 'head'") == 1
    moved = "(SELECT seq, hash FROM events WHERE seq = 5)"
    assert after(f"UPDATE chain SET (seq, hash) = {moved} WHERE name = 'start'") == 1


def test_a_log_that_was_changed_is_still_written(path):
    fill(path)
    change(path, "DELETE FROM chain")
    store = Store.open(path)
    store.append([row(1)])
    store.close()
    assert change(path, "SELECT max(seq) FROM events") == [(EVENTS + 1,)]
    assert first_bad(path) is not None


def test_deleted_events_leave_the_chain_right_and_nothing_of_themselves(path):
    fill(path)
    assert delete_batch(path, Chosen("trace_id = ?", ("tr_3",))) == EVENTS / 5

    result = verify(path).result()
    assert (result.ok, result.checked) == (True, EVENTS)
    left = change(path, "SELECT * FROM tombstones WHERE seq = 4")
    assert left[0][:4] == (4, "2026-01-31T08:30:00.000Z", "s", "t")
    assert [len(each) for each in left[0][4:]] == [32, 32]


def test_the_chain_starts_behind_what_is_deleted_at_its_start(path):
    fill(path)
    assert delete_batch(path, Chosen("trace_id = ?", ("tr_3",))) == EVENTS / 5
    assert delete_batch(path, Chosen("seq <= 3")) == 3

    assert change(path, "SELECT seq FROM chain WHERE name = 'start'") == [(4,)]
    assert change(path, "SELECT min(seq) FROM tombstones") == [(9,)]
    assert verify(path).result().checked == EVENTS - 4
    assert delete_batch(path, OLDEST) == EVENTS - 3 - EVENTS / 5
    assert change(path, "SELECT count(*) FROM tombstones") == [(0,)]
    assert verify(path).result().ok

    store = Store.open(path)
    store.append([row(1)])
    store.close()
    assert change(path, "SELECT seq FROM events") == [(EVENTS + 1,)], "no number comes twice"
    assert verify(path).result().checked == 1


def test_what_is_left_of_deleted_events_is_chained_too(path):
    fill(path)
    delete_batch(path, Chosen("seq BETWEEN 10 AND 12"))
    change(path, "UPDATE tombstones SET type = 'u' WHERE seq = 11")
    assert first_bad(path) == 11
    change(path, "DELETE FROM tombstones WHERE seq = 11")
    assert first_bad(path) == 11
    delete_batch(path, Chosen("seq < 20"))
    assert first_bad(path) == 11, "nor does deleting hide it"


def test_events_that_are_deleted_during_the_check_are_no_fault(path):
    fill(path)
    verified = verify_page(path, Verified(), 10)
    delete_batch(path, Chosen("seq <= 25"))
    while not verified.done:
        verified = verify_page(path, verified, 10)
    assert verified.bad_seq is None


def test_events_from_before_there_was_a_chain_are_kept_outside_it(path, monkeypatch):
    old = store_module.MIGRATIONS[:1]
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", old)
        Store.open(path).close()
    change(
        path,
        "INSERT INTO events SELECT seq, '2026-01-31T08:30:00.000Z', 's', NULL, NULL, NULL, 't',"
        "'{}' FROM (SELECT 1 AS seq UNION SELECT 2)",
    )
    fill(path, 7)

    assert change(path, "SELECT max(seq) FROM events") == [(9,)]
    assert verify(path).result().checked == 7
    delete_batch(path, Chosen("seq = 1"))
    assert change(path, "SELECT count(*) FROM tombstones") == [(0,)]
    assert verify(path).result().ok


def test_a_hash_is_what_the_specification_says():
    # Computed with `printf … | sha256sum`, as spec/PROTOCOL.md describes it.
    salt = bytes(range(16))
    content = content_hash(salt, "tr_1", None, 0, '{"n":1}')
    assert content.hex() == "171962771ae476154cc5b9dd14a5276049b616288dbd54a6e4765962996215dd"
    hash_ = link(ORIGIN, content, 1, "2026-01-31T08:30:00.000Z", "s", "t")
    assert hash_.hex() == "a2e567b5d112e9ed43b24eb80e15c65e13663c0f6eeb2cc5068d67f302830533"


@given(data=st.data())
@settings(max_examples=60)
def test_a_flipped_bit_of_any_value_of_any_row_shows(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "log.db"
    fill(path, 12)
    delete_batch(path, Chosen("seq <= 2 OR seq = 7"))
    assert verify(path).result().ok
    table = data.draw(st.sampled_from(["events", "tombstones", "chain"]))
    rows = change(path, f"SELECT rowid, * FROM {table}")
    rowid, *values = data.draw(st.sampled_from(rows))
    names = [name for _, name, *_ in change(path, f"PRAGMA table_info({table})")]
    hints = ("latest", "skew_ms")  # say where to search, and nothing of what happened
    named = [pair for pair in zip(names, values, strict=True) if pair[0] not in hints]
    name, value = data.draw(st.sampled_from(named).filter(lambda pair: pair[1] is not None))
    if isinstance(value, int):
        changed, expression = value ^ 1 << data.draw(st.integers(0, 40)), "?"
    else:
        raw = bytearray(value.encode() if isinstance(value, str) else value)
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        changed, expression = bytes(raw), "CAST(? AS TEXT)" if isinstance(value, str) else "?"
    change(
        path, f"UPDATE OR REPLACE {table} SET {name} = {expression} WHERE rowid = ?", changed, rowid
    )
    assert first_bad(path) is not None, (table, name)
