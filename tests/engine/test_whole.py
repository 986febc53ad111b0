"""Vectors, scores and verdicts survive what answers survive: retries, fallbacks, breakers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from car_rpc.engine import judging
from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.ports import EmbeddingBatch
from car_rpc.errors import CarError
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import scripted_model
from car_rpc.wire.events import TextDelta
from car_rpc.wire.inference import EmbedParams, EmbedResult
from car_rpc.wire.models import Capability, ModelSchema
from car_rpc.wire.tasks import ClassifyParams, RerankParams

ORIGIN = Origin(1, "embed", b"{}")
DOWN, BUSY = CarError("provider_error", "down"), CarError("rate_limited", "slow down")

Registered = Callable[..., Any]


class Script:
    """What a backend's calls come to, by model, one after the other; then they succeed."""

    def __init__(self, world: Any, **failures: list[BaseException]) -> None:
        self.failures = failures
        self.asked: list[str] = []
        world.backend.embed = self.embed
        world.backend.rank = self.rank

    def step(self, model: ModelSchema) -> None:
        self.asked.append(model.id)
        left = self.failures.get(model.id.partition("/")[0])
        if left:
            raise left.pop(0)

    async def embed(self, model: ModelSchema, texts: Sequence[str]) -> EmbeddingBatch:
        self.step(model)
        return EmbeddingBatch(bytes(8 * len(texts)), 2, len(texts))

    async def rank(
        self, model: ModelSchema, query: str, documents: Sequence[str], instruction: str
    ) -> list[float]:
        self.step(model)
        return [1.0 for _ in documents]


@pytest.fixture
def registered(world: Any, tmp_path: Any) -> Registered:
    """Makes the world's engine know exactly these models."""

    def register(capability: Capability, *ids: str) -> Any:
        models = [scripted_model(each, [], ["generate", capability]) for each in ids]
        registry = Registry(models, ModelStore(tmp_path / "others.db"), tmp_path)
        world.engine = Engine(registry, lambda _: world.backend, world.sink, world.clock, world.ids)
        return world

    return register


def embedded(world: Any, **fields: Any) -> Awaitable[EmbedResult]:
    return world.engine.embed(EmbedParams(texts=["a"], **fields), ORIGIN)


def story(world: Any) -> list[str]:
    """The events of the log, with the model that each names."""
    return [f"{entry.type} {entry.data.get('model', '')}".strip() for entry in world.sink.entries]


async def test_what_fails_in_passing_is_tried_again_after_the_contracts_waits(
    registered: Registered,
) -> None:
    world = registered("embed", "acme/small:1")
    script = Script(world, acme=[DOWN, BUSY])
    assert (await embedded(world)).model_used == "acme/small:1"
    assert world.clock.slept_ms == [500, 1000]
    assert len(script.asked) == 3
    assert story(world) == [
        "request",
        "route acme/small:1",
        *["attempt acme/small:1"] * 3,
        "usage",
        "completion",
    ]
    attempts = [entry for entry in world.sink.entries if entry.type == "attempt"]
    assert [entry.data.get("reason") for entry in attempts] == [
        None,
        "retry: provider_error",
        "retry: rate_limited",
    ]


async def test_the_last_failure_is_the_one_answer_and_names_its_model_and_trace(
    registered: Registered,
) -> None:
    world = registered("embed", "acme/small:1")
    Script(world, acme=[DOWN, DOWN, BUSY])
    with pytest.raises(CarError) as caught:
        await embedded(world)
    assert caught.value.kind == "rate_limited"
    assert caught.value.data["model"] == "acme/small:1"
    assert caught.value.data["trace_id"] == "tr_1"
    assert story(world)[-1] == "completion"


async def test_the_same_model_elsewhere_embeds_instead_and_another_one_never(
    registered: Registered,
) -> None:
    world = registered("embed", "acme/small:1", "cloud/small:q8", "acme/zother:1")
    script = Script(world, acme=[CarError("unauthorized", "no")])
    assert (await embedded(world)).model_used == "cloud/small:q8"
    assert story(world)[2:5] == [
        "attempt acme/small:1",
        "fallback acme/small:1",
        "attempt cloud/small:q8",
    ]
    script.failures = {"acme": [CarError("unauthorized")], "cloud": [CarError("unauthorized")]}
    with pytest.raises(CarError, match="unauthorized"):
        await embedded(world)
    assert "acme/zother:1" not in script.asked, "its vectors would not go with the others"


async def test_a_model_that_was_asked_for_has_no_other_in_its_place(
    registered: Registered,
) -> None:
    world = registered("embed", "acme/small:1", "cloud/small:q8")
    script = Script(world, cloud=[CarError("unauthorized", "no")])
    with pytest.raises(CarError, match="unauthorized"):
        await embedded(world, model="cloud/small:q8")
    assert script.asked == ["cloud/small:q8"]


async def test_a_model_that_keeps_failing_is_left_alone(registered: Registered) -> None:
    world = registered("embed", "acme/small:1", "cloud/small:q8")
    script = Script(world, acme=[DOWN] * 5)
    for _ in range(2):
        assert (await embedded(world)).model_used == "cloud/small:q8"
    assert script.asked.count("acme/small:1") == 5
    script.asked.clear()
    await embedded(world)
    assert script.asked == ["cloud/small:q8"], "its breaker is open"
    with pytest.raises(CarError) as caught:
        await embedded(world, model="acme/small:1")
    assert caught.value.message == "all models unavailable (circuit breakers open)"
    assert 0 < caught.value.data["retry_after_ms"] <= 30_000


async def test_a_long_wait_is_not_taken_while_another_model_is_left(
    registered: Registered,
) -> None:
    world = registered("rerank", "acme/one:1", "cloud/two:1")
    world.backend.judges = lambda _: True
    script = Script(world, acme=[CarError("rate_limited", "slow down", retry_after_ms=3000)])
    params = RerankParams(query="q", documents=["a"])
    result = await judging.rerank(world.engine, params, ORIGIN)
    assert (result.model_used, world.clock.slept_ms) == ("cloud/two:1", [])
    assert script.asked == ["acme/one:1", "cloud/two:1"]


async def test_a_cancelled_request_ends_at_once_and_frees_the_breakers_probe(
    registered: Registered,
) -> None:
    world = registered("embed", "acme/small:1")
    never = asyncio.Event()

    async def embed(*_: Any) -> EmbeddingBatch:
        await never.wait()
        raise AssertionError

    world.backend.embed = embed
    task = asyncio.ensure_future(embedded(world))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(CarError) as caught:
        await task
    assert caught.value.kind == "cancelled"
    assert world.engine.breakers.of("acme/small:1").available(0)


async def test_all_documents_are_judged_by_the_same_model_also_after_a_fallback(
    registered: Registered,
) -> None:
    world = registered("rerank", "acme/one:1", "cloud/two:1")
    asked: list[tuple[str, str]] = []

    async def play(call: Any) -> Any:
        text = str(call.request.messages[1].content)
        asked.append((call.model.id, text[-1]))
        if call.model.id == "acme/one:1" and text.endswith("b"):
            raise CarError("rate_limited", "slow down", retry_after_ms=3000)
        yield TextDelta(text="yes" if text.endswith("c") else "no")

    world.backend.play = play
    params = RerankParams(query="q", documents=["a", "b", "c"])
    result = await judging.rerank(world.engine, params, ORIGIN)
    assert result.model_used == "cloud/two:1"
    assert result.ranked[0].index == 2
    assert [letter for model, letter in asked if model == "cloud/two:1"] == ["a", "b", "c"]
    assert world.clock.slept_ms == []


async def test_who_cannot_tell_likelihoods_is_followed_by_one_who_can(
    registered: Registered,
) -> None:
    world = registered("classify", "acme/one:1", "cloud/two:1")
    world.backend.judges = lambda model: model.id == "cloud/two:1"

    async def score(*_: Any) -> list[float]:
        return [-1.0]

    world.backend.score = score
    params = ClassifyParams(text="t", labels=["a"], method="likelihood")
    result = await judging.classify(world.engine, params, ORIGIN)
    assert (result.model_used, result.method) == ("cloud/two:1", "likelihood")


async def test_a_refusal_is_the_answer_and_no_other_model_is_asked(
    registered: Registered,
) -> None:
    world = registered("classify", "acme/one:1", "cloud/two:1")
    asked: list[str] = []

    async def play(call: Any) -> Any:
        asked.append(call.model.id)
        raise CarError("content_filtered", "no")
        yield

    world.backend.play = play
    with pytest.raises(CarError, match="content filtered"):
        await judging.classify(world.engine, ClassifyParams(text="t", labels=["a"]), ORIGIN)
    assert asked == ["acme/one:1"]
