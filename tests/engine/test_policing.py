"""Policies over one request: which models they leave, and within which bounds."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.engine.generation import Origin
from car_rpc.engine.ports import GenerateCall
from car_rpc.engine.spending import Spending
from car_rpc.errors import CarError
from car_rpc.eventlog.story import problems
from car_rpc.policy.rules import Rules
from car_rpc.spend.budget import Budget
from car_rpc.spend.store import SpendStore
from car_rpc.wire.events import ReasoningDelta, Stop, StreamEvent, TextDelta, UsageEvent
from car_rpc.wire.inference import EmbedParams
from car_rpc.wire.models import Cost, ModelSchema
from car_rpc.wire.policy import PolicyRule

HALF = "The quick brown fox jumps over the lazy dog"
FULL = Stop(reason="max_tokens")
BROKEN = CarError("stream_interrupted", "unexpected_eof")

Police = Callable[..., None]


@pytest.fixture
def police(world: Any) -> Police:
    """Sets rules; each is an action with the rest of it."""

    def choose(*rules: dict[str, Any]) -> None:
        named = [{"id": f"r{number}", **rule} for number, rule in enumerate(rules)]
        made = Rules(msgspec.convert(named, list[PolicyRule]))
        world.engine.policing.rules = lambda: made

    return choose


def answers(world: Any, *scripts: list[StreamEvent | CarError]) -> None:
    """Lets the backend give one answer for each attempt; the last one for all others."""

    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        for event in scripts[min(call.attempt, len(scripts)) - 1]:
            await asyncio.sleep(0)
            if isinstance(event, CarError):
                raise event
            yield event

    world.backend.play = play


def asked_tokens(world: Any) -> list[object]:
    return [call.request.params.max_tokens for call in world.backend.calls]


def decisions(world: Any) -> list[tuple[str, str]]:
    data = [entry.data for entry in world.sink.entries if entry.type == "policy"]
    return [(each["rule_id"], each["decision"]) for each in data]


def other(world: Any, **fields: Any) -> str:
    """Another model that can answer, elsewhere."""
    source = {"type": "openai_compat", "endpoint": "https://api.example.com", "model": "m"}
    model = {"id": "acme/dear:1", "source": source, "capabilities": ["generate"], **fields}
    world.registry.register(msgspec.convert(model, ModelSchema))
    return "acme/dear:1"


# Which models


async def test_no_fallback_goes_to_a_model_that_is_refused(world: Any, police: Police) -> None:
    other(world)
    police({"action": "deny", "match": {"models": ["acme/*"]}})
    answers(world, [CarError("provider_error", "down")])
    error = await world.failure()
    assert error.kind == "provider_error"
    assert {call.model.id for call in world.backend.calls} == {"test/one:a"}
    route = next(entry.data for entry in world.sink.entries if entry.type == "route")
    reasons = {each.model_id: each.why_not for each in route["candidates"]}
    assert reasons["acme/dear:1"] == "rule 'r0' refuses acme/dear:1"


async def test_what_must_be_local_is_never_sent_elsewhere(world: Any, police: Police) -> None:
    away = other(world)
    police({"action": "require_local", "match": {"methods": ["generate"]}})
    assert (await world.generate()).model_used == "test/one:a"
    world.listener.last.clear()
    error = await world.failure(model=away)
    assert (error.kind, error.extra["action"]) == ("policy_denied", "require_local")
    assert {call.model.id for call in world.backend.calls} == {"test/one:a"}


async def test_a_refusal_is_final_and_told_in_the_story(world: Any, police: Police) -> None:
    police({"action": "deny", "match": {"models": ["test/*"]}, "reason": "not today"})
    error = await world.failure()
    assert error.extra["reason"] == "not today"
    assert world.backend.calls == []
    assert world.sink.types == ["request", "policy", "completion"]
    assert not list(problems(await world.sink.story(error.extra["trace_id"])))


async def test_a_rule_that_allows_is_told_once(world: Any, police: Police) -> None:
    police({"action": "allow", "match": {"models": ["test/*"]}}, {"action": "deny"})
    answers(world, [CarError("overloaded", "wait")], [TextDelta(text="hi")])
    await world.generate()
    assert len(world.backend.calls) == 2
    assert decisions(world) == [("r0", "allowed")]


async def test_embed_asks_the_rules_too(world: Any, police: Police) -> None:
    police({"action": "deny", "match": {"methods": ["embed"]}})
    with pytest.raises(CarError) as caught:
        await world.engine.embed(EmbedParams(texts=["x"]), Origin(1, "embed", b"{}"))
    assert caught.value.kind == "policy_denied"
    assert world.backend.embedded == []
    assert decisions(world) == [("r0", "denied")]


async def test_a_refused_probe_leaves_the_breaker_as_it_was(world: Any, police: Police) -> None:
    police({"action": "require_approval"})
    for _ in range(7):
        assert (await world.failure()).kind == "policy_denied"
        world.listener.last.clear()
    police()
    answers(world, [TextDelta(text="hi")])
    assert (await world.generate()).text == "hi"


# Tokens


@pytest.mark.parametrize(
    ("params", "told"), [({}, 40), ({"max_tokens": 100}, 40), ({"max_tokens": 7}, 7)]
)
async def test_a_model_is_asked_for_no_more_tokens_than_a_cap(
    world: Any, police: Police, params: dict[str, int], told: int
) -> None:
    police({"action": "cap", "max_tokens": 40})
    answers(world, [TextDelta(text="hi")])
    await world.generate(params=params)
    assert asked_tokens(world) == [told]
    assert msgspec.json.decode(world.backend.calls[0].raw_request)["params"]["max_tokens"] == told
    assert decisions(world) == [("r0", "capped")] * (told == 40)


@pytest.mark.parametrize(("usage", "asked"), [(25, [40, 15]), (None, [40])])
async def test_continuations_share_the_cap_and_what_nobody_counts_is_all_of_it(
    world: Any, police: Police, usage: int | None, asked: list[int]
) -> None:
    police({"action": "cap", "max_tokens": 40})
    counted = [] if usage is None else [UsageEvent(completion_tokens=usage)]
    answers(world, [TextDelta(text=HALF), *counted, FULL])
    result = await world.generate(max_tokens_continuations=9)
    assert asked_tokens(world) == asked
    assert result.stop_reason == "max_tokens"


async def test_thinking_again_is_not_asked_for_where_no_token_is_left(
    world: Any, police: Police
) -> None:
    police({"action": "cap", "max_tokens": 40})
    answers(world, [ReasoningDelta(text="hm"), FULL])
    await world.generate(thinking_recovery=True)
    assert asked_tokens(world) == [40]


async def test_a_broken_answer_goes_on_with_the_tokens_that_are_left(
    world: Any, police: Police
) -> None:
    police({"action": "cap", "max_tokens": 40})
    answers(
        world,
        [TextDelta(text=HALF), UsageEvent(completion_tokens=30), BROKEN],
        [TextDelta(text=HALF + "."), UsageEvent(completion_tokens=9)],
    )
    assert (await world.generate()).text == HALF + "."
    assert asked_tokens(world) == [40, 10]


async def test_a_broken_answer_without_tokens_left_ends(world: Any, police: Police) -> None:
    police({"action": "cap", "max_tokens": 40})
    answers(world, [TextDelta(text=HALF), BROKEN])
    error = await world.failure()
    assert error.kind == "policy_denied"
    assert "all its tokens are used up" in error.extra["reason"]
    assert asked_tokens(world) == [40]


# Money

PRICE = Cost(input_per_mtok_usd=1, output_per_mtok_usd=10)


@pytest.mark.parametrize(
    ("cost", "cap", "said"),
    [
        (PRICE, 0.0001, "it may cost $0.000105, and a request may cost $0.0001"),
        (Cost(), 1.0, "its price is not known"),
    ],
)
async def test_a_model_that_may_cost_more_than_a_cap_is_no_candidate(
    world: Any, police: Police, cost: Cost, cap: float, said: str
) -> None:
    dear = other(world, cost=msgspec.to_builtins(cost))
    police({"action": "cap", "max_cost_usd": cap})
    error = await world.failure(model=dear, params={"max_tokens": 10})
    assert said in error.extra["reason"]
    world.listener.last.clear()
    assert (await world.generate()).model_used == "test/one:a", "what is local costs nothing"
    assert len(world.backend.calls) == 1


async def test_attempts_together_keep_to_the_cap(
    world: Any, police: Police, tmp_path: Path
) -> None:
    """The second one would exceed it, as the first one is charged."""
    budget = Budget(SpendStore(tmp_path / "car.db"), lambda: datetime(2026, 1, 30, tzinfo=UTC))
    world.engine.metering._spending = Spending(budget)
    dear = other(world, cost=msgspec.to_builtins(PRICE))
    police({"action": "cap", "max_cost_usd": 0.00015})
    answers(world, [TextDelta(text=HALF), BROKEN])
    error = await world.failure(model=dear, params={"max_tokens": 10})
    budget.close()
    assert (error.kind, error.extra["rule_id"]) == ("policy_denied", "r0")
    assert len(world.backend.calls) == 1


# Time


async def test_time_runs_out_by_a_rule_as_by_a_request_s_own_limit(
    world: Any, police: Police
) -> None:
    police({"action": "cap", "max_time_ms": 20})

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="so far")
        await asyncio.Event().wait()

    world.backend.play = play
    error = await world.failure(timeout_ms=60_000)
    assert (error.kind, error.extra["rule_id"]) == ("timeout", "r0")
    assert error.detail == "rule 'r0' allows a request 20 ms"
    assert world.backend.closed == 1
    assert world.backend.calls[0].deadline_ms == 20
    assert decisions(world) == [("r0", "capped")]


async def test_the_nearer_of_two_limits_of_time_counts(world: Any, police: Police) -> None:
    police({"action": "cap", "max_time_ms": 60_000})
    answers(world, [TextDelta(text="hi")])
    await world.generate(timeout_ms=5000)
    world.listener.last.clear()
    await world.generate(timeout_ms=90_000)
    assert [call.deadline_ms for call in world.backend.calls] == [5000, 60_000]
