"""What waits to be written, and in which order.

Three classes, served in this order:

1. *urgent*: responses, requests and cancels. They never wait behind deltas.
2. *finishing*: the rest of streams that have ended, each with its response behind it.
3. *lanes*: the events of running streams, first in first out within a stream, taken in turn
   from all streams.

So the events of one stream keep their order and come before its response, while nothing else
waits for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable


class Outbox:
    """Ordered, counted queue of encoded messages."""

    def __init__(self) -> None:
        self._urgent: deque[bytes] = deque()
        self._finishing: deque[bytes] = deque()
        self._lanes: dict[Hashable, deque[bytes]] = {}
        self._lane_bytes: dict[Hashable, int] = {}
        self.urgent_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._urgent or self._finishing or self._lanes)

    def lane_bytes(self, lane: Hashable) -> int:
        """Bytes of a stream that are not written yet."""
        return self._lane_bytes.get(lane, 0)

    def put_urgent(self, payload: bytes) -> None:
        """Queue a message that overtakes all deltas."""
        self._urgent.append(payload)
        self.urgent_bytes += len(payload)

    def put_in_lane(self, lane: Hashable, payload: bytes) -> None:
        """Queue an event of a stream."""
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = deque()
            self._lane_bytes[lane] = 0
        queue.append(payload)
        self._lane_bytes[lane] += len(payload)

    def finish_lane(self, lane: Hashable) -> bool:
        """A stream ended: what is left of it, if anything, goes before the lanes of others."""
        left = self._lanes.pop(lane, None)
        if left is None:
            return False
        self._finishing += left
        self.urgent_bytes += self._lane_bytes.pop(lane)
        return True

    def put_response(self, payload: bytes, *, after_streams: bool) -> None:
        """Queue a response; ``after_streams`` keeps it behind every lane finished so far."""
        queue = self._finishing if after_streams and self._finishing else self._urgent
        queue.append(payload)
        self.urgent_bytes += len(payload)

    def take(self, limit_bytes: int) -> list[bytes]:
        """Remove the next messages: at least one if there is any, then up to the limit."""
        taken: list[bytes] = []
        room = limit_bytes
        if self._urgent and not self._finishing and self.urgent_bytes < room:
            taken += self._urgent
            room -= self.urgent_bytes
            self._urgent.clear()
            self.urgent_bytes = 0
        while room > 0 and self:
            payload = self._next()
            taken.append(payload)
            room -= len(payload)
        return taken

    def _next(self) -> bytes:
        for queue in (self._urgent, self._finishing):
            if queue:
                payload = queue.popleft()
                self.urgent_bytes -= len(payload)
                return payload
        lane, queue = next(iter(self._lanes.items()))
        payload = queue.popleft()
        # Moving the lane to the end of the dict is what makes the turns fair.
        del self._lanes[lane]
        if queue:
            self._lanes[lane] = queue
            self._lane_bytes[lane] -= len(payload)
        else:
            del self._lane_bytes[lane]
        return payload
