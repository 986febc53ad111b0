"""Requests that need more context than others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.wire.worker import Failed, Generate, Load, Loaded, Reply
from tests.workers.test_engines import Asked, chat, finish, run

pytest.importorskip("llama_cpp")

from benchmarks.local.bare import FLASH_OFF, BareLoop
from car_rpc.workers import slots
from car_rpc.workers.llama_cpp import generators
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK
from tests.workers.test_llama_prefix import Tokens, cached, generator_of, shared

pytestmark = pytest.mark.llama

#: Tokens of context of each request to begin with, and what the model was trained on.
ROOM, TRAINED = 512, 4096


@pytest.fixture(scope="module")
def path(model_file: Callable[..., Path]) -> Path:
    return model_file(context=TRAINED)


@pytest.fixture
def engine(path: Path, monkeypatch: pytest.MonkeyPatch) -> LlamaEngine:
    monkeypatch.setattr(slots, "DEFAULT_CONTEXT_LENGTH", ROOM)
    monkeypatch.setattr(generators, "SHORT_ROOM", 0)  # short ones need room as well
    engine = LlamaEngine()
    loaded = engine.load(Load(path=str(path)), lambda _: None)
    assert loaded.context_length == TRAINED
    assert generator_of(engine).room == ROOM
    return engine


@pytest.fixture(scope="module")
def bare(path: Path) -> BareLoop:
    return BareLoop(
        path, threads=1, context=TRAINED, chunk=PREFILL_CHUNK, flash_attn_type=FLASH_OFF
    )


def numbered(number: int, content: str, **params: Any) -> Generate:
    request = chat(content, ignore_eos=True, **params)
    return msgspec.structs.replace(request, id=number)


def check(engine: LlamaEngine, tokens: Tokens, bare: BareLoop, *requests: Generate) -> None:
    """The answers are those of a bare loop."""
    assert engine._prompter is not None
    for request in requests:
        prompt = engine._prompter.prompt(request).tokens
        said = tokens.by_request[request.id]
        assert said == bare.generate(prompt, request.params.max_tokens or len(said))


def test_a_slot_begins_shorter_than_the_longest_request(path: Path) -> None:
    engine = LlamaEngine()
    engine.load(Load(path=str(path)), lambda _: None)
    assert generator_of(engine).room == slots.FIRST_CONTEXT_LENGTH < TRAINED
    asked_for = LlamaEngine()
    asked_for.load(Load(path=str(path), context_length=3000), lambda _: None)
    assert generator_of(asked_for).room >= 3000


def test_a_long_prompt_is_given_a_longer_context(
    engine: LlamaEngine, bare: BareLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(engine, monkeypatch)
    request = numbered(1, "a" * 1500, max_tokens=20)
    (asked,) = run(engine, request)
    assert asked.usage.context_window == TRAINED
    assert generator_of(engine).room == 4 * ROOM
    check(engine, tokens, bare, request)


def test_a_long_answer_goes_on_where_its_slot_ends(
    engine: LlamaEngine, bare: BareLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(engine, monkeypatch)
    request = numbered(1, "a" * 100, max_tokens=1000)
    (asked,) = run(engine, request)
    assert asked.usage.completion_tokens == 1000
    assert generator_of(engine).room == 4 * ROOM
    check(engine, tokens, bare, request)


def test_an_answer_without_a_limit_ends_with_all_the_context_there_is(
    engine: LlamaEngine,
) -> None:
    (asked,) = run(engine, numbered(1, "a" * 3500, max_tokens=None))
    assert asked.usage.total_tokens == TRAINED
    assert asked.reason == "max_tokens"


def test_others_are_answered_meanwhile_and_none_is_the_wiser(
    engine: LlamaEngine, bare: BareLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(engine, monkeypatch)
    short = [numbered(i, letter * 200, max_tokens=60) for i, letter in enumerate("abc")]
    early = [Asked(engine, request) for request in short]
    for _ in range(12):
        engine.step()
    long = numbered(9, "d" * 900, max_tokens=20)
    run(engine, long)
    assert all(isinstance(each.answer, Reply) for each in early)
    check(engine, tokens, bare, *short, long)


def test_what_was_read_moves_to_the_longer_context(engine: LlamaEngine) -> None:
    run(engine, shared("k" * 300))
    run(engine, shared("l" * 900))
    (again,) = run(engine, shared("k" * 300))
    assert cached(again) == again.prompt_tokens - 1
    (further,) = run(engine, shared("k" * 300 + "m" * 1200))
    assert cached(further) >= 300


def test_without_memory_the_true_room_is_told(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "free_memory", lambda: 0)
    (refused,) = run(engine, numbered(1, "a" * 900))
    assert isinstance(refused.answer, Failed)
    assert refused.answer.kind == "context_overflow"
    assert refused.answer.data == {"prompt_tokens": refused.prompt_tokens, "context_length": ROOM}
    (cut,) = run(engine, numbered(2, "a" * 100, max_tokens=1000))
    assert (cut.usage.total_tokens, cut.reason) == (ROOM, "max_tokens")


def test_memory_that_was_promised_and_is_not_there_is_not_asked_for_again(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def fail(_slots: int, room: int) -> Any:
        tries.append(room)
        raise MemoryError

    monkeypatch.setattr(generator_of(engine), "_make_context", fail)
    for _ in range(2):
        (refused,) = run(engine, numbered(1, "a" * 900))
        assert isinstance(refused.answer, Failed)
        assert refused.answer.kind == "context_overflow"
    assert tries == [2 * ROOM]


def test_a_long_prompt_waits_for_memory_that_others_use_and_later_ones_wait_for_it(
    engine: LlamaEngine, bare: BareLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(engine, monkeypatch)
    generator = generator_of(engine)
    one_slot = 2 * generator._slot_bytes(2 * ROOM)
    monkeypatch.setattr(slots, "free_memory", lambda: one_slot)
    first = Asked(engine, numbered(1, "a", max_tokens=30))
    engine.step()
    long = Asked(engine, numbered(2, "b" * 800, max_tokens=5))
    late = Asked(engine, numbered(3, "c", max_tokens=5))
    while not isinstance(first.answer, Reply):
        engine.step()
        assert len(generator._active) <= 1
    assert generator.room == ROOM
    run(engine)
    assert generator.room == 2 * ROOM
    assert generator._slots == 1
    assert isinstance(long.answer, Reply)
    assert isinstance(late.answer, Reply)
    requests = [each.job.request for each in (first, long, late)]
    check(engine, tokens, bare, *(each for each in requests if isinstance(each, Generate)))


def test_a_prompt_that_waits_for_memory_goes_on_when_there_is_some(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_of(engine)
    one_slot = 2 * generator._slot_bytes(2 * ROOM)
    monkeypatch.setattr(slots, "free_memory", lambda: one_slot)
    Asked(engine, numbered(1, "a", max_tokens=30))
    engine.step()
    long = Asked(engine, numbered(2, "b" * 800, max_tokens=5))
    while engine.step():  # the worker sleeps when there is nothing to do at once
        pass
    assert isinstance(long.answer, Reply)


def leave(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch, slots_of_memory: int) -> None:
    """Let the machine have memory for so many slots, those that there are among them."""
    generator = generator_of(engine)
    memory = slots_of_memory * generator._slot_bytes(ROOM)

    def free() -> int:
        return memory - generator._slots * generator._slot_bytes(generator.room)

    monkeypatch.setattr(slots, "free_memory", free)


def test_slots_that_nobody_uses_make_room_for_a_long_prompt(
    engine: LlamaEngine, bare: BareLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(engine, monkeypatch, 20)
    run(engine, *(numbered(number, "a", max_tokens=5) for number in range(8)))
    assert generator_of(engine)._slots == 8
    tokens = Tokens(engine, monkeypatch)
    long = numbered(9, "b" * 3000, max_tokens=5)
    (asked,) = run(engine, long)
    assert isinstance(asked.answer, Reply)
    assert (generator_of(engine).room, generator_of(engine)._slots) == (8 * ROOM, 1)
    check(engine, tokens, bare, long)


def test_slots_that_nobody_uses_make_room_for_a_long_answer(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(engine, monkeypatch, 20)
    run(engine, *(numbered(number, "a", max_tokens=5) for number in range(8)))
    leave(engine, monkeypatch, 9)  # others have taken the rest
    (asked,) = run(engine, numbered(9, "b", max_tokens=ROOM))
    assert asked.usage.completion_tokens == ROOM


def test_a_long_prompt_that_comes_second_gets_a_slot_that_is_long_enough(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Asked(engine, numbered(1, "a", max_tokens=30))
    engine.step()
    second = Asked(engine, numbered(2, "b" * 800, max_tokens=5))
    engine.step()
    assert len(generator_of(engine)._active) == 2
    finish(engine, first, second)
    leave(engine, monkeypatch, 20)
    alone = Asked(engine, numbered(3, "a", max_tokens=30))
    engine.step()
    long = Asked(engine, numbered(4, "b" * 3000, max_tokens=5))
    finish(engine, alone, long)
    assert isinstance(long.answer, Reply)


def test_a_length_that_there_is_no_memory_for_leaves_shorter_ones(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_of(engine)
    make = generator._make_context

    def make_short(slots: int, room: int) -> Any:
        if room > 4 * ROOM:
            raise MemoryError
        return make(slots, room)

    monkeypatch.setattr(generator, "_make_context", make_short)
    (refused,) = run(engine, numbered(1, "a" * 3000))
    assert isinstance(refused.answer, Failed)
    (asked,) = run(engine, numbered(2, "a" * 800))
    assert isinstance(asked.answer, Reply)


def test_a_move_that_there_is_no_memory_for_leaves_all_as_it_was(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Asked(engine, numbered(1, "a", max_tokens=30))
    engine.step()
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> Any:
            raise MemoryError

        patch.setattr(generator_of(engine)._context, "save", fail)
        second = Asked(engine, numbered(2, "b", max_tokens=5))
        engine.step()
        assert generator_of(engine)._slots == 1
    finish(engine, first, second)
    assert isinstance(first.answer, Reply)
    assert isinstance(second.answer, Reply)


def test_a_paused_answer_keeps_nobody_busy(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "free_memory", lambda: 2 * generator_of(engine)._slot_bytes(1024))
    first = Asked(engine, numbered(1, "a", max_tokens=30))
    engine.step()
    first.job.pause()
    Asked(engine, numbered(2, "b" * 800, max_tokens=5))
    assert not engine.step()
    first.job.resume()
    run(engine)


def test_a_context_that_is_short_for_want_of_memory_gets_longer_when_there_is_some(
    model_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LlamaEngine()
    with monkeypatch.context() as patch:
        patch.setattr(slots, "free_memory", lambda: 0)
        loaded = engine.load(Load(path=str(model_file(context=8192))), lambda _: None)
        assert loaded.context_length == 2048
        (refused,) = run(engine, numbered(1, "a" * 3000))
        assert isinstance(refused.answer, Failed)
        assert refused.answer.kind == "context_overflow"
    assert (generator_of(engine).room, generator_of(engine)._slots) == (2048, 1)
    (asked,) = run(engine, numbered(1, "a" * 3000))
    assert asked.usage.context_window == 8192


def test_a_context_that_was_asked_for_stays_as_it_is(path: Path) -> None:
    engine = LlamaEngine()
    loaded = engine.load(Load(path=str(path), context_length=ROOM), lambda _: None)
    assert isinstance(loaded, Loaded)
    assert loaded.context_length == ROOM
    (asked,) = run(engine, numbered(1, "a" * 900))
    assert isinstance(asked.answer, Failed)
    assert asked.answer.kind == "context_overflow"
