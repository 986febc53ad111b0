"""The scheduler at work: requests wait here for their permit, and give it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager

from car_rpc.engine.admission import AdmissionPolicy, Scheduler, Ticket
from car_rpc.engine.ports import Clock
from car_rpc.wire.inference import Workload
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema, SystemSource

#: How long a client may leave an event of a stream untaken before the permit is lent to others, in
#: seconds.
STALL_S = 0.25

DEFAULT_POLICY = AdmissionPolicy()


class Permit:
    """Leave to run.

    Args:
        admission: Who gave it.
        ticket: The request's place; ``None`` for work that needs no leave.
    """

    def __init__(self, admission: Admission, ticket: Ticket | None) -> None:
        self._admission = admission
        self._ticket = ticket

    async def lend_while(self, sending: Awaitable[object]) -> None:
        """Wait for the client to take something. If that takes long, others may run meanwhile."""
        ticket = self._ticket
        if ticket is None:
            await sending
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._admission.stall_s, self._admission.park, ticket)
        try:
            await sending
        finally:
            timer.cancel()
        if ticket.state == "parked":
            await self._admission.resumed(ticket)


class Admission:
    """Admits work to local models; all other work runs at once.

    Args:
        clock: Time.
        memory_bytes: Memory of the machine.
        policy: How much is done at once.
        stall_s: See :data:`STALL_S`.
    """

    def __init__(
        self,
        clock: Clock,
        memory_bytes: int = 0,
        policy: AdmissionPolicy = DEFAULT_POLICY,
        stall_s: float = STALL_S,
    ) -> None:
        self.policy = policy
        self.stall_s = stall_s
        #: Who may run and who waits.
        self.scheduler = Scheduler(policy.permits(memory_bytes), policy.max_queued)
        self._clock = clock
        self._waiting: dict[Ticket, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def permit(self, model: ModelSchema, workload: Workload) -> AsyncGenerator[Permit]:
        """Wait for leave to use a model, and give it back at the end.

        Raises:
            CarError: ``overloaded`` when too many wait already.
        """
        if not isinstance(model.source, LocalSource | MlxSource | SystemSource):
            yield Permit(self, None)
            return
        ticket = self.scheduler.ask(model.id, workload, self._clock.now_ms())
        try:
            await self._granted(ticket)
            yield Permit(self, ticket)
        finally:
            self._waiting.pop(ticket, None)
            self.scheduler.leave(ticket, self._clock.now_ms())
            self._grant()

    def park(self, ticket: Ticket) -> None:
        """Lend a permit to others."""
        self.scheduler.park(ticket)
        self._grant()

    async def resumed(self, ticket: Ticket) -> None:
        """Wait until a request whose permit was lent may go on."""
        self.scheduler.resume(ticket)
        await self._granted(ticket)

    async def _granted(self, ticket: Ticket) -> None:
        granted = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._grant()
        await granted

    def _grant(self) -> None:
        for ticket in self.scheduler.grant(self._clock.now_ms()):
            granted = self._waiting.pop(ticket)
            if not granted.done():
                granted.set_result(None)
