"""What only the llama.cpp engine does, inside this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from car_rpc.wire.worker import Failed, Load
from tests.workers.test_engines import Asked, chat, run

pytest.importorskip("llama_cpp")

from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.native import lib

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
    generator._read_prompt()
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
