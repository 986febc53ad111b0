"""Who is in memory, on real processes that load nothing; time and sizes are the tests' own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.backends.local.ledger import Ledger
from car_rpc.backends.local.residency import ModelsPolicy
from car_rpc.backends.local.workers import UNWANTED_LOAD_MS, Workers
from car_rpc.errors import CarError
from car_rpc.testing import MemorySink, scripted_model
from car_rpc.transport.os_layer import OsLayer, os_layer
from car_rpc.wire.models import Cost, LocalSource, ModelSchema
from car_rpc.wire.speculation import DraftSpeculation
from car_rpc.wire.worker import Load

pytestmark = pytest.mark.process


class ManualClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self._now_ms = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_ms(self) -> float:
        return self._now_ms

    async def sleep_ms(self, ms: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_ms + ms, woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many wait for a time that has not come."""
        return sum(not woken.done() for _, woken in self._sleepers)

    def advance(self, ms: float) -> None:
        self._now_ms += ms
        for due_ms, woken in self._sleepers:
            if due_ms <= self._now_ms and not woken.done():
                woken.set_result(None)


class Unmeasured:
    """An operating system that says what a process takes where the test does: else estimates count.

    While it holds new processes, they are started and do nothing.
    """

    def __init__(self) -> None:
        self._layer: OsLayer = os_layer()
        self.holds = False
        self.started: list[int] = []
        self.taken_bytes: int | None = None

    def lower_priority(self, pid: int) -> None:
        self.started.append(pid)
        if self.holds:
            os.kill(pid, signal.SIGSTOP)

    def memory_bytes(self, pid: int) -> int | None:
        return self.taken_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class World:
    """Workers with a budget, of 100 bytes unless one is given."""

    def __init__(self, ledger: Ledger | None = None, budget_bytes: int = 100) -> None:
        self.clock = ManualClock()
        self.sink = MemorySink()
        policy = ModelsPolicy(
            memory_bytes=budget_bytes, keep_alive_ms=1000, load_wait_ms=5000, max_crashes=3
        )
        self.system: Any = Unmeasured()
        self.workers = Workers(self.system, self.sink, self.clock, policy, ledger=ledger)

    def lease(self, model: ModelSchema, keep_alive_ms: float | None = None) -> Any:
        source = model.source
        load = Load(path=source.path if isinstance(source, LocalSource) else "")  # type: ignore[arg-type]  # set
        return self.workers.lease("fake", model, load, keep_alive_ms)

    async def use(self, model: ModelSchema, keep_alive_ms: float | None = None) -> int:
        async with self.lease(model, keep_alive_ms) as worker:
            return int(worker.pid)

    async def unload(self, model: ModelSchema) -> Any:
        return await self.workers.unload("fake", model, Load(path=model.source.path))  # type: ignore[union-attr,arg-type]  # a file

    @property
    def loaded(self) -> list[str]:
        return [each.model_id for each in self.workers.loaded()]

    def events(self, event_type: str) -> list[str]:
        return [each.data["model"] for each in self.sink.entries if each.type == event_type]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.005)


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    world = World()
    yield world
    await world.workers.close()


def sized(name: str, size: int) -> ModelSchema:
    return msgspec.structs.replace(
        scripted_model(f"a/{name}:1", []),
        source=LocalSource(path=f"/{name}.gguf"),
        cost=Cost(ram_bytes=size),
    )


A, B, C = sized("a", 60), sized("b", 60), sized("c", 30)


def exists(pid: int) -> bool:
    return os_layer().exists(pid)


async def test_a_projector_takes_memory_too(world: World, tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    projector.write_bytes(bytes(30))
    source = LocalSource(path="/seeing.gguf", mmproj_path=str(projector))
    seeing = msgspec.structs.replace(
        sized("seeing", 60), source=source, capabilities=["generate", "vision"]
    )
    await world.use(C)
    await world.use(seeing)
    assert world.loaded == ["a/seeing:1"]
    assert world.workers.loaded()[0].memory_bytes == 90


async def test_the_model_used_longest_ago_goes_when_there_is_no_room(world: World) -> None:
    gone = await world.use(A)
    world.clock.advance(1)
    await world.use(C)
    assert world.loaded == ["a/a:1", "a/c:1"]
    world.clock.advance(1)
    await world.use(B)
    assert world.loaded == ["a/b:1", "a/c:1"]
    assert world.events("model_unload") == ["a/a:1"]
    assert not exists(gone)


async def test_a_model_counts_as_what_it_is_to_need_before_it_takes_that(world: World) -> None:
    world.system.taken_bytes = 10
    await world.use(A)
    assert world.workers.loaded()[0].memory_bytes == 10, "which is what it takes now"
    await world.use(B)
    assert world.loaded == ["a/b:1"], "both need 60 of the 100"
    await world.use(C)
    assert world.loaded == ["a/b:1", "a/c:1"]
    assert await world.unload(B) == (True, 10), "no more than it took"


async def test_small_models_stay_beside_each_other() -> None:
    """What their process might take besides counts before they are loaded, and not for ever."""
    world = World(budget_bytes=2 * 1024**3)
    world.system.taken_bytes = 10
    small = [
        msgspec.structs.replace(A, id=f"a/{name}:1", cost=Cost(size_bytes=20), source=source)
        for name in "xyz"
        for source in [LocalSource(path=f"/{name}.gguf", context_length=10)]
    ]
    for model in small:
        await world.use(model)
    assert world.loaded == [model.id for model in small]
    await world.workers.close()


async def test_a_model_that_takes_more_than_was_estimated_counts_as_that(world: World) -> None:
    await world.use(A)
    world.system.taken_bytes = 75
    await world.use(C)
    assert world.loaded == ["a/c:1"]


async def test_the_file_of_a_draft_model_counts_too(world: World, tmp_path: Path) -> None:
    draft = tmp_path / "draft.gguf"
    draft.write_bytes(b"x" * 50)
    speculation = DraftSpeculation(path=str(draft))
    source = msgspec.structs.replace(C.source, speculation=speculation)
    async with world.lease(msgspec.structs.replace(C, source=source)):
        (loaded,) = world.workers.loaded()
        assert loaded.memory_bytes == 30 + 50


async def test_a_model_at_work_is_waited_for_and_never_taken_away(world: World) -> None:
    async with world.lease(A) as worker:
        other = asyncio.create_task(world.use(B))
        await world.until(world.workers._making_room.locked)
        assert exists(worker.pid)
        assert not other.done()
    await other
    assert world.loaded == ["a/b:1"]


async def test_whoever_waits_too_long_for_room_is_refused(world: World) -> None:
    async with world.lease(A):
        other = asyncio.create_task(world.use(B))
        await world.until(world.workers._making_room.locked)
        await asyncio.sleep(0)
        world.clock.advance(5001)
        with pytest.raises(CarError) as caught:
            await other
        assert caught.value.kind == "overloaded"
        assert caught.value.extra["retry_after_ms"] == 5000
    assert await world.use(C), "and the next one is served"


async def test_two_who_wait_for_room_do_not_wait_for_each_other(world: World) -> None:
    large = sized("large", 90)
    async with world.lease(A):
        others = [asyncio.create_task(world.use(model)) for model in (B, large)]
        await world.until(world.workers._making_room.locked)
    async with asyncio.timeout(30):
        await asyncio.gather(*others)
    assert world.loaded == ["a/large:1"]


async def test_a_model_that_is_too_large_is_tried_when_it_is_alone(world: World) -> None:
    await world.use(A)
    await world.use(sized("huge", 1000))
    assert world.loaded == ["a/huge:1"]


async def test_those_who_come_during_a_load_get_the_same_process(world: World) -> None:
    pids = await asyncio.gather(*(world.use(A) for _ in range(5)))
    assert len(set(pids)) == 1
    assert world.events("model_load") == ["a/a:1"]


async def test_a_model_leaves_when_nobody_wants_it_any_more(world: World) -> None:
    pid = await world.use(A)
    await asyncio.sleep(0)
    world.clock.advance(999)
    assert await world.use(A) == pid, "which makes it stay as long again"
    await asyncio.sleep(0)
    world.clock.advance(999)
    await asyncio.sleep(0)
    assert world.loaded == ["a/a:1"]
    world.clock.advance(1)
    await world.until(lambda: not exists(pid))
    assert world.loaded == []


async def test_a_request_says_how_long_its_model_stays(world: World) -> None:
    pid = await world.use(A, keep_alive_ms=0)
    await world.until(lambda: not exists(pid))
    pid = await world.use(A, keep_alive_ms=10_000)
    await asyncio.sleep(0)
    world.clock.advance(9_999)
    await asyncio.sleep(0)
    assert world.loaded == ["a/a:1"]


async def test_unloading_ends_the_process_but_not_at_work(world: World) -> None:
    async with world.lease(A) as worker:
        with pytest.raises(CarError) as caught:
            await world.unload(A)
        assert caught.value.kind == "conflict"
    assert (await world.unload(A)) == (True, 60)
    assert not exists(worker.pid)
    assert (await world.unload(A)) == (False, 0)


async def test_a_process_that_keeps_dying_is_left_alone_until_time_has_passed(
    world: World,
) -> None:
    async def dies() -> None:
        async with world.lease(A) as worker:
            os.kill(worker.pid, 9)
            await world.until(lambda: not worker.alive)
            assert world.loaded == []
            raise CarError("worker_crashed", "as its request learns")

    for delay_ms in (0, 0, 500):
        dying = asyncio.create_task(dies())
        if delay_ms:
            await world.until(lambda: world.clock.sleepers > 0)
            assert not dying.done()
            world.clock.advance(delay_ms)
        with pytest.raises(CarError):
            await dying
    with pytest.raises(CarError) as caught:
        await world.use(A)
    assert caught.value.kind == "worker_crashed"
    assert caught.value.extra["quarantined"] is True
    world.clock.advance(60_000)
    again = asyncio.create_task(world.use(A))
    await world.until(lambda: world.clock.sleepers > 0)
    world.clock.advance(1000)
    assert await again
    assert await world.use(A), "and an answer makes up for all of it"


async def test_what_other_processes_have_loaded_takes_of_the_budget(tmp_path: Path) -> None:
    layer = os_layer()
    measured: dict[int, int] = {}
    ledger = Ledger(tmp_path / "car.db", layer.exists, measured.get)
    world = World(ledger)
    world.system.taken_bytes = 10
    await world.use(C)
    assert [size for *_, size in ledger._rows()] == [30], "what it is to need, not what it takes"
    with ledger._database.transaction() as connection:
        # Another live core: this test's parent; and one that died, whose row nobody deleted.
        connection.execute(
            "INSERT INTO loaded_models VALUES (?, ?, 'a/x:1', 80), (?, ?, 'a/y:1', 500)",
            (os.getppid(), os.getppid(), 2**30, 2**30),
        )
    assert ledger.elsewhere_bytes() == 80, "as was said when it was loaded"
    measured[os.getppid()] = 85
    assert ledger.elsewhere_bytes() == 85, "it has grown"
    measured[os.getppid()] = 75
    assert ledger.elsewhere_bytes() == 80, "not all of it is in memory yet"
    with pytest.raises(CarError) as caught:
        await world.use(A)
    assert caught.value.kind == "out_of_memory"
    assert "80 of the 100" in caught.value.message
    assert world.loaded == [], "it made what room it could"
    await world.workers.close()
    ledger.put(os.getpid(), "a/z:1", 1)
    ledger.drop(os.getpid())
    assert ledger._rows() == [(os.getppid(), os.getppid(), 80)], "the rows of the dead are gone"
    ledger.close()


# --------------------------------------------------------------------- loads that are given up


async def loading(world: World, keep_alive_ms: float = 60_000) -> asyncio.Task[int]:
    """A request whose model loads, for ever."""
    world.system.holds = True
    task = asyncio.create_task(world.use(A, keep_alive_ms))
    await world.until(lambda: world.system.started)
    return task


async def gives_up(*waiting: asyncio.Task[int]) -> None:
    """Cancel requests; each has its answer when nothing has happened but that."""
    for task in waiting:
        task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert all(task.cancelled() for task in waiting)


async def served_afresh(world: World) -> None:
    """The next request is served at once by a process of its own, as if nothing had been."""
    world.system.holds = False
    assert await world.use(A) == world.system.started[-1]
    assert world.events("model_load") == ["a/a:1"]
    assert not world.events("worker_crash")
    assert not world.events("model_unload"), "what was not loaded is not unloaded"


async def test_a_load_that_all_have_given_up_ends_and_is_no_crash(world: World) -> None:
    waiting = await loading(world)
    others = [asyncio.create_task(world.use(A, 60_000)) for _ in range(3)]
    await asyncio.sleep(0)
    (pid,) = world.system.started
    await gives_up(waiting, *others)
    await world.until(lambda: world.clock.sleepers)
    world.clock.advance(UNWANTED_LOAD_MS - 1)
    assert exists(pid)
    world.clock.advance(1)
    await world.until(lambda: not exists(pid))
    await served_afresh(world)


async def test_a_load_goes_on_while_one_waits_for_it(world: World) -> None:
    waiting = await loading(world)
    other = asyncio.create_task(world.use(A))
    await asyncio.sleep(0)
    (pid,) = world.system.started
    await gives_up(waiting)
    world.clock.advance(10 * UNWANTED_LOAD_MS)
    os.kill(pid, signal.SIGCONT)
    assert await other == pid


async def test_whoever_asks_again_soon_gets_the_load_that_was_given_up(world: World) -> None:
    waiting = await loading(world)
    for _ in range(5):  # as an editor does with each key
        await gives_up(waiting)
        await world.until(lambda: world.clock.sleepers)
        world.clock.advance(UNWANTED_LOAD_MS - 1)
        waiting = asyncio.create_task(world.use(A, 60_000))
        await asyncio.sleep(0)
    (pid,) = world.system.started
    os.kill(pid, signal.SIGCONT)
    assert await waiting == pid


async def test_a_load_that_is_done_before_it_would_end_stays_as_after_a_request(
    world: World,
) -> None:
    waiting = await loading(world, keep_alive_ms=5000)
    (pid,) = world.system.started
    await gives_up(waiting)
    await world.until(lambda: world.clock.sleepers)
    os.kill(pid, signal.SIGCONT)
    await world.until(lambda: world.loaded)
    world.clock.advance(UNWANTED_LOAD_MS)
    await world.until(lambda: world.clock.sleepers)
    world.clock.advance(5000 - UNWANTED_LOAD_MS - 1)
    await asyncio.sleep(0)
    assert world.loaded == ["a/a:1"]
    world.clock.advance(1)
    await world.until(lambda: not exists(pid))


async def test_a_load_for_a_request_that_leaves_nothing_behind_ends_with_it(world: World) -> None:
    waiting = await loading(world, keep_alive_ms=0)
    (pid,) = world.system.started
    await gives_up(waiting)
    await world.until(lambda: not exists(pid))
    await served_afresh(world)


async def test_a_load_that_is_wanted_is_not_unloaded_and_one_that_is_not_is(world: World) -> None:
    waiting = await loading(world)
    (pid,) = world.system.started
    with pytest.raises(CarError) as caught:
        await world.unload(A)
    assert caught.value.kind == "conflict"
    await gives_up(waiting)
    assert (await world.unload(A)) == (False, 0)
    assert not exists(pid)
    await served_afresh(world)


async def test_whoever_gives_up_while_there_is_no_room_yet_never_starts_a_process(
    world: World,
) -> None:
    async with world.lease(A):
        waiting = asyncio.create_task(world.use(B))
        await world.until(world.workers._making_room.locked)
        await gives_up(waiting)
        await world.until(lambda: world.clock.sleepers > 1)
        world.clock.advance(UNWANTED_LOAD_MS)
        await world.until(lambda: not world.workers._making_room.locked())
    assert len(world.system.started) == 1
    assert await world.use(B), "and the next one is served"


@pytest.mark.parametrize("turns", range(0, 40, 4))
async def test_at_whatever_moment_a_request_is_given_up_nothing_is_left_of_it(
    world: World, turns: int
) -> None:
    waiting = asyncio.create_task(world.use(A, keep_alive_ms=0))
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await world.until(lambda: not world.workers._slots)
    await world.until(lambda: not any(map(exists, world.system.started)))
    assert not world.events("worker_crash")
    assert await world.use(A)
