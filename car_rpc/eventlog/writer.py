"""The event log as the rest of the process uses it: append, commit and query.

A thread owns the write connection. What is appended while it writes goes into its next
transaction together (group commit), so many requests that commit at once share one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from car_rpc.errors import CarError
from car_rpc.eventlog.blobs import Blob, BlobFiles, take_out
from car_rpc.eventlog.redact import Search, redact_json
from car_rpc.eventlog.shapes import KNOWN, Secrets
from car_rpc.eventlog.store import EventRow, Store, last_seq_of, select
from car_rpc.eventlog.times import to_text
from car_rpc.eventlog.verification import Verified, verify_page
from car_rpc.wire.log import EventlogQueryParams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from car_rpc.wire.log import EventlogQueryResult, EventlogVerifyResult, LogEvent

#: How long an event waits for others to share its transaction: those that come at about the same
#: time, and what a short request commits when it is answered. The rest of the promised 100 ms is
#: for the transaction, and for callers that group deltas themselves, which saves rows as well.
FLUSH_S = 0.02
#: More than this is written without waiting for others.
FLUSH_BYTES = 1024 * 1024
#: :meth:`EventLog.room` holds its caller while more than this waits to be written.
MAX_WAITING_BYTES = 16 * 1024 * 1024
#: Bound of :meth:`EventLog.close`, below the 2 s that the end of the process may take.
CLOSE_TIMEOUT_S = 1.5
#: How often a subscription looks for events of other processes.
POLL_S = 0.5
#: What a subscription reads at a time, and so the most that it holds of what nobody reads.
WATCHED_EVENTS = 128
WATCHED_BYTES = 1024 * 1024
# What an event costs in memory besides its data, roughly.
_OVERHEAD_BYTES = 512

#: Written before the first events after a failure; ``data.lost`` counts the events missing.
TRUNCATED = "log_truncated"

_logger = logging.getLogger("car_rpc.eventlog")
_encode = msgspec.json.Encoder().encode


class Loggable(Protocol):
    """An event to be written. The log adds ``seq``, ``ts`` and ``session_id``.

    The engine's own type of it fits, so that the log can be its sink and neither knows the
    other.
    """

    @property
    def type(self) -> str:
        """What happened."""
        ...

    @property
    def data(self) -> Any:
        """A JSON object: as bytes or ``msgspec.Raw``, or a dict or Struct to be encoded."""
        ...

    @property
    def trace_id(self) -> str | None:
        """The request that it belongs to."""
        ...

    @property
    def conversation_id(self) -> str | None:
        """The conversation of the request."""
        ...

    @property
    def attempt(self) -> int | None:
        """The attempt within the request."""
        ...

    @property
    def search(self) -> Search:
        """Where secrets are looked for and replaced."""
        ...


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A :class:`Loggable`."""

    type: str
    data: Any
    trace_id: str | None = None
    conversation_id: str | None = None
    attempt: int | None = None
    search: Search = "all"


class _Entry(NamedTuple):
    moment: datetime
    event: Loggable
    text: bytes


class _Batch(NamedTuple):
    entries: Sequence[_Entry]
    commits: Sequence[asyncio.Future[None]]
    size_bytes: int


class EventLog:
    """Writes the events of one session, and reads those of all.

    Everything but :meth:`open` belongs to one event loop. Nothing here blocks it. A failure
    of the disk never ends the process: :meth:`commit` raises it; for plain appends it is
    logged once, counted in :attr:`lost`, and recorded as an event of type ``log_truncated``
    as soon as writing works again.
    """

    def __init__(
        self,
        path: Path,
        store: Store,
        session_id: str,
        now: Callable[[], datetime],
        secrets: Secrets = KNOWN,
    ) -> None:
        self._path = path
        self._store = store
        self._session_id = session_id
        self._now = now
        self._secrets = secrets
        self._changed = threading.Condition()  # guards what the loop and the thread share:
        self._entries: list[_Entry] = []
        self._commits: list[asyncio.Future[None]] = []
        self._entries_bytes = 0  # of the entries that the thread has not taken yet
        self._waiting_bytes = 0  # of these and of the batch that it writes
        self._room: list[asyncio.Future[None]] = []
        self._watchers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._urgent = False
        self._closing = False
        self._lost = 0
        self._unrecorded = 0  # lost, and not yet told by a log_truncated event
        self._thread = threading.Thread(target=self._run, name="car-rpc-eventlog", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: Path,
        session_id: str,
        now: Callable[[], datetime],
        secrets: Secrets = KNOWN,
    ) -> EventLog:
        """Open the log and start its thread. Blocks for file access; needs no running loop.

        Args:
            path: The database; it and its directory are created if need be.
            session_id: Goes into every event written here.
            now: The clock, with a time zone.
            secrets: What is replaced in texts; an event says so with ``redacted: true``.

        Raises:
            CarError: ``io_error``: the database cannot be used; the text says what to do.
        """
        return cls(path, Store.open(path), session_id, now, secrets)

    @property
    def lost(self) -> int:
        """How many events could not be written so far."""
        return self._lost

    def append(self, entry: Loggable) -> None:
        """Have the event written within 100 ms. Never blocks, never fails for the disk's sake.

        Events are written in the order of their appends. Nothing is dropped for want of
        memory: a caller that appends without end awaits :meth:`room` in between.

        Raises:
            TypeError: The data is nothing that msgspec encodes.
        """
        self._add((entry,))

    async def commit(self, *entries: Loggable) -> None:
        """Return when these events, and all appended before, are safe from a kill of the process.

        A caller that is cancelled while it waits has its events written all the same.

        Raises:
            CarError: ``io_error``: these events were not written. Events lost by an earlier
                failure are no reason: they were reported then.
            CarError: ``shutting_down``: the log is closed.
            TypeError: The data is nothing that msgspec encodes.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._add(entries, done):
            raise CarError("shutting_down", "the event log is closed")
        await done

    @property
    def has_room(self) -> bool:
        """Whether less than :data:`MAX_WAITING_BYTES` waits to be written, as it normally does."""
        return self._waiting_bytes <= MAX_WAITING_BYTES

    async def room(self) -> None:
        """Return when there is room."""
        while not self.has_room:
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with self._changed:
                if self.has_room:
                    return
                self._room.append(free)
            await free

    async def query(self, params: EventlogQueryParams) -> EventlogQueryResult:
        """Read a page of the events that are committed, of all sessions.

        Raises:
            CarError: ``invalid_params`` that names a malformed time, or ``io_error``.
        """
        return await asyncio.to_thread(select, self._path, params)

    async def story(self, trace_id: str, *, files: bool = True) -> list[LogEvent]:
        """All events of a request that are committed, in order, of any session; with its files.

        Raises:
            CarError: ``io_error`` when the database cannot be read.
        """
        events: list[LogEvent] = []
        page = EventlogQueryParams(trace_id=trace_id, limit=1000)
        while (result := await self.query(page)).events:
            events += result.events
            page = msgspec.structs.replace(page, after_seq=result.next_seq)
        return await self.restored(events) if files else events

    async def restored(self, events: Sequence[LogEvent]) -> list[LogEvent]:
        """Events with their files in them: see :meth:`BlobFiles.restored`."""
        files = BlobFiles(self._path)
        return [
            await asyncio.to_thread(files.restored, e) if "blobs" in e.data else e for e in events
        ]

    async def last_seq(self) -> int:
        """The number of the last event that any process committed.

        Raises:
            CarError: ``io_error`` when the database cannot be read.
        """
        return await asyncio.to_thread(last_seq_of, self._path)

    async def verify(self) -> EventlogVerifyResult:
        """Check that all events are as they were written.

        Raises:
            CarError: ``io_error`` when the database cannot be read.
        """
        await self.commit()
        verified = Verified()
        while not verified.done:
            verified = await asyncio.to_thread(verify_page, self._path, verified)
        return verified.result()

    async def watch(self, from_seq: int | None) -> AsyncGenerator[LogEvent]:
        """Events of all processes as they are committed, without end, gap or repetition.

        Whoever takes them slowly reads them later from the database: nothing waits for them and
        no more than a page is held.

        Args:
            from_seq: The first one; ``None`` for those that are committed from now on.

        Raises:
            CarError: ``io_error`` when the database cannot be read.
        """
        news = asyncio.Event()
        with self._changed:
            self._watchers[news] = asyncio.get_running_loop()
        try:
            if from_seq is None:
                cursor = await self.last_seq()
            else:
                cursor = max(from_seq - 1, 0)
            while True:
                news.clear()
                wanted = EventlogQueryParams(after_seq=cursor, limit=WATCHED_EVENTS)
                page = await asyncio.to_thread(select, self._path, wanted, WATCHED_BYTES)
                for event in page.events:
                    yield event
                cursor = page.next_seq
                if not page.events:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), POLL_S)
        finally:
            with self._changed:
                del self._watchers[news]

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Write what waits and end the thread. Later events are counted as lost.

        Returns:
            Whether that was done in time. If not, the thread goes on until the process ends.
        """
        with self._changed:
            self._closing = self._urgent = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, timeout_s)
        if self._thread.is_alive():
            _logger.error("the event log was not written out within %s s", timeout_s)
            return False
        return True

    def _add(self, events: Sequence[Loggable], done: asyncio.Future[None] | None = None) -> bool:
        # Encoded here and not in the thread: the data may change after the call, a mistake
        # shows where it was made, and a delta takes half a microsecond.
        moment = self._now()
        entries = [_Entry(moment, event, _to_json(event.data)) for event in events]
        size_bytes = sum(len(entry.text) + _OVERHEAD_BYTES for entry in entries)
        with self._changed:
            if self._closing:
                self._lost += len(entries)
                return False
            asleep = not self._entries and not self._urgent
            self._entries += entries
            self._entries_bytes += size_bytes
            self._waiting_bytes += size_bytes
            urgent = done is not None or self._entries_bytes > FLUSH_BYTES
            if done is not None:
                self._commits.append(done)
            if asleep or (urgent and not self._urgent):
                self._urgent = urgent
                self._changed.notify()
        return True

    # What follows runs in the thread.

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._finish(batch, self._write(batch.entries))
        try:
            self._store.close()
        except CarError as error:
            _logger.warning("%s", error)

    def _next_batch(self) -> _Batch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._urgent)
            self._changed.wait_for(lambda: self._urgent, timeout=FLUSH_S)
            batch = _Batch(self._entries, self._commits, self._entries_bytes)
            self._entries, self._commits, self._entries_bytes = [], [], 0
            self._urgent = self._closing
        return batch if batch.entries or batch.commits else None

    def _write(self, entries: Sequence[_Entry]) -> CarError | None:
        if not entries:
            return None
        try:
            rows = [self._row(entry) for entry in entries]
            if self._unrecorded:
                first = NewEvent(type=TRUNCATED, data={"lost": self._unrecorded})
                rows.insert(0, self._row(_Entry(entries[0].moment, first, _to_json(first.data))))
            self._store.append(rows)
        except CarError as error:
            self._lose(len(entries), error)
            return error
        except Exception as error:  # noqa: BLE001 - a defect, and callers still need an answer
            self._lose(len(entries), error)
            return CarError("internal", "the event log failed; the log on standard error says how")
        if self._unrecorded:
            _logger.warning("the event log works again; %d events are lost", self._unrecorded)
            self._unrecorded = 0
        return None

    def _row(self, entry: _Entry) -> EventRow:
        moment, event, text = entry
        try:
            blobs: tuple[Blob, ...] = ()
            if event.type == "request":
                text, blobs = take_out(text)
            redacted = redact_json(text, self._secrets, event.search)
            if redacted is not text:
                redacted = redacted.removesuffix(b"}") + b',"redacted":true}'
            data = redacted.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # What cannot be read cannot be searched for secrets, so it is not written.
            data, blobs = _to_json({"unreadable": type(error).__name__}).decode(), ()
        return EventRow(
            ts=to_text(moment),
            session_id=self._session_id,
            trace_id=event.trace_id,
            conversation_id=event.conversation_id,
            attempt=event.attempt,
            type=event.type,
            data=data,
            blobs=blobs,
        )

    def _lose(self, count: int, error: Exception) -> None:
        if not self._unrecorded:
            defect = None if isinstance(error, CarError) else error
            _logger.error("%s; events are lost until this is solved", error, exc_info=defect)
        self._unrecorded += count
        with self._changed:
            self._lost += count

    def _finish(self, batch: _Batch, error: CarError | None) -> None:
        with self._changed:
            self._waiting_bytes -= batch.size_bytes
            room, self._room = self._room, []  # who finds no room yet waits for the next batch
            watchers = [*self._watchers.items()]
        for news, loop in watchers:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(news.set)
        for futures, outcome in ((batch.commits, error), (room, None)):
            if futures:
                _call_in_loop(futures, outcome)


def _to_json(data: object) -> bytes:
    return data if isinstance(data, bytes) else _encode(data)


def _call_in_loop(futures: Sequence[asyncio.Future[None]], error: CarError | None) -> None:
    # One loop at a time owns the log, but what an ended one left may share its batch.
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for future in futures:
        by_loop.setdefault(future.get_loop(), []).append(future)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, waiting, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _logger.debug("%d callers of the event log are gone", len(waiting))


def _settle(futures: Sequence[asyncio.Future[None]], error: CarError | None) -> None:
    for future in futures:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error.with_data())  # each its own: a traceback grows in it
