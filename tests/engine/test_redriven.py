"""What was decided is decided again from the log alone, and a planner that was changed is found."""

import asyncio
from typing import Any

import msgspec
import pytest

from car_rpc.engine import attempts as attempts_module
from car_rpc.engine import interruption, patience
from car_rpc.engine.premises import Own, Snapshot
from car_rpc.engine.redriven import Story, first_divergence
from car_rpc.engine.retry import RetryPolicy
from car_rpc.errors import CarError
from car_rpc.router import scores
from car_rpc.testing import MemorySink, scripted_model
from car_rpc.wire.events import TextDelta
from car_rpc.wire.outcomes import ModelProfile, TaskStats
from car_rpc.wire.replay import Divergence
from car_rpc.wire.routing import PoolMember, PoolSpec, RoutingConfig
from tests.engine.test_cancellation import BUSY, REFUSED, STORIES, TEXT, start_afresh, told

__all__ = ["told"]  # a fixture


async def verified(sink: MemorySink, trace_id: str | None = None) -> Divergence | None:
    """The first decision that is otherwise now."""
    await sink.commit()
    trace_id = trace_id or next(entry.trace_id for entry in sink.entries if entry.trace_id)
    events = await sink.story(trace_id)
    route = next(event for event in events if event.type == "route")
    own = msgspec.convert(route.data["premises"], Own)
    encoded = [msgspec.json.encode(e.data) for e in sink.entries if e.type == "routing_inputs"]
    snapshots = {
        each.hash: each for each in (msgspec.json.decode(e, type=Snapshot) for e in encoded)
    }
    params = msgspec.json.encode(events[0].data["params"])
    return await first_divergence(params, Story(events), own, snapshots[own.inputs], None)


@pytest.mark.parametrize("told", STORIES, indirect=True)
async def test_every_story_is_decided_again_as_it_was(told: Any) -> None:
    await asyncio.gather(told.generate(**told.asked), return_exceptions=True)
    assert await verified(told.sink) is None


@pytest.mark.parametrize("told", STORIES, indirect=True)
async def test_a_story_that_a_cancel_cut_is_decided_again_as_far_as_it_goes(told: Any) -> None:
    for steps in range(1, 1000):
        inputs = [entry for entry in told.sink.entries if entry.type == "routing_inputs"]
        start_afresh(told)
        told.sink.entries = inputs  # they are written once
        task = asyncio.ensure_future(told.generate(**told.asked))
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if "route" in told.sink.types:
            assert await verified(told.sink) is None
    await asyncio.gather(task, return_exceptions=True)


def differs(divergence: Divergence | None, event_type: str) -> None:
    assert divergence is not None
    shown = divergence.recorded or divergence.now or {}
    assert shown["type"] == event_type
    assert divergence.recorded != divergence.now
    assert divergence.at > 0


@pytest.mark.parametrize("told", ["a-continuation"], indirect=True)
async def test_a_changed_plan_of_recovery_is_found(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told.generate(**told.asked)
    monkeypatch.setattr(attempts_module, "plan", lambda _: interruption.WholeRestart())
    divergence = await verified(told.sink)
    differs(divergence, "recovery")
    assert divergence is not None
    assert divergence.recorded is not None
    assert divergence.now is not None
    plans = divergence.recorded["plan"], divergence.now["plan"]
    assert plans == ("continue_text", "whole_restart")


@pytest.mark.parametrize("told", ["a-retry"], indirect=True)
async def test_a_changed_patience_is_found(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await told.generate(**told.asked)
    monkeypatch.setattr(patience, "passes", lambda _: False)
    differs(await verified(told.sink), "attempt")


@pytest.mark.parametrize("told", ["a-fallback"], indirect=True)
async def test_a_fallback_that_is_not_made_any_more_is_found(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told.generate(**told.asked)
    monkeypatch.setattr(attempts_module, "FINAL", frozenset({"unauthorized"}))
    differs(await verified(told.sink), "fallback")


@pytest.mark.parametrize("told", ["no-model-left"], indirect=True)
async def test_an_attempt_that_would_be_made_now_is_found(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told.failure(**told.asked)
    monkeypatch.setattr(patience.Patience, "changes_key", lambda *_: True)
    divergence = await verified(told.sink)
    assert divergence is not None
    assert (divergence.now or {})["type"] == "attempt"


def observed(model_id: str, quality: float) -> ModelProfile:
    stats = TaskStats(calls=50, success_count=50, ema_quality=quality, total_latency_ms=500.0)
    return ModelProfile(
        model_id=model_id,
        total_calls=50,
        success_count=50,
        total_latency_ms=500.0,
        ema_quality=quality,
        task_stats={"generate": stats, "code": stats},
    )


@pytest.fixture
def choosing(world: Any, play: Any) -> Any:
    """A world of models of which something is known."""
    for name in ("three", "four"):
        world.registry.register(scripted_model(f"test/{name}:a", []))
    profiles = {
        f"test/{n}:a": observed(f"test/{n}:a", q) for n, q in (("one", 0.6), ("three", 0.9))
    }
    inputs = world.engine.routing._inputs._replace(profiles=lambda: profiles)
    world.engine.routing = type(world.engine.routing)(
        world.registry, world.engine.backend_of, world.engine.breakers, world.clock, inputs
    )
    world.backend.play = play(*TEXT)
    return world


@pytest.mark.parametrize("workload", ["interactive", "background"])
async def test_a_choice_is_made_again_as_it_was(choosing: Any, workload: str) -> None:
    for _ in range(8):
        choosing.listener.last.clear()
        await choosing.generate(params={"workload": workload})
        trace_id = choosing.sink.entries[-1].trace_id
        assert await verified(choosing.sink, trace_id) is None
    kinds = [entry.type for entry in choosing.sink.entries]
    assert kinds.count("routing_inputs") == 1, "what is the same is written once"
    (route,) = [e for e in choosing.sink.entries if e.trace_id == trace_id and e.type == "route"]
    known = route.data["premises"]["profiles"]
    assert [*known[0]["task_stats"]] == ["generate"], "nothing that does not count"


async def test_a_changed_weight_of_the_router_is_found(
    choosing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await choosing.generate(intent={"prefer_fast": True})
    changed = {**scores.MODES, "auto": scores.Weights(0.44, 0.41, 0.15)}
    monkeypatch.setattr(scores, "MODES", changed)
    differs(await verified(choosing.sink), "route")


async def test_what_is_known_now_does_not_matter(choosing: Any) -> None:
    await choosing.generate()
    choosing.registry.unregister("test/three:a")
    choosing.engine.retry_policy = RetryPolicy(max_retries=0)
    assert await verified(choosing.sink) is None


async def test_a_new_model_and_a_new_configuration_are_written_anew(choosing: Any) -> None:
    await choosing.generate()
    choosing.registry.register(scripted_model("test/five:a", []))
    choosing.listener.last.clear()
    await choosing.generate()
    inputs = [e.data for e in choosing.sink.entries if e.type == "routing_inputs"]
    assert len({each["hash"] for each in inputs}) == len(inputs) == 2
    assert len(inputs[1]["models"]) == len(inputs[0]["models"]) + 1
    assert await verified(choosing.sink, choosing.sink.entries[-1].trace_id) is None


@pytest.mark.parametrize("home", ["deterministic", "round_robin", "first_healthy"])
async def test_a_way_through_a_pool_is_gone_again(world: Any, play: Any, home: Any) -> None:
    world.registry.register(scripted_model("test/three:a", []))
    members = [PoolMember(model_id=f"test/{name}:a") for name in ("one", "three")]
    config = RoutingConfig(pools={"p": PoolSpec(members=members, home=home)})
    inputs = world.engine.routing._inputs._replace(config=lambda: config)
    world.engine.routing = type(world.engine.routing)(
        world.registry, world.engine.backend_of, world.engine.breakers, world.clock, inputs
    )
    traces: list[str | None] = []
    for number, failure in enumerate([None, REFUSED, None, BUSY, None, None]):
        world.backend.play = play(*TEXT) if failure is None else failing(failure)
        for conversation in ("a", "b"):
            world.listener.last.clear()
            asked = {"model": "pool/p", "conversation_id": f"{conversation}{number % 2}"}
            await asyncio.gather(world.generate(**asked), return_exceptions=True)
            traces.append(world.sink.entries[-1].trace_id)
    for trace_id in traces:
        story = await world.sink.story(trace_id)
        if any(event.type == "route" for event in story):
            assert await verified(world.sink, trace_id) is None


def failing(failure: CarError) -> Any:
    async def play(call: Any) -> Any:
        if call.attempt == 1:
            raise failure
        yield TextDelta(text="ok")

    return play
