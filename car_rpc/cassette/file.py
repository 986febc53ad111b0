"""Read and write the file of a cassette. Blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from car_rpc.errors import CarError

#: Longest file that is compared by its content, in bytes: hours of sound.
MAX_MEDIA_BYTES = 256 * 1024 * 1024


def read_lines(path: Path) -> list[bytes] | None:
    """The lines of a file, or ``None`` when there is none.

    Raises:
        CarError: ``io_error``.
    """
    try:
        return path.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(path, "read", error) from None


def check_writable(path: Path) -> None:
    """Make the file's folder, so that what is recorded will not be lost at the end.

    Raises:
        CarError: ``io_error``: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise PermissionError(0, "not allowed")
    except OSError as error:
        raise _failed(path, "written", error) from None


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Replace the file by one with these lines, as a whole: a crash leaves the one before.

    Raises:
        CarError: ``io_error``, and the file is what it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # What was said to models is in it: for its owner only.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _failed(path, "written", error) from None


def read_media(path: str) -> bytes | None:
    """A file that a request names, to compare it by its content; ``None`` when it cannot be."""
    try:
        file = Path(path).expanduser()
        if not file.is_file() or file.stat().st_size > MAX_MEDIA_BYTES:
            return None
        return file.read_bytes()
    except (OSError, RuntimeError, ValueError):
        return None


def recorded_backends(path: Path) -> dict[str, dict[str, Any]] | None:
    """Which engines were installed where a cassette was recorded, if it says so. Never fails."""
    try:
        with path.open("rb") as lines:
            head = msgspec.json.decode(lines.readline())
        backends: dict[str, dict[str, Any]] | None = head["data"].get("backends")
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
    else:
        return backends


def _failed(path: Path, done: str, error: OSError) -> CarError:
    reason = error.strerror or type(error).__name__
    detail = f"the cassette {path} cannot be {done} ({reason}); name another one"
    return CarError("io_error", detail, path=str(path))
