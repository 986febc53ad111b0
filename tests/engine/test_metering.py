"""What is learned of models from the ends of their attempts."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from car_rpc.engine import judging
from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.metering import Work
from car_rpc.engine.ports import GenerateCall
from car_rpc.engine.privacy import Privacy
from car_rpc.engine.recording import Recorder
from car_rpc.engine.routing import Choice
from car_rpc.engine.spending import Bill
from car_rpc.errors import CarError
from car_rpc.outcomes.profiles import AttemptEnd
from car_rpc.outcomes.signals import Sign
from car_rpc.wire.events import ErrorEvent, StreamEvent, TextDelta, UsageEvent
from car_rpc.wire.inference import EmbedParams
from car_rpc.wire.tasks import ClassifyParams, RerankParams


class Ends:
    """Keeps the ends of attempts."""

    def __init__(self) -> None:
        self.seen: list[AttemptEnd] = []
        self.signs: list[Sign] = []

    def attempt_ended(self, end: AttemptEnd) -> None:
        self.seen.append(end)

    def implied(self, sign: Sign) -> None:
        self.signs.append(sign)


@pytest.fixture
def ends(world: Any) -> Ends:
    outcomes = Ends()
    old = world.engine
    world.engine = Engine(
        world.registry, lambda _: world.backend, world.sink, world.clock, old._ids,
        outcomes=outcomes,
    )  # fmt: skip
    return outcomes


async def test_a_request_that_is_sent_again_speaks_against_the_answer_before_it(
    world: Any, ends: Ends, play: Any
) -> None:
    world.backend.play = play(TextDelta(text="x"))
    for conversation in ("talk", "other", "talk"):
        world.listener.last.clear()
        await world.generate(model="one", conversation_id=conversation)
    assert ends.signs == [Sign("tr_1", 0.25)]
    world.backend.play = play()
    world.listener.last.clear()
    await world.generate(model="one")
    assert len(ends.signs) == 1, "who names no conversation says nothing"


async def test_an_answer_is_told_with_its_times_and_tokens(world: Any, ends: Ends) -> None:
    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        world.clock.advance(30)
        yield TextDelta(text="hi")
        world.clock.advance(70)
        yield UsageEvent(prompt_tokens=4)
        yield UsageEvent(prompt_tokens=5, completion_tokens=2)
        yield UsageEvent(completion_tokens=1)  # counts never go down

    world.backend.play = play
    result = await world.generate()
    assert ends.seen == [
        AttemptEnd(
            trace_id=result.trace_id,
            attempt=1,
            model_id="test/one:a",
            task="generate",
            outcome="success",
            latency_ms=100,
            ttft_ms=30,
            input_tokens=5,
            output_tokens=2,
            cost_nano_usd=0,
        )
    ]


async def test_each_attempt_is_told_with_its_own_tokens(world: Any, ends: Ends) -> None:
    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        await asyncio.sleep(0)
        if call.attempt == 1:
            yield UsageEvent(prompt_tokens=9)
            raise CarError("provider_error", "busy")
        yield TextDelta(text="hi")

    world.backend.play = play
    await world.generate()
    told = [(end.attempt, end.outcome, end.input_tokens, end.ttft_ms) for end in ends.seen]
    assert told == [(1, "provider_error", 9, None), (2, "success", None, 0)]


async def test_a_cancel_is_told_as_one(world: Any, ends: Ends) -> None:
    begun = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="hi")
        begun.set()
        await asyncio.Event().wait()

    world.backend.play = play
    task = asyncio.ensure_future(world.generate())
    await begun.wait()
    task.cancel()
    with pytest.raises(CarError):
        await task
    assert [end.outcome for end in ends.seen] == ["cancelled"]


async def test_a_model_that_used_up_the_time_has_failed_and_one_that_nobody_read_has_not(
    world: Any, ends: Ends
) -> None:
    async def stopped() -> None:
        raise asyncio.CancelledError

    work = Work(world.registry.find("one"), "generate", "tr_1", deadline_ms=10)
    recorder = Recorder(world.sink, world.clock, "tr_1", privacy=Privacy())
    for ms in (9, 1, 0):
        world.clock.advance(ms)
        with pytest.raises(asyncio.CancelledError):
            async with world.engine.metering.attempt(work, Bill(), recorder) as meter:
                await (stopped() if ms else meter.sent(stopped()))
    assert [end.outcome for end in ends.seen] == ["cancelled", "timeout", "cancelled"]


async def test_an_error_event_is_the_models_failure(world: Any, ends: Ends, play: Any) -> None:
    world.backend.play = play(ErrorEvent(kind="inference_failed", message="no"))
    assert (await world.failure()).kind == "inference_failed"
    assert [end.outcome for end in ends.seen] == ["inference_failed"]


async def test_a_key_that_fails_is_not_the_models_failure(world: Any, ends: Ends) -> None:
    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        await asyncio.sleep(0)
        if call.attempt == 1:
            raise CarError("rate_limited", "this key", another_key=True)
        yield TextDelta(text="hi")

    world.backend.play = play
    await world.generate()
    assert [(end.attempt, end.outcome) for end in ends.seen] == [(2, "success")]


async def test_embeddings_are_a_task_of_their_own(world: Any, ends: Ends) -> None:
    params = msgspec.convert({"texts": ["a", "b"], "model": "two"}, EmbedParams)
    await world.engine.embed(params, Origin(1, "embed", b"{}"))
    (end,) = ends.seen
    assert (end.model_id, end.task, end.outcome) == ("test/two:a", "embed", "success")
    assert (end.input_tokens, end.output_tokens, end.trace_id) == (2, 0, "tr_1")


async def test_what_judges_by_probabilities_is_metered_by_its_task(
    world: Any, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def score(*_: Any) -> list[float]:
        return [-1.0]

    monkeypatch.setattr(world.backend, "judges", lambda _: True)
    monkeypatch.setattr(world.backend, "score", score)
    monkeypatch.setattr(world.backend, "rank", score)
    chosen = Choice([world.registry.find("one")], "the only one")
    monkeypatch.setattr(world.engine.routing, "choice", lambda *_: chosen)
    origin = Origin(1, "classify", b"{}")
    await judging.classify(world.engine, ClassifyParams(text="x", labels=["y"]), origin)
    await judging.rerank(world.engine, RerankParams(query="x", documents=["y"]), origin)
    assert [(end.task, end.outcome) for end in ends.seen] == [
        ("classify", "success"),
        ("rerank", "success"),
    ]
