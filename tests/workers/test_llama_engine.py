"""What only the llama.cpp engine does, inside this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from car_rpc.wire.worker import Events, Failed, Load
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
    generator = engine._generator
    assert generator is not None
    generator._admit()
    generator._read_prompt()
    assert not generator._active
    assert asked.answer == Failed(id=1, kind="cancelled", detail="")
    assert run(engine, chat())[0].events == expected.events


def test_a_batch_is_computed_by_as_many_threads_as_there_is_room_for(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._generator is not None
    context = engine._generator._context
    (expected,) = run(engine, chat("a" * 300))
    for count in (2, 1):
        monkeypatch.setattr(context._threads, "count", lambda count=count: count)
        (asked,) = run(engine, chat("a" * 300))
        assert lib.llama_n_threads(context.handle) == count
        assert lib.llama_n_threads_batch(context.handle) == count
        assert asked.events == expected.events


def test_the_end_of_an_answer_is_no_token_of_it(engine: LlamaEngine) -> None:
    (end,) = engine._vocab.tokenize("<|im_end|>", special=True)
    (letter,) = engine._vocab.tokenize("z", special=True)
    bias = {letter: 1000.0}
    (asked,) = run(engine, chat(logprobs=1, logit_bias=bias, max_tokens=3))
    told = [each for frame in asked.frames if isinstance(frame, Events) for each in frame.logprobs]
    assert [each.token for each in told] == ["z", "z", "z"]
    assert [len(each.top_logprobs) for each in told] == [1, 1, 1]
    (ended,) = run(engine, chat(logprobs=1, logit_bias={end: 1000.0}))
    assert not any(frame.logprobs for frame in ended.frames if isinstance(frame, Events))
