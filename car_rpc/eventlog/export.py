"""Write events for others: as lines of JSON, and as spans for OpenTelemetry."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from msgspec import UNSET, UnsetType

from car_rpc.errors import CarError, invalid_params
from car_rpc.eventlog import otlp
from car_rpc.wire.log import EventlogExportParams, EventlogExportResult, EventlogQueryParams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from car_rpc.eventlog.writer import EventLog

#: Longest text that a result holds; what is longer needs a file.
MAX_CONTENT_BYTES = 16 * 1024 * 1024
_PAGE = 1000
# What is written at a time, so that the files of many requests are not in memory together.
_PIECE_BYTES = 4 * 1024 * 1024

_encode = msgspec.json.Encoder().encode


class _Target:
    """Takes the text: a file that is there once it is whole, or memory."""

    def __init__(self, path: str | UnsetType) -> None:
        self._text = bytearray()
        self._path = path
        self._file: BinaryIO | None = None
        self.bytes = 0

    def open(self) -> None:
        if self._path is not UNSET:
            # What was said to models is in it: for its owner only.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            self._file = os.fdopen(os.open(self._unfinished, flags, 0o600), "wb")

    def write(self, text: bytes) -> None:
        self.bytes += len(text)
        if self._file is not None:
            self._file.write(text)
        elif self.bytes > MAX_CONTENT_BYTES:
            raise invalid_params(
                f"this is more than {MAX_CONTENT_BYTES} bytes; name a file", "$.path"
            )
        else:
            self._text += text

    def finish(self) -> str | UnsetType:
        if self._file is None or self._path is UNSET:
            return self._text.decode()
        self._file.close()
        self._unfinished.replace(self._path)
        return UNSET

    def abandon(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
                self._unfinished.unlink()

    @property
    def _unfinished(self) -> Path:
        path = Path(str(self._path))
        return path.with_name(f".{path.name}.{os.getpid()}.partial")


async def export(log: EventLog, params: EventlogExportParams) -> EventlogExportResult:
    """Write the events that are committed, up to now.

    Raises:
        CarError: ``invalid_params`` that names a malformed time or path, or asks for a path where
            the text is too long; ``io_error`` where the file cannot be written.
    """
    if params.path is not UNSET and not Path(params.path).is_absolute():
        raise invalid_params("the path must be absolute", "$.path")
    target = _Target(params.path)
    pieces = _lines(log, params) if params.format == "jsonl" else _spans(log, params)
    count = 0
    try:
        await asyncio.to_thread(target.open)
        async for number, text in pieces:
            count += number
            await asyncio.to_thread(target.write, text)
        content = await asyncio.to_thread(target.finish)
    except OSError as error:
        target.abandon()
        reason = error.strerror or type(error).__name__
        raise CarError(
            "io_error", f"{params.path} cannot be written ({reason}); name another file"
        ) from error
    except BaseException:
        target.abandon()
        raise
    return EventlogExportResult(count=count, bytes=target.bytes, path=params.path, content=content)


async def _lines(log: EventLog, params: EventlogExportParams) -> AsyncGenerator[tuple[int, bytes]]:
    """Pages of lines, each with how many they are."""
    await log.commit()
    last_seq = await log.last_seq()
    wanted = _wanted(params)
    while wanted.after_seq < last_seq:
        page = await log.query(wanted)
        events = [event for event in page.events if event.seq <= last_seq]
        if not events:
            return
        text, count = bytearray(), 0
        for event in events:
            (whole,) = await log.restored([event])
            text += _encode(whole) + b"\n"
            count += 1
            if len(text) > _PIECE_BYTES:
                yield count, bytes(text)
                text, count = bytearray(), 0
        yield count, bytes(text)
        wanted = msgspec.structs.replace(wanted, after_seq=page.next_seq)


async def _spans(log: EventLog, params: EventlogExportParams) -> AsyncGenerator[tuple[int, bytes]]:
    await log.commit()
    last_seq = await log.last_seq()
    wanted = msgspec.structs.replace(_wanted(params), types=["request"])
    yield 0, otlp.BEFORE_SPANS
    separator = b""
    while wanted.after_seq < last_seq and (page := await log.query(wanted)).events:
        for request in page.events:
            story = await log.story(request.trace_id, files=False) if request.trace_id else []
            span = otlp.span(story, with_content=params.content)
            if span is not None and request.seq <= last_seq:
                yield 1, separator + _encode(span)
                separator = b","
        wanted = msgspec.structs.replace(wanted, after_seq=page.next_seq)
    yield 0, otlp.AFTER_SPANS


def _wanted(params: EventlogExportParams) -> EventlogQueryParams:
    return EventlogQueryParams(
        limit=_PAGE,
        trace_id=params.trace_id,
        conversation_id=params.conversation_id,
        since=params.since,
        until=params.until,
    )
