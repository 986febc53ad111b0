"""The images, recordings and documents of requests: beside the database, each kept once.

A file is named by the SHA-256 of its bytes. The event holds that instead of the base64, so the
chain covers the bytes too, and says in ``blobs`` where each was::

    {"params": {... "source": {"type": "blob", "media_type": "image/png", "sha256": "9f86…"}},
     "blobs": [{"at": "/params/messages/0/content/0/source", "sha256": "9f86…", "bytes": 67}]}

A file is whole and on the disk before the transaction that names it. It is removed only in a
transaction in which nothing names it. A kill in between leaves a file too many, never one too few,
and :func:`sweep` removes that.
"""

from __future__ import annotations

import binascii
import os
import re
import time
from base64 import b64decode, b64encode
from contextlib import suppress
from hashlib import file_digest, sha256
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import msgspec

from car_rpc.wire.base import decode_object

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from car_rpc.wire.log import LogEvent

#: Longest file that is kept, in bytes: what fits into a message of the default limit.
MAX_BLOB_BYTES = 64 * 1024 * 1024

#: What an unfinished file is named; it is nobody's after this many seconds.
_UNFINISHED = ".part"
_UNFINISHED_S = 3600.0

#: Without one of these an encoded request holds no file.
_MARKS = (b'"base64"', b'"audio_b64"', b'"blobs"')
#: The parameter that is base64 itself, and no source.
_AUDIO = "audio_b64"

_DIGEST = re.compile("[0-9a-f]{64}")

_Json: TypeAlias = dict[str, Any]


class Blob(NamedTuple):
    """A file."""

    sha256: str
    content: bytes


def take_out(text: bytes) -> tuple[bytes, tuple[Blob, ...]]:
    """The data of a request without its files, and these.

    What is no base64 in the usual form stays as it is, so that nothing is changed by a way there
    and back. What is longer than :data:`MAX_BLOB_BYTES` goes without being kept.

    Raises:
        msgspec.DecodeError: The text is not a JSON object.
        RecursionError: It is nested too deeply.
    """
    if not any(mark in text for mark in _MARKS):
        return text, ()
    data = decode_object(text)
    named_before = data.pop("blobs", None)  # in an import, of files that nobody has
    taken = [*_taken(data, "")]
    if not taken and named_before is None:
        return text, ()
    if taken:
        data["blobs"] = [
            {"at": at, "sha256": blob.sha256, "bytes": len(blob.content)} for at, blob in taken
        ]
    kept = (blob for _, blob in taken if len(blob.content) <= MAX_BLOB_BYTES)
    return msgspec.json.encode(data), tuple(kept)


def _taken(value: Any, at: str) -> Iterator[tuple[str, Blob]]:
    """Take the files out of a value; each with its JSON Pointer (RFC 6901)."""
    if isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):  # type: ignore[redundant-cast]  # pyright needs it
            yield from _taken(item, f"{at}/{index}")
    elif isinstance(value, dict):
        members = cast("_Json", value)
        if members.get("type") == "base64" and (blob := _blob(members.get("data"))):
            _rename(members, {"type": "blob", "data": blob.sha256}, {"data": "sha256"})
            yield at, blob
            return
        for name, item in members.items():
            place = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
            if name == _AUDIO and (blob := _blob(item)):
                members[name] = {"sha256": blob.sha256}
                yield place, blob
            else:
                yield from _taken(item, place)


def _blob(data: object) -> Blob | None:
    if not isinstance(data, str) or not data:
        return None
    try:
        content = b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
    if b64encode(content).decode() != data:
        return None
    return Blob(sha256(content).hexdigest(), content)


def _rename(members: _Json, values: _Json, names: dict[str, str]) -> None:
    """Change members in their places."""
    items = [(names.get(name, name), values.get(name, old)) for name, old in members.items()]
    members.clear()
    members.update(items)


def named(data: str) -> set[str]:
    """The files that the data of an event names, without those that were too long to be kept."""
    if '"blobs"' not in data:
        return set()
    entries = decode_object(data.encode()).get("blobs") or ()
    return {entry["sha256"] for entry in entries if entry["bytes"] <= MAX_BLOB_BYTES}


class BlobFiles:
    """The files of one log.

    Args:
        database: The log's database, beside which they are.
    """

    def __init__(self, database: Path) -> None:
        self._directory = database.with_suffix(".blobs")

    def keep(self, blob: Blob) -> None:
        """Write a file, unless it is there. It is on the disk when this returns.

        Raises:
            OSError: It cannot be written.
        """
        path = self._path(blob.sha256)
        with suppress(FileNotFoundError):
            if path.stat().st_size == len(blob.content):
                return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_name(f"{blob.sha256}.{os.getpid()}{_UNFINISHED}")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(blob.content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)  # or a full disk would stay full
            raise
        _sync_directory(path.parent)

    def has(self, digest: str) -> bool:
        """Whether a file is there."""
        return self._path(digest).is_file()

    def is_whole(self, digest: str) -> bool:
        """Whether a file is there and holds what its name says. Reads all of it."""
        try:
            with self._path(digest).open("rb") as file:
                return file_digest(file, "sha256").hexdigest() == digest
        except (OSError, ValueError):
            return False

    def remove_unused(self, connection: sqlite3.Connection, digests: Iterable[str]) -> None:
        """Remove files that no event names; within a write transaction, so that none begins to."""
        for digest in digests:
            used = connection.execute("SELECT 1 FROM blob_uses WHERE sha256 = ? LIMIT 1", (digest,))
            if used.fetchone() is None:
                self._path(digest).unlink(missing_ok=True)

    def shards(self) -> list[Path]:
        """The directories of the files."""
        return sorted(self._directory.iterdir()) if self._directory.is_dir() else []

    def restored(self, event: LogEvent) -> LogEvent:
        """An event of a request as it came, with its files in it.

        ``blobs`` goes on to name those that are not there.
        """
        if not event.data.get("blobs"):
            return event
        data = msgspec.json.decode(msgspec.json.encode(event.data), type=dict[str, Any])
        missing = [entry for entry in data.pop("blobs") if not self._put_back(data, entry)]
        return msgspec.structs.replace(event, data=data | ({"blobs": missing} if missing else {}))

    def _put_back(self, data: _Json, entry: _Json) -> bool:
        *path, last = (
            token.replace("~1", "/").replace("~0", "~") for token in entry["at"].split("/")[1:]
        )
        try:
            holder: Any = data
            for token in path:
                holder = holder[_key(holder, token)]
            key = _key(holder, last)
            content = b64encode(self._path(entry["sha256"]).read_bytes()).decode()
            held: _Json = holder[key]
            if "type" in held:
                _rename(held, {"type": "base64", "sha256": content}, {"sha256": "data"})
            else:
                holder[key] = content
        except (OSError, LookupError, TypeError, ValueError):
            return False  # it is gone, or the event was changed
        return True

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):  # somebody changed the event
            raise ValueError(digest)
        return self._directory / digest[:2] / digest


def _key(holder: Any, token: str) -> Any:
    return int(token) if isinstance(holder, list) else token


def sweep(connection: sqlite3.Connection, files: BlobFiles, shard: Path) -> None:
    """Remove what a kill has left in a directory of files; within a write transaction."""
    names = [file.name for file in shard.iterdir()]
    files.remove_unused(connection, filter(_DIGEST.fullmatch, names))
    for name in names:
        unfinished = shard / name
        if name.endswith(_UNFINISHED):
            with suppress(OSError):
                if time.time() - unfinished.stat().st_mtime > _UNFINISHED_S:
                    unfinished.unlink()


def _sync_directory(path: Path) -> None:
    with suppress(PermissionError):  # Windows cannot, and needs no such thing
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
