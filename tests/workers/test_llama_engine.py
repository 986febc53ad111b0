"""What only the llama.cpp engine does, inside this process."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from car_rpc.wire.worker import Failed, Load
from car_rpc.workers.job import Job
from tests.workers.test_engines import Asked, chat, run

pytest.importorskip("llama_cpp")

from car_rpc.workers.llama_cpp.context import Context, Row
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.native import lib
from tests.workers.test_llama_prefix import shared

pytestmark = pytest.mark.llama


@pytest.fixture(scope="module")
def engine(model_file: Callable[..., Path]) -> LlamaEngine:
    engine = LlamaEngine()
    engine.load(Load(path=str(model_file())), lambda _: None)
    return engine


def test_cancelling_ends_a_batch_in_the_middle(engine: LlamaEngine) -> None:
    (expected,) = run(engine, chat())
    asked = Asked(engine, chat("a" * 480))
    asked.job.cancel()
    assert engine._generators is not None
    generator = engine._generators.long
    generator._admit()
    generator._read_prompts()
    assert not generator._active
    assert asked.answer == Failed(id=1, kind="cancelled", detail="")
    assert run(engine, chat())[0].events == expected.events


def test_a_batch_is_computed_by_as_many_threads_as_there_is_room_for(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._generators is not None
    context = engine._generators.long._context
    (expected,) = run(engine, chat("a" * 300))
    for count in (2, 1):
        monkeypatch.setattr(context._threads, "count", lambda count=count: count)
        (asked,) = run(engine, chat("a" * 300))
        assert lib.llama_n_threads(context.handle) == count
        assert lib.llama_n_threads_batch(context.handle) == count
        assert asked.events == expected.events


def test_answers_are_computed_in_the_order_of_their_sequences(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[int]] = []
    decode = Context.decode

    def note(context: Context, rows: Sequence[Row], owner: Job | None = None) -> None:
        orders.append([row.sequence for row in rows])
        decode(context, rows, owner)

    engine.reset()
    prompts = ["a", "b", "c"]
    for prompt in prompts:  # each is remembered in a sequence of its own
        run(engine, shared(prompt))
    monkeypatch.setattr(Context, "decode", note)
    run(engine, *(shared(prompt, max_tokens=8) for prompt in reversed(prompts)))
    assert [0, 1, 2] in orders
    assert all(order == sorted(order) for order in orders)


@pytest.mark.parametrize(("length", "read_at_once"), [(60, 3), (200, 1)])
def test_prompts_are_read_in_one_step_as_long_as_they_are_no_more_than_a_chunk(
    engine: LlamaEngine, length: int, read_at_once: int
) -> None:
    engine.reset()
    asked = [Asked(engine, chat(letter * length, max_tokens=300)) for letter in "abc"]
    engine.step()
    assert sum(bool(each.events) for each in asked) == read_at_once
    engine.reset()


def test_what_is_computed_begins_where_a_line_of_the_cache_does(engine: LlamaEngine) -> None:
    run(engine, chat())
    generators = engine._generators
    assert generators is not None
    assert generators.short is not None
    for generator in (generators.long, generators.short):
        outputs = generator._context._params.n_outputs_max
        assert outputs * 4 % 64 == 0  # a list of 32-bit numbers comes before
