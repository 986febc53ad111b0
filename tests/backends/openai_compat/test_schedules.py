"""Random faults in front of real servers: every request still has one end, and leaves nothing.

A schedule is drawn from a seed: what happens to each response, on two servers, and whether the
client leaves. The seed of one that fails is in its message; with SEED set to it, it comes first.
"""

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from car_rpc.backends.openai_compat.client import Timeouts
from car_rpc.engine.ports import Clock
from car_rpc.errors import CarError
from car_rpc.host.wiring import SystemClock
from car_rpc.testing import FakeClock
from car_rpc.wire.events import Attempt, Done, ErrorEvent
from car_rpc.wire.inference import InferenceResult
from car_rpc.wire.models import ModelSchema
from tests.backends.openai_compat.conftest import Stream, Upstream
from tests.servers.proxy import Fault, FaultProxy, Plan
from tests.servers.real import RealServer

pytestmark = [pytest.mark.llama, pytest.mark.process, pytest.mark.timeout(3600)]

#: The seed of the first schedule; the next ones follow it.
FIRST_SEED = int(os.environ.get("SEED", "20261128"))

#: How long the demo model's answers are, in bytes of the response, more or less.
ANSWER_BYTES = 8000

#: Long for the model, short for the tester. Whether a busy machine calls that silence changes how
#: often a request is tried, and nothing of what holds for each one.
TIMEOUTS = Timeouts(first_token=1.5, idle=0.4)

#: What a request may end with but a result, when servers do what they do here.
FAILURES = frozenset(
    {"cancelled", "overloaded", "provider_error", "rate_limited", "stream_interrupted", "timeout",
     "unauthorized"}
)  # fmt: skip


class Schedule(NamedTuple):
    """What happens to one request.

    Attributes:
        plans: To the responses of each server.
        leaves_after: After how many events the client leaves, if it does.
        names_model: Whether the request names its model, so that no other one may answer.
        prefill: What the servers are declared to be, whatever they are.
    """

    plans: list[list[Plan]]
    leaves_after: int | None
    names_model: bool
    prefill: str | None


def drawn(seed: int, *, patient: bool) -> Schedule:
    """The schedule of a seed; with `patient`, servers may ask for long waits."""
    rng = random.Random(seed)

    def plan() -> Plan:
        fault = rng.choice([None, *Fault])
        return Plan(
            fault, int(ANSWER_BYTES * rng.random() ** 2), rng.randint(0, 90 if patient else 1)
        )

    return Schedule(
        plans=[[plan() for _ in range(rng.randint(0, 5))] for _ in range(2)],
        leaves_after=rng.choice([None, None, None, rng.randint(0, 40)]),
        names_model=rng.random() < 0.3,
        prefill=rng.choice([None, "assistant_turn"]),
    )


class LeavingStream(Stream):
    """A client's stream, which is left after so many events."""

    def __init__(self, leaves_after: int | None) -> None:
        super().__init__()
        self._left = leaves_after
        self.leaving = asyncio.Event()

    def send(self, event: Any) -> bool:
        has_room = super().send(event)
        if self._left is not None and len(self.events) > self._left:
            self.leaving.set()
        return has_room


@pytest.fixture
async def proxies(
    llama_server: RealServer, mlx_server: RealServer
) -> AsyncGenerator[list[FaultProxy], None]:
    first, second = (FaultProxy("127.0.0.1", real.port) for real in (llama_server, mlx_server))
    async with first.running(), second.running():
        yield [first, second]


def open_files() -> Counter[str]:
    """What is open, and how often; numbers that come anew with each opening are left out."""
    names: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # such as the folder that is read here
            names[re.sub(r"\d+", "", str(entry.readlink()))] += 1
    return names


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
async def test_whatever_the_network_does_a_request_has_one_end_and_leaves_nothing_behind(
    proxies: list[FaultProxy], make_world: Any, proof_count: Callable[[int, int], int],
    llama_server: RealServer, mlx_server: RealServer,
) -> None:  # fmt: skip
    ends: Counter[str] = Counter()
    servers = [llama_server, mlx_server]
    for number in range(proof_count(10, 1000)):
        on_real_clock = number % proof_count(10, 100) == 0
        clock = SystemClock() if on_real_clock else FakeClock()
        seed = FIRST_SEED + number
        schedule = drawn(seed, patient=not on_real_clock)
        try:
            async with asyncio.timeout(60):
                end = await play(schedule, proxies, servers, make_world, clock)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"the schedule of seed {seed}: {error}\n{schedule}") from error
        ends[end] += 1
    struck = sum(len(proxy.struck) for proxy in proxies)
    print(f"seeds from {FIRST_SEED}: {ends.total()} schedules, {struck} faults, {dict(ends)}")
    assert ends.keys() >= {"result"}
    assert struck


async def play(
    schedule: Schedule,
    proxies: list[FaultProxy],
    servers: list[RealServer],
    make_world: Any,
    clock: Clock,
) -> str:
    """Play a schedule; returns how the request ended."""
    tasks, files = asyncio.all_tasks(), open_files()
    upstream = Upstream(TIMEOUTS)
    models: list[ModelSchema] = []
    for name, proxy, server, plans in zip("ab", proxies, servers, schedule.plans, strict=True):
        proxy.plan(*plans)
        declared = {"prefill": schedule.prefill} if schedule.prefill else {}
        models.append(upstream.model(proxy.url, server.model, id=f"{name}/m:1", **declared))
    world = make_world(upstream.backend, *models, clock=clock)
    stream = LeavingStream(schedule.leaves_after)
    request: dict[str, Any] = {
        "prompt": "Tell me a story.",
        "params": {"max_tokens": 40, "temperature": 0},
    }
    if schedule.names_model:
        request["model"] = "a/m:1"
    work = asyncio.create_task(world.generate(stream, **request))
    leaving = asyncio.create_task(stream.leaving.wait())
    await asyncio.wait([work, leaving], return_when=asyncio.FIRST_COMPLETED)
    if leaving.done():
        work.cancel()
    leaving.cancel()
    end = await ended(work, stream)
    await upstream.backend.close()
    for proxy in proxies:
        await proxy.no_connection()
    with suppress(asyncio.CancelledError):
        await leaving
    world.registry.close()
    # The proxies still close their own ends, and a thread may read certificates for nobody.
    for _ in range(100_000):
        if asyncio.all_tasks() == tasks and not open_files() - files:
            break
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks, "a task is left"
    left = open_files() - files
    assert not left, f"open files or sockets are left: {left}"
    return end


async def ended(work: asyncio.Task[InferenceResult], stream: Stream) -> str:
    """How a request ended, which its events must have told alike."""
    assert all(isinstance(event, Attempt) for event in stream.events[:1])
    try:
        result = await work
    except CarError as error:
        (last,) = stream.last
        failure = error
    else:
        (last,) = stream.last
        assert isinstance(last, Done)
        assert last.text == result.text == stream.text
        return "result"
    (last,) = stream.last
    assert isinstance(last, ErrorEvent)
    assert last.kind == failure.kind
    assert failure.kind in FAILURES
    if "partial" in failure.data:
        assert failure.data["partial"]["text"] == stream.text
    if "snapshot" in failure.data:
        assert (failure.data["snapshot"].text or "") == stream.text
    return failure.kind
