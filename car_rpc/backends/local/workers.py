"""The worker processes of all local models: who is loaded, who is used, and who has to go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from car_rpc.backends.local.estimate import lasting_bytes, needed_bytes
from car_rpc.backends.local.headers import checked
from car_rpc.backends.local.ledger import Ledger
from car_rpc.backends.local.process import ProcessControl, WorkerProcess
from car_rpc.backends.local.residency import Crashes, ModelsPolicy, Resident, to_evict
from car_rpc.engine.ports import Clock, EventSink, LogEntry
from car_rpc.errors import CarError
from car_rpc.wire.admission import LoadedModel
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.worker import Load, Loaded

_logger = logging.getLogger(__name__)

#: How long a load goes on that nobody waits for any more, in milliseconds. An editor cancels a
#: request to ask again at the next key: a load that ended with each would never be done.
UNWANTED_LOAD_MS = 1000


class Unloaded(NamedTuple):
    """What became of a model that was to be unloaded.

    Attributes:
        was_loaded: Whether it was in memory.
        freed_bytes: Memory that its process took; the process is gone.
    """

    was_loaded: bool
    freed_bytes: int


class Workers:
    """One process for each loaded model, started when it is needed, within a memory budget.

    Args:
        control: What the operating system does for workers.
        sink: The event log, for loads, unloads and crashes.
        clock: Time.
        policy: How long models stay, and how much memory they may take.
        usable_bytes: Memory that models may take where the policy does not say.
        ledger: What other processes have loaded.
    """

    def __init__(
        self,
        control: ProcessControl,
        sink: EventSink,
        clock: Clock,
        policy: ModelsPolicy = ModelsPolicy(),  # noqa: B008 - frozen
        usable_bytes: Callable[[], int] = lambda: 0,
        ledger: Ledger | None = None,
    ) -> None:
        self._control = control
        self._sink = sink
        self._clock = clock
        self._policy = policy
        self._usable_bytes = usable_bytes
        self._ledger = ledger
        self._slots: dict[bytes, _Slot] = {}
        self._crashes: dict[bytes, Crashes] = {}
        self._changed = asyncio.Event()
        # One newcomer at a time, in order of arrival: two that wait for room do not wait for
        # each other's. Models that are loaded already answer meanwhile.
        self._making_room = asyncio.Lock()

    @property
    def budget_bytes(self) -> int:
        """Memory that loaded models may take; 0 when it is not known, which is no limit."""
        return self._policy.memory_bytes or self._usable_bytes()

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, by id."""
        now_ms = self._clock.now_ms()
        return sorted(
            (
                LoadedModel(
                    model_id=slot.model.id,
                    memory_bytes=slot.taken_bytes(),
                    requests=slot.users,
                    idle_ms=0 if slot.users else round(now_ms - slot.used_ms),
                )
                for slot in self._slots.values()
                if slot.worker is not None and not slot.dead
            ),
            key=lambda each: each.model_id,
        )

    @asynccontextmanager
    async def lease(
        self, engine: str, model: ModelSchema, load: Load, keep_alive_ms: float | None = None
    ) -> AsyncGenerator[WorkerProcess]:
        """Use the worker that has a model loaded; starts one if there is none.

        Registry entries that differ only in their name share a worker, and requests that come
        during a load wait for the same one. Nobody takes it away meanwhile. A load that all of
        them have given up ends after :data:`UNWANTED_LOAD_MS`, unless it is done by then.

        Args:
            engine: Name of the worker's engine.
            model: The model.
            load: How it is loaded.
            keep_alive_ms: How long it stays loaded afterwards; the policy's by default.

        Raises:
            CarError: ``model_load_failed``, ``worker_crashed``, ``out_of_memory``, or
                ``overloaded`` when models at work leave no room for it.
        """
        key = _key(engine, load)
        slot = self._slot(key, engine, model, load)
        slot.users += 1
        slot.stop_waiting()
        try:
            # A caller that gives up must not take the load away from the others.
            worker = await asyncio.shield(slot.starting)
            yield worker
            self._crashes.pop(key, None)
        finally:
            slot.users -= 1
            slot.used_ms = self._clock.now_ms()
            self._notify()
            if not slot.users:
                asked_ms = self._policy.keep_alive_ms if keep_alive_ms is None else keep_alive_ms
                stay_ms = 0 if slot.dead else asked_ms
                slot.leaving = asyncio.create_task(self._leave(key, slot, stay_ms))

    async def unload(self, engine: str, model: ModelSchema, load: Load) -> Unloaded:
        """Take a model out of memory; returns when its process is gone.

        Raises:
            CarError: ``conflict`` while it loads or works.
        """
        key = _key(engine, load)
        slot = self._slots.get(key)
        if slot is None or slot.dead:
            return Unloaded(was_loaded=False, freed_bytes=0)
        if slot.users:
            raise CarError(
                "conflict", f"{model.id} is at work; try again when it is done", model=model.id
            )
        was_loaded = slot.worker is not None
        freed_bytes = slot.taken_bytes() if was_loaded else 0
        await self._end(key, slot)
        return Unloaded(was_loaded, freed_bytes)

    async def close(self) -> None:
        """Kill all workers; returns when they are gone."""
        ending = [self._end(key, slot) for key, slot in list(self._slots.items())]
        await asyncio.gather(*ending, return_exceptions=True)

    def _slot(self, key: bytes, engine: str, model: ModelSchema, load: Load) -> _Slot:
        slot = self._slots.get(key)
        if slot is not None and not slot.dead:
            return slot
        crashes = self._crashes.get(key)
        if crashes is not None:
            crashes.check(model.id, self._clock.now_ms())
        slot = self._slots[key] = _Slot(model, self._control, self._clock.now_ms())
        slot.begin(self._start(key, slot, engine, load))
        return slot

    async def _start(self, key: bytes, slot: _Slot, engine: str, load: Load) -> WorkerProcess:
        model = slot.model
        crashes = self._crashes.get(key)
        if crashes is not None and (delay_ms := crashes.delay_ms()):
            await self._clock.sleep_ms(delay_ms)
        if engine == "llama_cpp":
            load = await asyncio.to_thread(checked, model, load)
        deadline_ms = self._clock.now_ms() + self._policy.load_wait_ms
        async with self._making_room:
            await self._room_for(slot, deadline_ms)
            slot.admitted = True
        worker = await WorkerProcess.start(engine, model.id, self._control)
        worker.on_death = lambda death: self._died(key, model, death)
        try:
            # Other processes count it while it loads; the row of one that ended is passed over.
            await self._tell_others(worker.pid, slot)
            loaded = await _loaded(worker, load, model)
            slot.worker, slot.weights_bytes = worker, loaded.model_bytes
            await self._tell_others(worker.pid, slot)
        except BaseException:
            slot.worker = None
            await worker.stop()
            raise
        adapters = msgspec.to_builtins({"adapters": load.adapters} if load.adapters else {})
        self._note("model_load", model, pid=worker.pid, engine=loaded.engine, **adapters)
        return worker

    async def _tell_others(self, pid: int, slot: _Slot) -> None:
        if self._ledger is not None:
            await _written(self._ledger.put, pid, slot.model.id, slot.counted_bytes())

    async def _room_for(self, slot: _Slot, deadline_ms: float) -> None:
        """Unload models until there is room for another, as long as that can help."""
        while slot.needed_bytes and self.budget_bytes:
            elsewhere = 0 if self._ledger is None else self._ledger.elsewhere_bytes()
            room = self.budget_bytes - elsewhere
            others = {key: each for key, each in self._slots.items() if each.counted_bytes()}
            residents = [each.resident() for each in others.values()]
            taken = sum(each.memory_bytes for each in residents)
            if taken + slot.needed_bytes <= room or not (taken or elsewhere):
                return  # one that is alone is tried, whatever was estimated
            index = to_evict(slot.needed_bytes, room, residents)
            if index is not None:
                key = [*others][index]
                await self._end(key, others[key])
            elif not residents:
                raise self._too_large(slot, elsewhere)
            elif not await self._changed_before(deadline_ms):
                raise CarError(
                    "overloaded",
                    f"the models at work leave no room for {slot.model.id}; try again later, or"
                    " raise `memory_bytes` of [models] in the configuration",
                    model=slot.model.id,
                    retry_after_ms=self._policy.load_wait_ms,
                )

    def _too_large(self, slot: _Slot, elsewhere: int) -> CarError:
        return CarError(
            "out_of_memory",
            f"{slot.model.id} needs {slot.needed_bytes} bytes, and other apps' models take"
            f" {elsewhere} of the {self.budget_bytes} that models may; unload one there, or raise"
            " `memory_bytes` of [models] in the configuration",
            model=slot.model.id,
        )

    async def _changed_before(self, deadline_ms: float) -> bool:
        """Wait until a model was released or is gone; tells whether that was in time."""
        left_ms = deadline_ms - self._clock.now_ms()
        if left_ms <= 0:
            return False
        waits = (
            asyncio.create_task(self._changed.wait()),
            asyncio.create_task(self._clock.sleep_ms(left_ms)),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return True

    async def _leave(self, key: bytes, slot: _Slot, stay_ms: float) -> None:
        if not slot.starting.done():
            unwanted_ms = min(stay_ms, UNWANTED_LOAD_MS)
            if unwanted_ms:
                await self._clock.sleep_ms(unwanted_ms)
            stay_ms = stay_ms - unwanted_ms if slot.starting.done() else 0
        if stay_ms:
            await self._clock.sleep_ms(stay_ms)
        slot.leaving = None
        await self._end(key, slot)

    async def _end(self, key: bytes, slot: _Slot) -> None:
        """Forget a model and stop its process, in this order: whoever comes starts a fresh one."""
        if self._slots.get(key) is slot:
            del self._slots[key]
        slot.stop_waiting()
        pid = await slot.close()
        self._notify()
        if pid is None:
            return
        self._note("model_unload", slot.model, pid=pid)
        if self._ledger is not None:
            await _written(self._ledger.drop, pid)

    def _died(self, key: bytes, model: ModelSchema, death: CarError) -> None:
        self._crashes.setdefault(key, Crashes(self._policy)).crashed(self._clock.now_ms())
        self._note("worker_crash", model, reason=death.message)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _note(self, event_type: str, model: ModelSchema, **data: Any) -> None:
        self._sink.append(LogEntry(event_type, {"model": model.id, **data}))


class _Slot:
    """A worker that is starting or running."""

    starting: asyncio.Task[WorkerProcess]

    def __init__(self, model: ModelSchema, control: ProcessControl, now_ms: float) -> None:
        self.model = model
        self.users = 0
        self.admitted = False
        self.used_ms = now_ms
        self.worker: WorkerProcess | None = None
        self.weights_bytes = 0
        self.leaving: asyncio.Task[None] | None = None
        self.needed_bytes = needed_bytes(model)
        self.lasting_bytes = lasting_bytes(model)
        self._control = control

    def begin(self, start: Coroutine[Any, Any, WorkerProcess]) -> None:
        self.starting = asyncio.create_task(start)
        # Somebody may have given up waiting; the failure still reaches whoever waits.
        self.starting.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def dead(self) -> bool:
        task = self.starting
        if not task.done():
            return False
        return task.cancelled() or task.exception() is not None or not task.result().alive

    def counted_bytes(self) -> int:
        """What the budget counts: also what it takes only later, with a long conversation."""
        taken = self.taken_bytes()
        return max(taken, self.lasting_bytes) if taken else 0

    def taken_bytes(self) -> int:
        """What it takes: estimated while it loads, measured afterwards; 0 before and at the end."""
        if self.dead or not self.admitted:
            return 0
        if self.worker is None:
            return self.needed_bytes
        measured = self._control.memory_bytes(self.worker.pid)
        # Weights that are read from the file as they are needed are not in memory yet.
        return self.needed_bytes if measured is None else max(measured, self.weights_bytes)

    def resident(self) -> Resident:
        is_loading = self.worker is None
        return Resident(self.counted_bytes(), self.users or int(is_loading), self.used_ms)

    def stop_waiting(self) -> None:
        """It does not leave by itself for now."""
        if self.leaving is not None:
            self.leaving.cancel()
            self.leaving = None

    async def close(self) -> int | None:
        """Stop the worker; returns the pid of one that had the model loaded until now."""
        self.starting.cancel()
        await asyncio.wait([self.starting])
        if self.starting.cancelled() or self.starting.exception() is not None:
            return None
        worker = self.starting.result()
        was_alive = worker.alive
        await worker.stop()
        return worker.pid if was_alive else None


def _key(engine: str, load: Load) -> bytes:
    return msgspec.msgpack.encode((engine, load))


async def _loaded(worker: WorkerProcess, load: Load, model: ModelSchema) -> Loaded:
    """Load a model. llama.cpp crashes at projectors that lack a part, at each try anew."""
    try:
        loaded = await worker.load(load)
    except CarError as error:
        if error.kind != "worker_crashed" or not load.projector:
            raise
        raise CarError(
            "model_load_failed",
            f"{model.id} crashed while it was loaded with its projector {load.projector}; that"
            " file is damaged or of another kind: fetch the one that was published with the model",
            model=model.id,
            path=load.projector,
        ) from error
    _warn_of_less_context(model.id, load, loaded)
    return loaded


def _warn_of_less_context(model_id: str, load: Load, loaded: Loaded) -> None:
    asked, trained = load.context_length or 0, loaded.context_trained
    if 0 < trained < asked:
        _logger.warning(
            "the `context_length` of %s asks for %d tokens, and it was trained on %d: it gets"
            " those; register it with no more",
            model_id,
            asked,
            trained,
        )


async def _written(write: Callable[..., None], *values: Any) -> None:
    """Write to the ledger. A model serves, even where the others cannot be told of it."""
    try:
        await asyncio.to_thread(write, *values)
    except CarError as error:
        _logger.warning("other processes do not know what is loaded here: %s", error.message)
