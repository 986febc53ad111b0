"""Which local work runs now and which waits. Pure; time is passed in.

What limits a machine is memory, and that is taken by models, so a permit is for one model at work:
requests of the same model share it, as they share the model's batch. Who waits is ordered by
arrival, and a request that nobody waits for counts as if it had come later. So interactive work
goes first, and the other is overtaken only for so long.
"""

from __future__ import annotations

from bisect import insort
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from car_rpc.errors import CarError
from car_rpc.wire.base import NonNegative, Positive
from car_rpc.wire.inference import Workload

#: Memory for each permit, in bytes: a machine that is sold with 16 GB has two.
BYTES_PER_PERMIT = 8_000_000_000

#: Most permits that memory gives: more models at work only slow each other down.
MAX_PERMITS = 8

#: Requests that one model works on at once; llama.cpp's batch here has up to as many places.
MODEL_SLOTS = 8

#: ``data.cause`` of ``overloaded`` when it is this queue that is full and no model is at fault.
QUEUE_FULL = "queue_full"

#: How much later than it did a request came, as far as its turn is concerned, in milliseconds.
LATER_MS: dict[Workload, int] = {"background": 30_000, "batch": 120_000}

#: Weight of the latest request in the mean time that one takes.
_LATEST = 0.2

#: What a request takes before any was seen, and the bounds of ``retry_after_ms``.
_FIRST_GUESS_MS = 1000.0
_SHORTEST_RETRY_MS = 100
_LONGEST_RETRY_MS = 60_000

State: TypeAlias = Literal["waiting", "running", "parked", "gone"]


class AdmissionPolicy(Struct, frozen=True, kw_only=True):
    """How much work local models do at once.

    Attributes:
        max_concurrent: Local models that work at the same time; 0 means one for each 8 GB of
            memory, from 1 to 8.
        max_queued: Requests that may wait for them. Beyond it a request is refused as
            ``overloaded``.
    """

    max_concurrent: NonNegative = 0
    max_queued: Positive = 256

    def permits(self, memory_bytes: int) -> int:
        """Models that may work at the same time on a machine with so much memory."""
        by_memory = min(MAX_PERMITS, memory_bytes // BYTES_PER_PERMIT)
        return max(1, self.max_concurrent or by_memory)


class Ticket:
    """The place of one request.

    Attributes:
        model_id: The model that it wants.
        state: Whether it may run. A parked one could go on, but nobody takes what it gives.
    """

    def __init__(self, model_id: str, turn: tuple[float, int]) -> None:
        self.model_id = model_id
        self.state: State = "waiting"
        #: Order among those that wait.
        self.turn = turn
        self.began_ms = 0.0


class Count(NamedTuple):
    """How things stand.

    Attributes:
        permits: Models that may work at the same time.
        in_use: Models that do.
        running: Requests that they work on.
        queued: Requests that wait.
    """

    permits: int
    in_use: int
    running: int
    queued: int


class Scheduler:
    """Gives out permits. After each call, :meth:`grant` tells who may run now.

    Args:
        permits: Models that may work at the same time.
        max_queued: Requests that may wait.
        slots: Requests that one model works on at once.
    """

    def __init__(self, permits: int, max_queued: int, slots: int = MODEL_SLOTS) -> None:
        self._permits = permits
        self._max_queued = max_queued
        self._slots = slots
        self._queue: list[Ticket] = []
        self._running: dict[str, int] = {}
        self._count = 0
        self._mean_ms = _FIRST_GUESS_MS

    def ask(self, model_id: str, workload: Workload, now_ms: float) -> Ticket:
        """Queue a request.

        Raises:
            CarError: ``overloaded`` with ``retry_after_ms`` when too many wait.
        """
        if len(self._queue) >= self._max_queued:
            rounds = (len(self._queue) + 1) / (self._permits * self._slots)
            wait_ms = min(max(round(rounds * self._mean_ms), _SHORTEST_RETRY_MS), _LONGEST_RETRY_MS)
            raise CarError(
                "overloaded",
                f"{len(self._queue)} requests wait for local models; try again in {wait_ms} ms",
                retry_after_ms=wait_ms,
                cause=QUEUE_FULL,
            )
        self._count += 1
        ticket = Ticket(model_id, (now_ms + LATER_MS.get(workload, 0), self._count))
        self._enqueue(ticket)
        return ticket

    def grant(self, now_ms: float) -> list[Ticket]:
        """Let run who may, in order; returns those that were waiting until now."""
        granted: list[Ticket] = []
        for ticket in self._queue:
            running = self._running.get(ticket.model_id, 0)
            if not running and len(self._running) >= self._permits:
                # From here on nobody joins a model at work, so that one of them comes to an end.
                break
            if running < self._slots:
                self._running[ticket.model_id] = running + 1
                ticket.state = "running"
                ticket.began_ms = now_ms
                granted.append(ticket)
        if granted:
            self._queue = [ticket for ticket in self._queue if ticket.state == "waiting"]
        return granted

    def park(self, ticket: Ticket) -> None:
        """A running request makes room, because nobody takes what it gives."""
        if ticket.state == "running":
            self._free(ticket)
            ticket.state = "parked"

    def resume(self, ticket: Ticket) -> None:
        """A parked request wants to go on; its turn is that of its arrival."""
        if ticket.state == "parked":
            ticket.state = "waiting"
            self._enqueue(ticket)

    def leave(self, ticket: Ticket, now_ms: float) -> None:
        """A request is over, or nobody wants it any more."""
        if ticket.state == "waiting":
            self._queue.remove(ticket)
        elif ticket.state == "running":
            self._free(ticket)
            self._mean_ms += _LATEST * (now_ms - ticket.began_ms - self._mean_ms)
        ticket.state = "gone"

    def count(self) -> Count:
        """How things stand."""
        running = sum(self._running.values())
        return Count(self._permits, len(self._running), running, len(self._queue))

    def _enqueue(self, ticket: Ticket) -> None:
        insort(self._queue, ticket, key=lambda each: each.turn)

    def _free(self, ticket: Ticket) -> None:
        left = self._running[ticket.model_id] - 1
        if left:
            self._running[ticket.model_id] = left
        else:
            del self._running[ticket.model_id]
