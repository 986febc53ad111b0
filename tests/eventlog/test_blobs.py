"""Files of requests: kept once beside the database, gone with their last event, never missing."""

import errno
import json
import os
import sqlite3
import stat
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.errors import CarError
from car_rpc.eventlog import blobs as blobs_module
from car_rpc.eventlog import deletion
from car_rpc.eventlog.blobs import BlobFiles, take_out
from car_rpc.eventlog.deletion import Chosen, delete_batch, sweep_blobs
from car_rpc.eventlog.export import export
from car_rpc.eventlog.imported import import_lines
from car_rpc.eventlog.store import EventRow, Store
from car_rpc.eventlog.upkeep import Upkeep
from car_rpc.eventlog.writer import EventLog, NewEvent
from car_rpc.wire.log import (
    EventlogExportParams,
    EventlogPurgeParams,
    EventlogQueryParams,
    LogEvent,
    RetentionPolicy,
)

PICTURE = b"\x89PNG" + bytes(range(256)) * 20
SOUND = b"RIFF" + b"\x01\x02" * 500


def digest(content):
    return sha256(content).hexdigest()


def source(content, media_type="image/png"):
    return {"type": "base64", "media_type": media_type, "data": b64encode(content).decode()}


def asked(trace_id, *contents, **params):
    blocks = [{"type": "image", "source": source(content)} for content in contents]
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is it"}, *blocks]}]
    data = {"request_id": 1, "method": "generate", "params": {"messages": messages, **params}}
    return NewEvent(type="request", data=data, trace_id=trace_id, conversation_id=f"of {trace_id}")


def on_disk(path):
    """All files beside a database, by name."""
    return {f.name: f.read_bytes() for f in path.with_suffix(".blobs").rglob("*") if f.is_file()}


async def everything(log):
    await log.commit()
    return (await log.query(EventlogQueryParams(limit=1000))).events


async def test_a_picture_is_a_file_and_the_event_names_it(path, log):
    await log.commit(asked("tr_1", PICTURE))
    (event,) = await everything(log)

    held = event.data["params"]["messages"][0]["content"][1]["source"]
    assert held == {"type": "blob", "media_type": "image/png", "sha256": digest(PICTURE)}
    assert event.data["blobs"] == [
        {
            "at": "/params/messages/0/content/1/source",
            "sha256": digest(PICTURE),
            "bytes": len(PICTURE),
        }
    ]
    assert on_disk(path) == {digest(PICTURE): PICTURE}
    for file in path.with_suffix(".blobs").rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) == (0o600 if file.is_file() else 0o700)
    assert b64encode(PICTURE)[:100] not in path.with_name(path.name + "-wal").read_bytes()
    assert (await log.verify()).ok


async def test_a_story_has_its_files_in_it_again(log):
    event = asked("tr_1", PICTURE, SOUND, audio_b64=b64encode(SOUND).decode())
    await log.commit(event)
    (again,) = await log.story("tr_1")
    assert again.data == event.data
    assert [*again.data["params"]["messages"][0]["content"][1]["source"]] == [
        "type", "media_type", "data",
    ]  # fmt: skip


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary().map(source),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.text(max_size=4) | st.sampled_from(["audio_b64", "a/b", "~", "blobs", "type"]),
                inner | st.binary().map(lambda b: b64encode(b).decode()),
                max_size=4,
            )
        ),
    )
)
def test_whatever_is_taken_out_is_put_back(tmp_path_factory, params):
    path = tmp_path_factory.mktemp("blobs") / "log.db"
    text = json.dumps({"request_id": 1, "params": params}).encode()
    store = Store.open(path)
    held, taken = take_out(text)
    files = BlobFiles(path)
    for blob in taken:
        files.keep(blob)
    store.close()
    data = json.loads(held)
    event = msgspec.convert(
        {"seq": 1, "ts": "", "session_id": "s", "trace_id": "t", "type": "request", "data": data},
        LogEvent,
    )
    assert files.restored(event).data == json.loads(text)


@pytest.mark.parametrize(
    "data", ["", "no base64!", "QUI", "QR==", "QUI=\n", "data:image/png;base64,QUI="]
)
def test_what_is_no_base64_in_the_usual_form_stays_as_it_is(data):
    text = json.dumps({"params": {"image": {"type": "base64", "data": data}}}).encode()
    assert take_out(text) == (text, ())


async def test_a_picture_of_many_requests_is_kept_once_and_as_long_as_one_needs_it(path, log):
    for number in range(3):
        await log.commit(asked(f"tr_{number}", PICTURE, PICTURE))
    assert on_disk(path) == {digest(PICTURE): PICTURE}
    upkeep = Upkeep(path, log, RetentionPolicy(), lambda: datetime.now(UTC))

    await upkeep.purge(EventlogPurgeParams(trace_id="tr_0"))
    await upkeep.purge(EventlogPurgeParams(conversation_id="of tr_1"))
    assert on_disk(path) == {digest(PICTURE): PICTURE}
    assert (await log.verify()).ok
    await upkeep.purge(EventlogPurgeParams(trace_id="tr_2"))
    assert on_disk(path) == {}
    assert (await log.verify()).ok


async def test_files_count_for_the_size_and_old_ones_go_with_their_events(path, log, monkeypatch):
    for number in range(20):
        await log.commit(asked(f"tr_{number}", os.urandom(500_000)))
    policy = RetentionPolicy(max_bytes=5_000_000)
    upkeep = Upkeep(path, log, policy, lambda: datetime.now(UTC))
    assert (await upkeep.retention()).used_bytes > 10_000_000

    monkeypatch.setattr(deletion, "BATCH_EVENTS", 2)
    assert await upkeep.enforce() == 12
    assert len(on_disk(path)) == 8
    assert (await upkeep.retention()).used_bytes <= 5_000_000
    assert (await log.verify()).ok


async def test_of_a_private_request_nothing_is_a_file(path, log):
    measured = {"bytes": 7000, "hash": "00"}
    await log.commit(NewEvent(type="request", data={"method": "generate", "params": measured}))
    assert on_disk(path) == {}


@pytest.mark.parametrize("change", ["remove", "change", "cut"])
async def test_a_file_that_was_changed_shows(path, log, change):
    await log.commit(NewEvent(type="t", data={}), asked("tr_1", PICTURE))
    await log.commit(asked("tr_2", PICTURE), asked("tr_3", SOUND))
    (file,) = path.with_suffix(".blobs").rglob(digest(PICTURE))
    match change:
        case "remove":
            file.unlink()
        case "change":
            file.write_bytes(b"?" + PICTURE[1:])
        case _:
            file.write_bytes(PICTURE[:-1])
    result = await log.verify()
    assert (result.ok, result.first_bad_seq) == (False, 2)


async def test_an_event_that_names_no_file_of_ours_reads_none(path, log):
    await log.commit(asked("tr_1", PICTURE))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE events SET data = replace(data, ?, ?)", (digest(PICTURE), "../x")
        )
    (event,) = await log.story("tr_1")
    assert event.data["blobs"]
    assert not (await log.verify()).ok


async def test_a_file_that_is_gone_is_named(path, log):
    await log.commit(asked("tr_1", PICTURE, SOUND))
    (file,) = path.with_suffix(".blobs").rglob(digest(PICTURE))
    file.unlink()
    (event,) = await log.story("tr_1")
    assert [entry["sha256"] for entry in event.data["blobs"]] == [digest(PICTURE)]
    picture, sound = event.data["params"]["messages"][0]["content"][1:]
    assert (picture["source"]["type"], sound["source"]) == ("blob", source(SOUND))


async def test_what_is_too_long_is_named_and_not_kept(path, log, monkeypatch):
    monkeypatch.setattr(blobs_module, "MAX_BLOB_BYTES", len(SOUND))
    await log.commit(asked("tr_1", PICTURE, SOUND))
    assert on_disk(path) == {digest(SOUND): SOUND}
    assert (await log.verify()).ok


async def test_what_kills_leave_behind_is_swept_and_nothing_else(path, log):
    await log.commit(asked("tr_1", PICTURE))
    files = BlobFiles(path)
    files.keep(blobs_module.Blob(digest(SOUND), SOUND))  # and then it was killed
    (kept,) = path.with_suffix(".blobs").rglob(digest(PICTURE))
    old, new = (kept.with_name(f"{digest(PICTURE)}.{pid}.part") for pid in (1, 2))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))

    sweep_blobs(path)

    assert set(on_disk(path)) == {digest(PICTURE), new.name}
    assert (await log.verify()).ok


async def test_a_file_that_is_swept_before_its_event_is_written_is_written_again(
    path, log, monkeypatch
):
    await log.commit(NewEvent(type="t", data={}))
    keep = BlobFiles.keep
    calls = []

    def keep_and_be_overtaken(files, blob):
        keep(files, blob)
        calls.append(blob)
        if len(calls) == 1:  # outside the transaction
            sweep_blobs(path)
            assert on_disk(path) == {}

    monkeypatch.setattr(BlobFiles, "keep", keep_and_be_overtaken)
    await log.commit(asked("tr_1", PICTURE))
    assert len(calls) == 2
    assert on_disk(path) == {digest(PICTURE): PICTURE}
    assert (await log.verify()).ok


def test_a_kill_between_the_deletion_and_the_file_leaves_the_file(path, monkeypatch):
    text = json.dumps(asked("tr_1", PICTURE).data).encode()
    held, taken = take_out(text)
    store = Store.open(path)
    row = ("2026-01-31T08:30:00.000Z", "s", "tr_1", None, None, "request", held.decode(), taken)
    store.append([EventRow(*row)])

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(BlobFiles, "remove_unused", die)
        with pytest.raises(KeyboardInterrupt):
            delete_batch(path, Chosen("1"))
    assert set(on_disk(path)) == {digest(PICTURE)}
    sweep_blobs(path)
    assert on_disk(path) == {}
    store.close()


async def test_a_disk_that_takes_no_file_takes_no_event(path, log):
    await log.commit(NewEvent(type="t", data={}))
    path.with_suffix(".blobs").write_text("in the way")
    with pytest.raises(CarError) as raised:
        await log.commit(asked("tr_1", PICTURE))
    assert raised.value.kind == "io_error"
    assert [event.type for event in await everything(log)] == ["t"]


async def test_an_export_carries_files_and_an_import_keeps_them(path, log, clock, monkeypatch):
    monkeypatch.setattr("car_rpc.eventlog.export._PIECE_BYTES", 10)
    await log.commit(asked("tr_1", PICTURE), NewEvent(type="t", data={"n": 1}))
    file = path.parent / "log.jsonl"
    result = await export(log, EventlogExportParams(format="jsonl", path=str(file)))
    assert result.count == 2
    assert json.loads(file.read_text().splitlines()[0])["data"] == asked("tr_1", PICTURE).data

    other_path = path.with_name("other.db")
    with file.open("rb") as lines:
        assert import_lines(Store.open(other_path), lines) == 2
    assert on_disk(other_path) == {digest(PICTURE): PICTURE}
    other = EventLog.open(other_path, "session-2", clock)
    assert (await other.verify()).ok
    again = await export(other, EventlogExportParams(format="jsonl"))
    assert again.content == file.read_text()
    await other.close()


async def test_an_import_names_no_file_that_is_not_in_it(path, log):
    await log.commit(asked("tr_1", PICTURE))
    (file,) = path.with_suffix(".blobs").rglob(digest(PICTURE))
    file.unlink()
    result = await export(log, EventlogExportParams(format="jsonl"))
    other_path = path.with_name("other.db")
    store = Store.open(other_path)
    assert import_lines(store, str(result.content).encode().splitlines()) == 1
    store.close()
    assert on_disk(other_path) == {}
    with closing(sqlite3.connect(other_path)) as connection:
        assert connection.execute("SELECT count(*) FROM blob_uses").fetchone() == (0,)
        assert "blobs" not in connection.execute("SELECT data FROM events").fetchone()[0]


def test_a_file_that_does_not_fit_on_the_disk_leaves_nothing_of_itself(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    files = BlobFiles(tmp_path / "car.db")
    monkeypatch.setattr(blobs_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.keep(blobs_module.Blob(digest(PICTURE), PICTURE))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
