"""The router amid the engine: what is known now decides, and the log tells why."""

from typing import Any

import msgspec
import pytest

from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.routing import MAX_LOGGED_CANDIDATES, PreferredModels, RoutingInputs
from car_rpc.errors import CarError
from car_rpc.testing import scripted_model
from car_rpc.wire.events import TextDelta
from car_rpc.wire.inference import EmbedParams, GenerateRequest
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema
from car_rpc.wire.outcomes import ModelProfile, TaskStats
from car_rpc.wire.routing import PoolMember, PoolSpec, PoolSwitch, RouteDecision, RoutingConfig

BUSY = CarError("rate_limited", "slow down", retry_after_ms=3000)


class Engines:
    """Engines on the world's registry, with more models and other inputs."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.trace_ids = 0

    def register(self, *ids: str, capabilities: Any = ("generate",)) -> None:
        for model_id in ids:
            self.world.registry.register(scripted_model(model_id, [], capabilities))

    def use(self, **inputs: Any) -> None:
        """From now on the world's engine has these inputs."""
        self.world.engine = Engine(
            self.world.registry,
            lambda _: self.world.backend,
            self.world.sink,
            self.world.clock,
            self,
            routing_inputs=RoutingInputs(**inputs),
        )

    def new(self, prefix: str) -> str:
        self.trace_ids += 1
        return f"{prefix}{self.trace_ids}"

    def decided(self, **fields: Any) -> RouteDecision:
        request = msgspec.convert({"prompt": "hi", **fields}, GenerateRequest)
        return self.world.engine.explained(request)


@pytest.fixture
def engines(world: Any) -> Engines:
    engines = Engines(world)
    engines.use()
    return engines


def observed(model_id: str, quality: float, calls: int = 20) -> ModelProfile:
    stats = TaskStats(calls=calls, success_count=calls, ema_quality=quality)
    return ModelProfile(model_id=model_id, total_calls=calls, task_stats={"generate": stats})


def test_explicit_goes_before_preferred_and_preferred_before_the_router(engines: Engines) -> None:
    engines.register("me/liked:a", "me/asked:a")
    assert engines.decided().model_id == "me/asked:a"
    engines.use(preferred=PreferredModels(generation="liked"))
    liked = engines.decided(intent={"require": ["vision"]})
    assert (liked.model_id, liked.strategy) == ("me/liked:a", "explicit")
    assert liked.reason == "preferred generation model override"
    asked = engines.decided(model="me/asked:a", intent={"exclude_models": ["asked"]})
    assert (asked.model_id, asked.reason) == ("me/asked:a", "explicit model")
    assert (asked.predicted_quality, asked.fallbacks) == (0.5, [])


async def test_a_preferred_model_that_is_not_there_is_told_from_one_that_was_asked_for(
    engines: Engines, world: Any
) -> None:
    engines.use(preferred=PreferredModels(generation="nobody", embedding="nobody"))
    with pytest.raises(CarError, match=r"'nobody'; .* `preferred` in the configuration"):
        engines.decided()
    with pytest.raises(CarError, match=r"'nobody'; .* `preferred` in the configuration"):
        await world.engine.embed(EmbedParams(texts=["a"]), Origin(1, "embed", b"{}"))
    with pytest.raises(CarError) as caught:
        engines.decided(model="nobody")
    assert "preferred" not in caught.value.message


async def test_a_preferred_model_for_embeddings_is_taken(engines: Engines, world: Any) -> None:
    engines.register("me/vectors:a", capabilities=["embed"])
    engines.use(preferred=PreferredModels(embedding="vectors"))
    result = await world.engine.embed(EmbedParams(texts=["a"]), Origin(1, "embed", b"{}"))
    assert result.model_used == "me/vectors:a"


def test_what_is_known_of_models_decides(engines: Engines) -> None:
    engines.register("me/a:1", "me/b:1")
    engines.use(profiles=lambda: {"me/b:1": observed("me/b:1", 0.95)})
    decision = engines.decided()
    assert (decision.model_id, decision.strategy) == ("me/b:1", "profile_based")
    engines.use(fits=lambda model: model.id != "me/a:1")
    reasons = {each.model_id: each.why_not for each in engines.decided().candidates}
    assert reasons["me/a:1"] == "does not fit in memory"


async def test_a_model_whose_breaker_is_open_is_passed_over(engines: Engines, world: Any) -> None:
    engines.register("me/a:1")
    breaker = world.engine.breakers.of("me/a:1")
    for _ in range(5):
        breaker.admit(0).failed(CarError("provider_error"), 0)
    decision = engines.decided()
    assert decision.model_id == "test/one:a"
    assert decision.candidates[-1].why_not == "circuit breaker open"
    world.clock.advance(30_000)
    assert engines.decided().model_id == "me/a:1"


async def test_a_request_runs_as_it_was_explained_and_the_log_says_why(
    engines: Engines, world: Any, play: Any
) -> None:
    engines.register(*(f"me/m{n:02}:a" for n in range(MAX_LOGGED_CANDIDATES)))
    world.backend.play = play(TextDelta(text="x"))
    explained = engines.decided()
    result = await world.generate()
    route = next(entry.data for entry in world.sink.entries if entry.type == "route")
    assert result.model_used == explained.model_id == route["model"]
    assert (route["strategy"], route["propensity"]) == ("schema_based", 1.0)
    assert route["candidates"] == explained.candidates[:MAX_LOGGED_CANDIDATES]
    assert len(explained.candidates) == MAX_LOGGED_CANDIDATES + 1


def test_an_explanation_runs_and_records_nothing(engines: Engines, world: Any) -> None:
    engines.decided()
    assert (world.backend.calls, world.sink.entries) == ([], [])
    with pytest.raises(CarError, match="prompt"):
        world.engine.explained(GenerateRequest())


def test_background_work_explores_by_the_trace_and_people_do_not_wait_for_it(
    engines: Engines,
) -> None:
    engines.register("me/a:1", "me/b:1")
    chosen = {engines.decided(params={"workload": "background"}).model_id for _ in range(30)}
    assert len(chosen) > 1
    assert {engines.decided().model_id for _ in range(30)} == {"me/a:1"}


def pooled(engines: Engines, **fields: Any) -> RoutingConfig:
    engines.register("me/a:1", "me/b:1")
    members = [PoolMember(model_id=each) for each in ("me/a:1", "me/b:1")]
    spec = PoolSpec(**{"members": members, "home": "first_healthy", **fields})
    config = RoutingConfig(pools={"team": spec})
    engines.use(config=lambda: config)
    return config


def test_a_pool_is_asked_for_by_its_name(engines: Engines) -> None:
    pooled(engines)
    decision = engines.decided(model="pool/team")
    assert (decision.model_id, decision.strategy) == ("me/a:1", "pool")
    assert (decision.reason, decision.fallbacks) == ("home in the pool team", ["me/b:1"])
    words = "'pool/nobody' is no pool; there are 'team', and `routing.set_config` adds one"
    with pytest.raises(CarError, match=words) as caught:
        engines.decided(model="pool/nobody")
    assert caught.value.kind == "model_not_found"


def test_a_pool_whose_members_cannot_says_what_each_lacks(engines: Engines) -> None:
    pooled(engines)
    engines.world.registry.unregister("me/b:1")
    with pytest.raises(CarError) as caught:
        engines.decided(model="pool/team", tools=[])
    assert {each["why_not"] for each in caught.value.extra["candidates"]} == {
        "lacks tool_use",
        "not registered",
    }


async def test_a_conversation_moves_when_its_member_has_no_quota_and_stays_there(
    engines: Engines, world: Any, play: Any
) -> None:
    pooled(engines)
    parts = iter([[BUSY], [TextDelta(text="x")], [TextDelta(text="y")]])

    async def next_part(call: Any) -> Any:
        for event in next(parts):
            if isinstance(event, CarError):
                raise event
            yield event

    world.backend.play = next_part
    result = await world.generate(model="pool/team", conversation_id="talk")
    assert result.model_used == "me/b:1"
    assert [(each.model, each.outcome) for each in result.attempts] == [
        ("me/a:1", "rate_limited"),
        ("me/b:1", "success"),
    ]
    world.listener.last.clear()
    again = await world.generate(model="pool/team", conversation_id="talk")
    assert again.model_used == "me/b:1"
    assert engines.decided(model="pool/team", conversation_id="other").model_id == "me/a:1"


async def test_a_passing_failure_keeps_a_conversation_where_it_is(
    engines: Engines, world: Any
) -> None:
    pooled(engines, switch=PoolSwitch(on_quota=False))

    async def fails(_: Any) -> Any:
        raise BUSY
        yield

    world.backend.play = fails
    failure = await world.failure(model="pool/team", conversation_id="talk")
    assert (failure.kind, failure.data["model"]) == ("rate_limited", "me/a:1")
    assert {call.model.id for call in world.backend.calls} == {"me/a:1"}


async def test_conversations_take_the_homes_of_a_pool_in_turn(
    engines: Engines, world: Any, play: Any
) -> None:
    pooled(engines, home="round_robin")
    homes: list[str] = []
    for number in range(4):
        assert engines.decided(model="pool/team").model_id == f"me/{'ab'[number % 2]}:1"
        world.backend.play = play(TextDelta(text="x"))
        world.listener.last.clear()
        result = await world.generate(model="pool/team", conversation_id=f"talk {number}")
        homes.append(result.model_used)
    assert homes == ["me/a:1", "me/b:1", "me/a:1", "me/b:1"]


async def test_one_model_in_two_formats_answers_in_the_one_that_runs_best_here(
    engines: Engines, world: Any
) -> None:
    for variant, source in {
        "q8": LocalSource(path="/a.gguf"),
        "mlx": MlxSource(path="/a"),
    }.items():
        model = ModelSchema(id=f"acme/a:{variant}", source=source, capabilities=["generate"])
        world.registry.register(model)
    # A first answer that loaded the weights was slow; the other format has never been tried.
    slow = ModelProfile(model_id="acme/a:q8", total_calls=50, success_count=50)
    slow = msgspec.structs.replace(slow, total_latency_ms=50 * 60_000.0)
    engines.use(profiles=lambda: {"acme/a:q8": slow})
    decision = engines.decided(intent={"exclude_models": ["test/one:a"]})
    assert decision.model_id == "acme/a:q8"
    (other,) = (each for each in decision.candidates if each.model_id == "acme/a:mlx")
    assert other.why_not == "runs better on this machine as acme/a:q8"
    without = engines.decided(intent={"exclude_models": ["test/one:a", "acme/a:q8"]})
    assert without.model_id == "acme/a:mlx"
