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


class _Queue:
    """Messages in order, and their size."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.size_bytes = 0
        self._last_is_passing = False

    def put(self, payload: bytes, *, passing: bool = False) -> None:
        if passing and self._last_is_passing and self.messages:
            self.size_bytes -= len(self.messages.pop())
        self.messages.append(payload)
        self.size_bytes += len(payload)
        self._last_is_passing = passing

    def move(self, taken: list[bytes], room: int) -> int:
        """Move messages to those that are taken, while there is room; returns what room is left."""
        if self.size_bytes < room:
            taken += self.messages
            room -= self.size_bytes
            self.messages.clear()
            self.size_bytes = 0
        while self.messages and room > 0:
            room -= self.move_one(taken)
        return room

    def move_one(self, taken: list[bytes]) -> int:
        payload = self.messages.popleft()
        taken.append(payload)
        self.size_bytes -= len(payload)
        return len(payload)


class Outbox:
    """Ordered, counted queue of encoded messages."""

    def __init__(self) -> None:
        self._urgent = _Queue()
        self._finishing = _Queue()
        self._lanes: dict[Hashable, _Queue] = {}

    def __bool__(self) -> bool:
        return bool(self._urgent.messages or self._finishing.messages or self._lanes)

    @property
    def urgent_bytes(self) -> int:
        """Bytes of all but the streams that go on."""
        return self._urgent.size_bytes + self._finishing.size_bytes

    def lane_bytes(self, lane: Hashable) -> int:
        """Bytes of a stream that are not written yet."""
        queue = self._lanes.get(lane)
        return 0 if queue is None else queue.size_bytes

    def put_urgent(self, payload: bytes) -> None:
        """Queue a message that overtakes all deltas."""
        self._urgent.put(payload)

    def put_in_lane(self, lane: Hashable, payload: bytes, *, passing: bool = False) -> int:
        """Queue an event of a stream; returns the bytes of it that are not written yet.

        A passing one, such as how far something is, takes the place of the last in the lane when
        that is passing too: whoever reads late is told how it is now, and not how it was.
        """
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = _Queue()
        queue.put(payload, passing=passing)
        return queue.size_bytes

    def finish_lane(self, lane: Hashable) -> bool:
        """A stream ended: what is left of it, if anything, goes before the lanes of others."""
        left = self._lanes.pop(lane, None)
        if left is None:
            return False
        self._finishing.messages += left.messages
        self._finishing.size_bytes += left.size_bytes
        return True

    def put_response(self, payload: bytes, *, after_streams: bool) -> None:
        """Queue a response; ``after_streams`` keeps it behind every lane finished so far."""
        behind = after_streams and self._finishing.messages
        (self._finishing if behind else self._urgent).put(payload)

    def take(self, limit_bytes: int) -> list[bytes]:
        """Remove the next messages: at least one if there is any, then up to the limit."""
        taken: list[bytes] = []
        room = self._urgent.move(taken, limit_bytes)
        room = self._finishing.move(taken, room)
        while self._lanes and room > 0:
            lane, queue = next(iter(self._lanes.items()))
            if len(self._lanes) == 1:
                room = queue.move(taken, room)
            else:
                room -= queue.move_one(taken)
            # Moving the lane to the end of the dict is what makes the turns fair.
            del self._lanes[lane]
            if queue.messages:
                self._lanes[lane] = queue
        return taken
