"""Download one file: go on where the last try ended, check what came, put it into its place.

The hub's own client starts from nothing after each interruption, so only its reading of HTTP is
used here (``http_get`` takes the place to go on from, and resumes a broken connection by itself).
"""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.file_download import http_get  # pyright: ignore[reportUnknownVariableType] - partly typed

from car_rpc.errors import CarError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: How the name of what is not whole yet ends. A client of the hub passes over such files.
PARTIAL_SUFFIX = ".car-rpc.incomplete"

#: Most that is asked for at once, in bytes. Networks that deliver content, the hub's among them,
#: answer with no more than 50 GB (Amazon CloudFront, "Quotas"), and ``http_get`` refuses to begin a
#: longer file: it comes in ranges.
MAX_ANSWER_BYTES = 32 * 1024**3

# What is not written yet is lost with the connection. With the default of 10 MiB a line that breaks
# more often than that would never get on.
constants.DOWNLOAD_CHUNK_SIZE = 64 * 1024


class Digest(NamedTuple):
    """What the content of a file must hash to.

    Attributes:
        kind: ``git`` is the SHA-1 of a blob in Git, which is what the hub tells of small files.
        hex: The digest, in lower case.
    """

    kind: Literal["sha256", "git"]
    hex: str


class RemoteFile(NamedTuple):
    """A file somewhere else.

    Attributes:
        url: Its address.
        size_bytes: Its size; ``None`` when the server does not say.
        digest: What it must hash to; ``None`` when nobody said.
        headers: What to send along.
    """

    url: str
    size_bytes: int | None = None
    digest: Digest | None = None
    headers: dict[str, str] | None = None


class _CountingFile(io.FileIO):
    """Writes at once, and tells how long the file is by now."""

    def __init__(self, path: Path, note: Callable[[int], None]) -> None:
        super().__init__(path, "ab")
        self._note = note

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes is what http_get has
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) or 0 :]
        self._note(self.tell())
        return len(data)


def fetch(file: RemoteFile, partial: Path, target: Path, note: Callable[[int], None]) -> int:
    """Make ``target`` the whole file; one process at a time, the others wait and find it there.

    Args:
        file: What to download.
        partial: Where it grows. A part of a file without a known size is thrown away.
        target: Where it goes, on the same file system.
        note: Takes how many bytes of it are here.

    Returns:
        The bytes that were downloaded by this call.

    Raises:
        CarError: ``download_failed`` when what came is not what was promised; nothing of it stays.
        OSError: It cannot be written. What the connection raises comes through as well.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{partial}.lock"):
        if target.exists():
            return 0
        start = _usable_bytes(partial, file.size_bytes)
        note(start)
        with _CountingFile(partial, note) as out:
            _download(file, out, start)
            os.fsync(out.fileno())
            end = out.tell()
        if file.digest is not None:
            _check(partial, file.digest)
        partial.replace(target)
    return max(0, end - start)


def _download(file: RemoteFile, out: io.FileIO, start: int) -> None:
    size = file.size_bytes
    if size is None or size <= MAX_ANSWER_BYTES:
        http_get(file.url, out, resume_size=start, headers=file.headers, expected_size=size)
        return
    while start < size:
        # `http_get` moves the beginning of a range to the place that it goes on from.
        end = min(start + MAX_ANSWER_BYTES, size)
        headers = {**(file.headers or {}), "Range": f"bytes=0-{end - 1}"}
        try:
            http_get(file.url, out, resume_size=start, headers=headers, expected_size=end)
        except OSError:
            if out.tell() != size:  # else the server knows no ranges, and sent all of it
                raise
        start = out.tell()


def _check(path: Path, digest: Digest) -> None:
    """See that a file is what it should be, or delete it.

    Raises:
        CarError: ``download_failed``.
    """
    if digest_of(path, digest.kind) != digest.hex.lower():
        path.unlink(missing_ok=True)
        raise CarError(
            "download_failed",
            "what came does not have the checksum that was promised, so it was deleted; try again,"
            " and if that does not help, from another source",
            expected=digest.hex,
        )


def digest_of(path: Path, kind: Literal["sha256", "git"]) -> str:
    """What a file hashes to, in lower case; see :class:`Digest`."""
    with path.open("rb") as file:
        if kind == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects, "Object Storage"
        header = f"blob {path.stat().st_size}\0".encode()
        sha1 = hashlib.sha1(header, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: sha1).hexdigest()


def _usable_bytes(partial: Path, size_bytes: int | None) -> int:
    """How much of a part can be gone on from; what is of no use is deleted."""
    try:
        have = partial.stat().st_size
    except FileNotFoundError:
        return 0
    if size_bytes is not None and have <= size_bytes:
        return have
    partial.unlink()
    return 0
