"""Who runs, who waits, and in which order: the scheduler by itself, and at work."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from car_rpc.engine.admission import LATER_MS, AdmissionPolicy, Scheduler, Ticket
from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.permits import Admission
from car_rpc.engine.ports import GenerateCall
from car_rpc.errors import CarError
from car_rpc.registry.registry import Registry
from car_rpc.testing import FakeClock
from car_rpc.wire.events import StreamEvent, TextDelta
from car_rpc.wire.inference import EmbedParams, Workload
from car_rpc.wire.models import LocalSource, ModelSchema
from tests.conftest import SOAK

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("memory_gb", "permits"), [(0, 1), (4, 1), (8.2, 1), (15.9, 1), (16.6, 2), (33, 4), (500, 8)]
)
def test_memory_gives_a_permit_for_each_8_gb_from_1_to_8(memory_gb: float, permits: int) -> None:
    assert AdmissionPolicy().permits(int(memory_gb * GB)) == permits


def test_the_number_may_be_set_instead() -> None:
    assert AdmissionPolicy(max_concurrent=12).permits(8 * GB) == 12


def names(tickets: list[Ticket]) -> list[str]:
    return [ticket.model_id for ticket in tickets]


def queue(scheduler: Scheduler, *wanted: str, workload: Workload = "interactive") -> list[Ticket]:
    return [scheduler.ask(model, workload, 0.0) for model in wanted]


def test_requests_of_one_model_share_its_permit_as_far_as_it_has_places() -> None:
    scheduler = Scheduler(permits=1, max_queued=9, slots=2)
    first, *_ = queue(scheduler, "a", "a", "a")
    assert names(scheduler.grant(0)) == ["a", "a"]
    assert scheduler.count() == (1, 1, 2, 1)
    scheduler.leave(first, 10)
    assert names(scheduler.grant(10)) == ["a"]


def test_a_model_that_waits_for_a_permit_is_not_overtaken_by_those_that_have_one() -> None:
    scheduler = Scheduler(permits=1, max_queued=9)
    (first,) = queue(scheduler, "a")
    scheduler.grant(0)
    queue(scheduler, "b", "a")
    assert scheduler.grant(0) == []
    scheduler.leave(first, 10)
    assert names(scheduler.grant(10)) == ["b"]


def test_a_model_without_a_free_place_holds_up_no_other_model() -> None:
    scheduler = Scheduler(permits=2, max_queued=9, slots=1)
    queue(scheduler, "a", "a", "b")
    assert names(scheduler.grant(0)) == ["a", "b"]


def test_interactive_work_goes_first_and_background_work_is_overtaken_only_for_so_long() -> None:
    scheduler = Scheduler(permits=1, max_queued=99, slots=1)
    queue(scheduler, "batch", workload="batch")
    queue(scheduler, "background", workload="background")
    arrivals = [*range(0, 150_000, 10_000)]
    for now in arrivals:
        scheduler.ask(f"interactive {now}", "interactive", now)
    order: list[str] = []
    while granted := scheduler.grant(0):
        order += names(granted)
        scheduler.leave(granted[0], 0)
    before = {name: order.index(name) for name in ("background", "batch")}
    # Who came later than this goes after it. Who came at that very moment came second.
    later = {"background": LATER_MS["background"], "batch": LATER_MS["batch"]}
    assert before["background"] == sum(now < later["background"] for now in arrivals)
    assert before["batch"] == 1 + sum(now < later["batch"] for now in arrivals)


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    scheduler = Scheduler(permits=1, max_queued=2, slots=1)
    (first,) = queue(scheduler, "a")
    scheduler.grant(0)
    queue(scheduler, "b", "c")
    with pytest.raises(CarError) as caught:
        queue(scheduler, "d")
    assert caught.value.kind == "overloaded"
    assert caught.value.retryable
    assert caught.value.data["retry_after_ms"] == 3000  # three turns of a second, as is guessed
    scheduler.leave(first, 6000)  # it took longer
    scheduler.grant(6000)
    queue(scheduler, "e")
    with pytest.raises(CarError) as caught:
        queue(scheduler, "f")
    assert caught.value.data["retry_after_ms"] == 6000


def test_a_parked_request_makes_room_and_has_its_old_turn_when_it_comes_back() -> None:
    scheduler = Scheduler(permits=1, max_queued=1, slots=1)
    (parked,) = queue(scheduler, "a")
    scheduler.grant(0)
    (other,) = queue(scheduler, "b")
    scheduler.park(parked)
    assert scheduler.grant(0) == [other]
    (late,) = queue(scheduler, "c")
    scheduler.resume(parked)  # though the queue is full
    assert scheduler.grant(0) == []
    scheduler.leave(other, 5)
    assert scheduler.grant(5) == [parked]
    scheduler.leave(late, 5)
    scheduler.leave(parked, 5)
    assert scheduler.count() == (1, 0, 0, 0)


class Requests(RuleBasedStateMachine):
    """Requests come, run, are parked, and go in any order."""

    PERMITS, SLOTS, QUEUED = 2, 2, 6

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(self.PERMITS, self.QUEUED, self.SLOTS)
        self.tickets: list[Ticket] = []
        self.now = 0.0

    def of(self, *states: str) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state in states]

    @rule(
        model=st.sampled_from("abcd"),
        workload=st.sampled_from(["interactive", "background", "batch"]),
    )
    def ask(self, model: str, workload: Workload) -> None:
        waiting = len(self.of("waiting"))
        if waiting < self.QUEUED:
            self.tickets.append(self.scheduler.ask(model, workload, self.now))
            return
        with pytest.raises(CarError, match="overloaded") as caught:
            self.scheduler.ask(model, workload, self.now)
        assert 100 <= caught.value.data["retry_after_ms"] <= 60_000

    @precondition(lambda self: self.of("waiting", "running", "parked"))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.of("waiting", "running", "parked")))
        self.scheduler.leave(ticket, self.now)

    @precondition(lambda self: self.of("running", "parked"))
    @rule(data=st.data())
    def park_or_resume(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.of("running", "parked")))
        act = self.scheduler.park if ticket.state == "running" else self.scheduler.resume
        act(ticket)

    @rule(ms=st.floats(0, 100_000))
    def wait(self, ms: float) -> None:
        self.now += ms

    @invariant()
    def nobody_runs_too_much_nobody_is_lost_and_nothing_is_idle(self) -> None:
        for ticket in self.scheduler.grant(self.now):
            assert ticket in self.tickets
        running = names(self.of("running"))
        waiting = sorted(self.of("waiting"), key=lambda each: each.turn)
        assert len(set(running)) <= self.PERMITS
        assert all(running.count(model) <= self.SLOTS for model in running)
        assert self.scheduler.count() == (
            self.PERMITS,
            len(set(running)),
            len(running),
            len(waiting),
        )
        if waiting:  # then the first of them has a reason
            first = waiting[0].model_id
            full = running.count(first) == self.SLOTS
            assert full or (first not in running and len(set(running)) == self.PERMITS)

    def teardown(self) -> None:
        # All that waits gets its turn, whatever else came.
        while self.of("running"):
            self.scheduler.leave(self.of("running")[0], self.now)
            self.scheduler.grant(self.now)
        assert self.of("waiting") == []


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=2000 if SOAK else 40)


# At work


class Local:
    """An engine with local models and few permits."""

    def __init__(self, world: Any, policy: AdmissionPolicy) -> None:
        self.world = world
        self.admission = Admission(FakeClock(), policy=policy, stall_s=0)
        registry: Registry = world.registry
        for name in ("a", "b"):
            model = ModelSchema(
                id=f"me/{name}:1",
                source=LocalSource(path="x.gguf"),
                capabilities=["generate", "embed"],
            )
            registry.register(model)
        world.listener = None
        world.engine = Engine(
            registry, lambda _: world.backend, world.sink, world.clock, world.engine._ids,
            admission=self.admission,
        )  # fmt: skip

    @property
    def count(self) -> tuple[int, int]:
        count = self.admission.scheduler.count()
        return count.running, count.queued

    async def until(self, running: int, queued: int) -> None:
        async with asyncio.timeout(10):
            while self.count != (running, queued):  # noqa: ASYNC110 - the scheduler tells nobody
                await asyncio.sleep(0)

    def ask(self, model: str, **fields: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.world.generate(model=model, recovery="none", **fields))


@pytest.fixture
def local(world: Any) -> Local:
    return Local(world, AdmissionPolicy(max_concurrent=1, max_queued=1))


@pytest.fixture
def gate(local: Local) -> asyncio.Event:
    """What answers wait for."""
    gate = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        await gate.wait()
        yield TextDelta(text="hi")

    local.world.backend.play = play
    return gate


async def test_a_model_waits_until_another_one_is_done(local: Local, gate: asyncio.Event) -> None:
    first = local.ask("a")
    await local.until(1, 0)
    second = local.ask("b")
    await local.until(1, 1)
    assert len(local.world.backend.calls) == 1
    gate.set()
    assert (await first).model_used == "me/a:1"
    assert (await second).model_used == "me/b:1"
    assert local.count == (0, 0)


async def test_what_waits_can_be_cancelled_and_runs_out_of_time(
    local: Local, gate: asyncio.Event
) -> None:
    first = local.ask("a")
    await local.until(1, 0)
    second = local.ask("b")
    await local.until(1, 1)
    second.cancel()
    with pytest.raises(CarError, match="cancelled"):
        await second
    assert local.count == (1, 0)
    with pytest.raises(CarError) as caught:
        await local.ask("b", timeout_ms=1)
    assert caught.value.kind == "timeout"
    assert local.count == (1, 0)
    gate.set()
    await first


async def test_a_full_queue_is_overload_and_no_fault_of_the_model(
    local: Local, gate: asyncio.Event
) -> None:
    first, second = local.ask("a"), local.ask("b")
    await local.until(1, 1)
    for _ in range(10):
        with pytest.raises(CarError) as caught:
            await local.ask("b")
        assert caught.value.kind == "overloaded"
        assert caught.value.data["retry_after_ms"] > 0
    assert local.world.engine.breakers.of("me/b:1").state == "closed"
    gate.set()
    await asyncio.gather(first, second)


async def test_embeddings_wait_too_and_other_models_do_not(
    local: Local, gate: asyncio.Event
) -> None:
    first = local.ask("a")
    await local.until(1, 0)
    params = msgspec.convert({"texts": ["x"], "model": "b"}, EmbedParams)
    embedding = asyncio.ensure_future(local.world.engine.embed(params, Origin(1, "embed", b"{}")))
    await local.until(1, 1)
    remote = local.ask("test/one:a")
    gate.set()
    await asyncio.gather(first, embedding, remote)
    assert local.world.backend.embedded == ["x"]


async def test_an_attempt_gives_its_permit_back_before_the_next_one(local: Local) -> None:
    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        await asyncio.sleep(0)
        assert local.count == (1, 0)
        if call.attempt < 3:
            raise CarError("provider_error", "busy")
        yield TextDelta(text="hi")

    local.world.backend.play = play
    result = await local.world.generate(model="a")
    assert len(result.attempts) == 3
    assert local.count == (0, 0)


async def test_a_stream_that_nobody_reads_lends_its_permit(local: Local, play: Any) -> None:
    read = asyncio.Event()

    class Slow:
        begun = False

        async def room(self) -> None:
            if self.begun:
                await read.wait()

        def send(self, event: StreamEvent) -> bool:
            self.begun = self.begun or isinstance(event, TextDelta)
            return not self.begun

    local.world.backend.play = play(TextDelta(text="one "), TextDelta(text="two"))
    raw = b'{"prompt": "hi", "model": "a"}'
    from car_rpc.wire.inference import GenerateRequest

    request = msgspec.json.decode(raw, type=GenerateRequest)
    unread = asyncio.ensure_future(
        local.world.engine.generate(request, Origin(1, "generate", raw), Slow())
    )
    await local.until(1, 0)
    other = await local.ask("b")
    assert other.text == "one two"
    assert not unread.done()
    read.set()
    assert (await unread).text == "one two"
    assert local.count == (0, 0)


async def test_who_lent_its_permit_waits_until_it_is_free_again(local: Local) -> None:
    admission, find = local.admission, local.world.registry.find
    read, goes_on = asyncio.Event(), asyncio.Event()

    async def unread() -> None:
        async with admission.permit(find("a"), "interactive") as permit:
            await permit.lend_while(read.wait())
            goes_on.set()

    lender = asyncio.ensure_future(unread())
    await asyncio.sleep(0)
    async with admission.permit(find("b"), "interactive"):
        read.set()
        await local.until(1, 1)
        assert not goes_on.is_set()
    await lender
    assert local.count == (0, 0)


async def test_a_stream_that_is_read_keeps_its_permit(local: Local) -> None:
    gate = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="hi")
        await gate.wait()

    local.world.backend.play = play
    answer = local.ask("a")
    await local.until(1, 0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert local.count == (1, 0)
    gate.set()
    await answer
