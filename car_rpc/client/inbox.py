"""The events of one request between who reads the pipe and who reads the stream."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import anyio

E = TypeVar("E")


class Inbox(Generic[E]):
    """A bounded queue of events with an end.

    It yields to the event loop only where it waits. A memory object stream of anyio does so for
    each event on both of its ends, which costs more than all else that the client does for one.

    Args:
        limit: Events that may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[E] = deque()
        self._changed: anyio.Event | None = None
        self._ended = False
        self._closed = False

    async def put(self, event: E) -> None:
        """Add an event; waits while the limit is reached. Nothing is added once it is closed."""
        while len(self._events) >= self._limit and not self._closed:
            await self._change()
        if not self._closed:
            self._events.append(event)
            self._tell()

    def end(self) -> None:
        """Nothing more is added."""
        self._ended = True
        self._tell()

    async def take(self) -> E:
        """The next event.

        Raises:
            anyio.EndOfStream: There is none any more.
            anyio.ClosedResourceError: It is closed.
        """
        while not self._events:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._ended:
                raise anyio.EndOfStream
            await self._change()
        event = self._events.popleft()
        self._tell()
        return event

    def close(self) -> None:
        """Nobody takes any more."""
        self._closed = True
        self._events.clear()
        self._tell()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
