"""What llama.cpp models keep of earlier prompts, beside a bare loop over the same file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from car_rpc.wire.inference import JsonSchemaFormat
from car_rpc.wire.worker import Failed, Generate, Load, Reply
from tests.workers.test_engines import Asked, chat, run

pytest.importorskip("llama_cpp")

from benchmarks.local.bare import FLASH_OFF, BareLoop
from car_rpc.workers import slots
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK
from car_rpc.workers.llama_cpp.generator import Generator
from car_rpc.workers.slots import MAX_GROWN_SLOTS, MAX_SLOTS

pytestmark = pytest.mark.llama

CONTEXT = 2048

#: A prefix hit changes the sizes in which a prompt is read, and with them the last digits.
MAX_LOGIT_CHANGE = 0.2


def load(path: Path, context_length: int = CONTEXT) -> LlamaEngine:
    engine = LlamaEngine()
    engine.load(Load(path=str(path), context_length=context_length), lambda _: None)
    return engine


@pytest.fixture(scope="module")
def path(model_file: Callable[..., Path]) -> Path:
    return model_file(context=CONTEXT)


@pytest.fixture(scope="module")
def loaded(path: Path) -> LlamaEngine:
    return load(path)


@pytest.fixture
def engine(loaded: LlamaEngine) -> LlamaEngine:
    """An engine that knows no prompt yet."""
    loaded.reset()
    return loaded


@pytest.fixture(scope="module")
def bare(path: Path) -> BareLoop:
    return BareLoop(
        path, threads=1, context=CONTEXT, chunk=PREFILL_CHUNK, flash_attn_type=FLASH_OFF
    )


def shared(content: str, **params: Any) -> Generate:
    """A request that may use what others left, and leave something to others."""
    request = chat(content, ignore_eos=True, **params)
    return msgspec.structs.replace(request, prefix_cache=True)


def cached(asked: Asked) -> int:
    return asked.usage.cache_read_tokens or 0


def generator_of(engine: LlamaEngine) -> Generator:
    assert engine._generators is not None
    return engine._generators.long


class Tokens:
    """The tokens that answers sampled, by the number of their request."""

    def __init__(self, engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_request: dict[int, list[int]] = {}
        from car_rpc.workers.llama_cpp.generation import LlamaGeneration

        accept = LlamaGeneration.accept

        def note(generation: LlamaGeneration, token: int) -> bool:
            self.by_request.setdefault(generation.job.id, []).append(token)
            return accept(generation, token)

        monkeypatch.setattr(LlamaGeneration, "accept", note)


@pytest.mark.parametrize("company", [0, 3])
def test_greedy_answers_are_those_of_a_bare_loop(
    engine: LlamaEngine, bare: BareLoop, monkeypatch: pytest.MonkeyPatch, company: int
) -> None:
    tokens = Tokens(engine, monkeypatch)
    texts = ["word " * 250, "other", "a longer one " * 60, "b" * 900][: 1 + company]
    requests = [
        msgspec.structs.replace(chat(text, max_tokens=60, ignore_eos=True), id=number)
        for number, text in enumerate(texts)
    ]
    run(engine, *requests)
    assert engine._prompter is not None
    for request in requests:
        prompt = engine._prompter.prompt(request).tokens
        assert tokens.by_request[request.id] == bare.generate(prompt, 60)


def test_the_next_turn_goes_on_from_the_answer_before(engine: LlamaEngine) -> None:
    (first,) = run(engine, shared("Tell me.", max_tokens=40, logit_bias={65: 1000.0}))
    turns = [
        *shared("Tell me.").messages,
        msgspec.structs.replace(shared("").messages[0], role="assistant", content=first.text),
        *shared("More.").messages,
    ]
    (second,) = run(engine, msgspec.structs.replace(shared("x"), messages=turns))
    assert cached(second) == first.prompt_tokens + 40 - 1  # the last token was never read


def test_answers_from_a_copy_are_those_of_its_original(engine: LlamaEngine) -> None:
    run(engine, shared("a" * 600))
    (original,) = run(engine, shared("a" * 600, max_tokens=40))
    for text in "bcdefghijkl":
        run(engine, shared(text * 700))
    (copy,) = run(engine, shared("a" * 600, max_tokens=40))
    assert copy.events == original.events


def test_a_prefix_changes_logits_by_little(path: Path) -> None:
    bare = BareLoop(
        path, threads=1, context=CONTEXT, sequences=2, chunk=256, flash_attn_type=FLASH_OFF
    )
    prompt = bare.tokens("the same words again and again " * 20)
    whole = bare.read(prompt, 0).copy()
    bare.read(prompt[:300], 1)
    rest = bare.read(prompt[300:], 1, start=300)
    assert np.abs(whole - rest).max() < MAX_LOGIT_CHANGE


# --------------------------------------------------------------------------------- growing

TEXTS = [letter * 300 for letter in "abcdefghij"]


def requests_at_once(**params: Any) -> list[Generate]:
    return [chat(text, ignore_eos=True, **params) for text in TEXTS]


def test_more_run_at_once_when_some_wait_and_none_is_the_wiser(path: Path) -> None:
    engine = load(path)
    generator = generator_of(engine)
    alone = [run(engine, request)[0].events for request in requests_at_once(max_tokens=20)]
    (known,) = run(engine, shared("k" * 300))
    assert generator._slots == 1
    early = [Asked(engine, request) for request in requests_at_once(max_tokens=20)[:2]]
    for _ in range(12):  # some are in the middle of their answers
        engine.step()
    late = run(engine, *requests_at_once(max_tokens=20)[2:])
    assert [asked.events for asked in early + late] == alone
    assert generator._slots == MAX_GROWN_SLOTS
    (again,) = run(engine, shared("k" * 300))
    assert cached(again) == again.prompt_tokens - 1
    assert again.prompt_tokens == known.prompt_tokens


def test_all_are_answered_where_there_is_no_memory_for_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(path)
    generator = generator_of(engine)
    tries: list[int] = []

    def fail(slots: int, _room: int) -> Any:
        tries.append(slots)
        raise MemoryError

    monkeypatch.setattr(generator, "_make_context", fail)
    asked = run(engine, *requests_at_once(max_tokens=3))
    assert all(isinstance(each.answer, Reply) for each in asked)
    assert generator._slots == 1
    assert tries == [8, 4, 2]


def test_there_are_as_many_slots_as_there_are_conversations(path: Path) -> None:
    engine = load(path)
    generator = generator_of(engine)
    texts = [letter * 300 for letter in "abcdef"]
    counts = [generator._slots]
    for text in texts:
        run(engine, shared(text, max_tokens=2))
        (again,) = run(engine, shared(text + " and more", max_tokens=2))
        assert cached(again) > 300
        counts.append(generator._slots)
    assert counts == [1, 1, 2, 4, MAX_SLOTS, MAX_SLOTS, MAX_SLOTS]
    for text in texts:  # also of those that had to make room
        (again,) = run(engine, shared(text + " and more", max_tokens=2))
        assert cached(again) == again.prompt_tokens - 1


def test_conversations_make_room_for_each_other_where_memory_is_short(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(path)
    monkeypatch.setattr(slots, "free_memory", lambda: 0)
    for text in "ab":
        run(engine, shared(text * 300, max_tokens=2))
    (again,) = run(engine, shared("a" * 300, max_tokens=2))
    assert cached(again) == again.prompt_tokens - 1
    assert generator_of(engine)._slots == 1


# ------------------------------------------------------------------------------ cancelling


def test_a_chunk_that_is_broken_off_leaves_what_was_read_before(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = run(engine, chat("a" * 1500, ignore_eos=True))
    asked = Asked(engine, shared("a" * 1500))
    engine.step()
    context = generator_of(engine)._context
    decode = context.decode

    def cancel_amid(rows: Any, owner: Any = None) -> None:
        asked.job.cancel()
        decode(rows, owner)

    monkeypatch.setattr(context, "decode", cancel_amid)
    engine.step()
    monkeypatch.undo()
    assert asked.answer == Failed(id=1, kind="cancelled", detail="")
    assert not generator_of(engine)._active
    (again,) = run(engine, shared("a" * 1500))
    assert cached(again) == PREFILL_CHUNK
    assert again.text == whole.text  # as it is read in the same chunks


# ------------------------------------------------------------------------------- long batches


def test_what_a_form_forces_may_be_longer_than_a_batch(engine: LlamaEngine) -> None:
    form = JsonSchemaFormat(schema={"const": "x" * (2 * PREFILL_CHUNK)})
    requests = [
        msgspec.structs.replace(shared(text, max_tokens=None), id=number, response_format=form)
        for number, text in enumerate("ab")
    ]
    for asked in run(engine, *requests):
        assert asked.text == '"' + "x" * (2 * PREFILL_CHUNK) + '"'
