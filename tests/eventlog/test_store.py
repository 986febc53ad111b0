"""The database: created private, migrated, shared, and failing with a remedy."""

import errno
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from car_rpc.errors import CarError
from car_rpc.eventlog import store as store_module
from car_rpc.eventlog.store import EventRow, Store, io_errors, select
from car_rpc.wire.log import EventlogQueryParams


def row(data='{"n":1}', **changes):
    plain = EventRow("2026-01-31T08:30:00.000Z", "s", None, None, None, "t", data)
    return plain._replace(**changes)


def everything(path):
    return select(path, EventlogQueryParams(limit=1000)).events


def failure(call, *args):
    with pytest.raises(CarError) as raised:
        call(*args)
    assert raised.value.kind == "io_error"
    return raised.value.detail


def test_the_directory_and_the_files_are_private(path):
    store = Store.open(path)
    store.append([row()])

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert len(list(path.parent.iterdir())) == 3  # database, write-ahead log, its index
    store.close()


def test_a_file_that_others_could_read_becomes_private(path):
    Store.open(path).close()
    path.chmod(0o644)
    Store.open(path).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_reopened_database_goes_on_with_the_sequence(path):
    for _ in range(3):
        store = Store.open(path)
        store.append([row(), row()])
        store.close()

    assert [event.seq for event in everything(path)] == [1, 2, 3, 4, 5, 6]


def test_two_stores_share_one_sequence(path):
    one, two = Store.open(path), Store.open(path)
    one.append([row()])
    two.append([row()])
    one.append([row()])

    assert [event.seq for event in everything(path)] == [1, 2, 3]
    one.close()
    two.close()


def test_many_can_open_a_new_database_at_once(path):
    def open_and_write(_):
        store = Store.open(path)
        store.append([row()])
        store.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_and_write, range(32)))

    assert [event.seq for event in everything(path)] == list(range(1, 33))


def test_entering_the_write_ahead_mode_waits_for_a_process_that_writes(tmp_path):
    """SQLite itself fails at once here, so two processes that start together would collide."""
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")
    waiting = threading.Event()

    def release():
        waiting.wait()
        other.execute("ROLLBACK")

    def watch(statement):
        if statement.startswith("BEGIN"):
            waiting.set()

    connection = sqlite3.connect(path, isolation_level=None)
    connection.set_trace_callback(watch)
    with ThreadPoolExecutor(1) as pool:
        released = pool.submit(release)
        store_module._enter_wal(connection)
        released.result()

    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    other.close()


def test_the_schema_version_is_recorded(path):
    Store.open(path).close()
    connection = sqlite3.connect(path)

    assert connection.execute("PRAGMA user_version").fetchone() == (4,)
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)  # incremental
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_an_older_schema_is_migrated_and_keeps_its_events(path, monkeypatch):
    store = Store.open(path)
    store.append([row()])
    store.close()
    later = (*store_module.MIGRATIONS, ("ALTER TABLE events ADD COLUMN more TEXT",))
    monkeypatch.setattr(store_module, "MIGRATIONS", later)
    Store.open(path).close()
    connection = sqlite3.connect(path)

    assert connection.execute("PRAGMA user_version").fetchone() == (5,)
    assert connection.execute("SELECT seq, more FROM events").fetchall() == [(1, None)]
    connection.close()


def test_a_migration_that_fails_leaves_the_schema_as_it_was(path, monkeypatch):
    Store.open(path).close()
    broken = ("ALTER TABLE events ADD COLUMN more TEXT", "SELECT nonsense")
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", (*store_module.MIGRATIONS, broken))
        failure(Store.open, path)

    Store.open(path).close()


def test_a_database_of_a_newer_version_is_refused(path):
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    detail = failure(Store.open, path)
    assert str(path) in detail
    assert "newer car-rpc" in detail


def test_a_file_that_is_no_database_is_refused_with_the_remedy(path):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, whatever it was before" * 100)

    detail = failure(Store.open, path)
    assert str(path) in detail
    assert "move the file away" in detail


def test_a_database_with_a_damaged_table_is_refused_at_open(path):
    store = Store.open(path)
    store.append([row()])
    store.close()
    with path.open("r+b") as file:
        file.seek(2 * 4096)  # the root of the table; the second page maps pointers
        file.write(b"\xff" * 4096)

    assert "move the file away" in failure(Store.open, path)


def test_a_directory_in_place_of_the_file_is_refused(path):
    path.mkdir(parents=True)

    detail = failure(Store.open, path)
    assert str(path) in detail
    assert "state directory" in detail


def test_a_file_in_place_of_the_directory_is_refused(path):
    path.parent.write_text("in the way")

    assert "state directory" in failure(Store.open, path)


def test_a_full_disk_writes_nothing_of_the_batch_and_the_next_fits_again(path):
    store = Store.open(path)
    store.append([row()])
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1}")

    assert "free some disk space" in failure(store.append, [row(), row('"' + "x" * 50_000 + '"')])
    assert [event.seq for event in everything(path)] == [1]
    store.append([row()])
    assert [event.seq for event in everything(path)] == [1, 2]
    store.close()


def test_a_lock_that_is_not_released_ends_in_an_error_with_the_remedy(path, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.0)
    store = Store.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    assert "process that holds the database" in failure(store.append, [row()])
    other.execute("ROLLBACK")
    store.append([row()])
    assert len(everything(path)) == 1
    other.close()
    store.close()


def test_reading_a_file_that_is_gone_is_an_io_error(path):
    failure(select, path, EventlogQueryParams())


def test_a_path_with_characters_of_uris_works(tmp_path):
    path = tmp_path / "a b?mode=x#%41 é" / "log.db"
    store = Store.open(path)
    store.append([row()])

    assert len(everything(path)) == 1
    store.close()


def test_filtered_pages_are_read_through_an_index_in_order(path):
    """A page must not cost more the longer the log is."""
    Store.open(path).close()
    connection = sqlite3.connect(path)
    for column in ("trace_id", "conversation_id", "type"):
        plan = " ".join(
            detail
            for *_, detail in connection.execute(
                f"EXPLAIN QUERY PLAN SELECT * FROM events WHERE {column} = ? AND seq > ? "
                "ORDER BY seq LIMIT 10",
                ("x", 5),
            )
        )
        assert "USING INDEX events_by_" in plan
        assert "TEMP B-TREE" not in plan
    connection.close()


def test_a_full_disk_is_told_as_such_also_of_a_file_beside_the_database(path):
    with pytest.raises(CarError, match="free some disk space"), io_errors(path):
        raise OSError(errno.ENOSPC, "No space left on device")
