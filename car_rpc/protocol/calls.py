"""Requests of ours that wait for a response, and responses that wait for the rest of a batch."""

from __future__ import annotations

from typing import Generic, TypeVar

from car_rpc.wire.base import RequestId

T = TypeVar("T")


class BatchState:
    """The responses of one batch, until the last one is there."""

    def __init__(self, outstanding: int) -> None:
        self._outstanding = outstanding
        self._responses: list[bytes] = []
        #: Bytes of the responses so far.
        self.held_bytes = 0

    def add(self, response: bytes | None) -> bytes | None:
        """One entry is done (with no response for a notification).

        Returns:
            The array to send once the last entry is done; empty bytes when there is nothing
            to answer; ``None`` while entries are outstanding.
        """
        self._outstanding -= 1
        if response is not None:
            self._responses.append(response)
            self.held_bytes += len(response)
        if self._outstanding:
            return None
        return b"[%b]" % b",".join(self._responses) if self._responses else b""


class Pending(Generic[T]):
    """Our requests that have no response yet, each with what waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[RequestId, T] = {}
        self._next = 1
        #: Responses that nobody waited for (late or invented).
        self.unexpected = 0

    def begin(self, waiting: T) -> RequestId:
        """A new id, never used before on this connection."""
        request_id = f"car-{self._next}"
        self._next += 1
        self._waiting[request_id] = waiting
        return request_id

    def resolve(self, request_id: RequestId | None) -> T | None:
        """Take out what waits for a response; ``None`` when nothing does."""
        waiting = self._waiting.pop(request_id, None) if request_id is not None else None
        if waiting is None:
            self.unexpected += 1
        return waiting

    def drain(self) -> list[T]:
        """Take out everything that still waits: the peer is gone."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        return waiting
