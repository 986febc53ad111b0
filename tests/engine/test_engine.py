import asyncio
from typing import Any

import msgspec
import pytest

from car_rpc.engine.generation import Origin
from car_rpc.errors import CarError
from car_rpc.wire.inference import EmbedParams

ORIGIN = Origin(9, "embed", b'{"texts":["a"]}')


async def test_an_embedding_is_logged_from_request_to_completion(world: Any) -> None:
    result = await world.engine.embed(EmbedParams(texts=["a", "b"]), ORIGIN)
    assert (result.model_used, result.dimensions) == ("test/two:a", 2)
    assert result.usage.prompt_tokens == 2
    assert world.backend.embedded == ["a", "b"]
    assert world.backend.story_at_call == ["request", "route"]
    request, route, attempt, usage, completion = world.sink.entries
    assert (attempt.type, attempt.attempt, attempt.data) == ("attempt", 1, {"model": "test/two:a"})
    assert usage.data == {"prompt_tokens": 2, "completion_tokens": 0}
    assert request.data == {
        "request_id": 9,
        "method": "embed",
        "params": msgspec.Raw(ORIGIN.raw_params),
        "privacy": "redacted",
    }
    assert (route.type, route.data) == (
        "route",
        {
            "model": "test/two:a",
            "task": "embed",
            "reason": "the only available model for embed",
            "fallbacks": [],
        },
    )
    assert completion.data == {
        "outcome": "success",
        "latency_ms": 0.0,
        "result": msgspec.Raw(msgspec.json.encode(result)),
    }
    assert world.sink.committed == 5


async def test_queries_carry_their_instruction_and_documents_do_not(world: Any) -> None:
    params = EmbedParams(texts=["a"], is_query=True, instruction="Find it")
    await world.engine.embed(params, ORIGIN)
    assert world.backend.embedded == ["Instruct: Find it\nQuery: a"]
    await world.engine.embed(EmbedParams(texts=["a"], instruction="Find it"), ORIGIN)
    assert world.backend.embedded == ["a"]


async def test_texts_become_tokens_and_back_without_an_entry_in_the_log(world: Any) -> None:
    tokens = await world.engine.tokenize("test/one:a", "hé")
    assert await world.engine.detokenize("one", tokens) == "hé"
    assert world.sink.entries == []


async def test_recorded_work_that_fails_is_recorded_as_failed(world: Any) -> None:
    async def work() -> None:
        world.clock.advance(12.3456)
        raise CarError("not_found", "it")

    with pytest.raises(CarError) as caught:
        await world.engine.recorded(ORIGIN, work)
    assert caught.value.data == {"kind": "not_found", "retryable": False, "trace_id": "tr_1"}
    assert world.sink.entries[-1].data["error"]["data"] == caught.value.data
    assert world.sink.entries[-1].data["latency_ms"] == 12.346


async def test_recorded_work_that_raises_something_foreign_is_internal(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        raise ValueError("secret")

    with pytest.raises(CarError) as caught:
        await world.engine.recorded(ORIGIN, work)
    assert caught.value.kind == "internal"
    assert "secret" not in f"{caught.value} {world.sink.entries}"
    assert "secret" in caplog.text


async def test_recorded_work_that_is_cancelled_is_recorded_so(world: Any) -> None:
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(world.engine.recorded(ORIGIN, work))
    async with asyncio.timeout(5):
        await started.wait()
        task.cancel()
        world.engine.cancel_requested("nobody")
        with pytest.raises(CarError) as caught:
            await task
    assert caught.value.kind == "cancelled"
    assert world.sink.committed_types == ["request", "cancel_observed", "completion"]


async def test_a_log_that_fails_does_not_hide_why_recorded_work_failed(world: Any) -> None:
    async def work() -> None:
        world.sink.failure = CarError("io_error", "full")
        raise CarError("conflict", "built in")

    with pytest.raises(CarError) as caught:
        await world.engine.recorded(ORIGIN, work)
    assert caught.value.kind == "conflict"


def test_a_model_is_described_as_its_backend_sees_it_now(world: Any) -> None:
    model = world.registry.find("test/one:a")
    assert not model.available
    assert world.engine.described(model).available
    world.backend.available = False
    described = world.engine.described(model)
    assert (described.available, described.weights_ready) == (False, True)


async def test_a_request_refused_before_it_ran_is_recorded_with_its_reason(world: Any) -> None:
    error = CarError("policy_denied", "outside", path="/x")
    refused = await world.engine.refused(ORIGIN, error)
    assert (refused.kind, refused.data["trace_id"]) == ("policy_denied", "tr_1")
    request, completion = world.sink.entries
    assert request.data["params"] == msgspec.Raw(ORIGIN.raw_params)
    assert completion.data["kind"] == "policy_denied"
    assert world.sink.committed == 2


async def test_of_a_private_request_that_was_refused_only_sizes_are_kept(world: Any) -> None:
    error = CarError("policy_denied", "secret", path="/secret")
    await world.engine.refused(ORIGIN, error, "metadata")
    assert world.sink.entries[0].data["params"] == {"bytes": len(ORIGIN.raw_params)}
    assert "secret" not in str(world.sink.entries)
