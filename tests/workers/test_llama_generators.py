"""Short requests are answered in a context of their own, beside a bare loop that is made alike."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from car_rpc.errors import CarError
from car_rpc.registry import fit
from car_rpc.wire.inference import RegexFormat
from car_rpc.wire.speculation import LookupSpeculation
from car_rpc.wire.worker import Failed, Generate, Load, Loaded, Reply
from tests.workers.conftest import Worker
from tests.workers.test_engines import Asked, chat, finish, run

pytest.importorskip("llama_cpp")

from benchmarks.local.bare import FLASH_ON, BareLoop
from car_rpc.workers import slots
from car_rpc.workers.llama_cpp.context import Context
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK, LlamaGeneration
from car_rpc.workers.llama_cpp.generators import SHORT_ROOM, Generators
from car_rpc.workers.llama_cpp.native import lib
from car_rpc.workers.llama_cpp.sampler import Sampler
from tests.workers.memories import WRITERS, write_window_model
from tests.workers.test_llama_prefix import cached, load, shared

pytestmark = pytest.mark.llama

#: How much a logit changes where a batch holds tokens of several sequences: other routines
#: multiply it then.
SAME = 0.01


@pytest.fixture(scope="module", params=["attention", "window"])
def path(
    request: pytest.FixtureRequest,
    model_file: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    if request.param == "attention":
        return model_file(context=1024)
    return write_window_model(tmp_path_factory.mktemp("window") / "model.gguf")


@pytest.fixture
def engine(path: Path) -> LlamaEngine:
    return load(path, 1024)


@pytest.fixture(scope="module")
def bare(path: Path) -> BareLoop:
    return BareLoop(
        path, threads=1, context=SHORT_ROOM, chunk=PREFILL_CHUNK, flash_attn_type=FLASH_ON
    )


def contexts(engine: LlamaEngine) -> Generators:
    assert engine._generators is not None
    return engine._generators


def numbered(number: int, content: str, **params: Any) -> Generate:
    return msgspec.structs.replace(chat(content, ignore_eos=True, **params), id=number)


def refuse_contexts(monkeypatch: pytest.MonkeyPatch, *rooms: int) -> None:
    """Let llama.cpp have no memory for contexts of some sizes, or for any."""
    make = lib.llama_init_from_model

    def refuse(model: Any, params: Any) -> Any:
        return None if params.n_ctx in rooms or not rooms else make(model, params)

    monkeypatch.setattr(lib, "llama_init_from_model", refuse)


def prompt_of(engine: LlamaEngine, request: Generate) -> list[int]:
    assert engine._prompter is not None
    return engine._prompter.prompt(request).tokens


@pytest.mark.parametrize("company", [0, 3])
def test_short_answers_are_those_of_a_bare_loop(
    engine: LlamaEngine, bare: BareLoop, monkeypatch: pytest.MonkeyPatch, company: int
) -> None:
    answers: dict[int, list[int]] = {}
    logits: dict[int, list[Any]] = {}
    seen: dict[Sampler, Any] = {}
    sample, accept = Sampler.sample, LlamaGeneration.accept

    def note_logits(sampler: Sampler, context: Context, index: int, allowed: Any) -> int:
        seen[sampler] = context.logits(index, sampler._vocab_size).copy()
        return sample(sampler, context, index, allowed)

    def note_token(generation: LlamaGeneration, token: int) -> bool:
        answers.setdefault(generation.job.id, []).append(token)
        logits.setdefault(generation.job.id, []).append(seen[generation.sampler])
        return accept(generation, token)

    monkeypatch.setattr(Sampler, "sample", note_logits)
    monkeypatch.setattr(LlamaGeneration, "accept", note_token)
    texts = ["word " * 20, "other", "a longer one " * 10, "b" * 90][: 1 + company]
    requests = [numbered(number, text, max_tokens=60) for number, text in enumerate(texts)]
    run(engine, *requests)
    assert contexts(engine).short is not None
    for request in requests:
        prompt, answer = prompt_of(engine, request), answers[request.id]
        assert answer == bare.generate(prompt, len(answer))
        bare.clear()
        expected = [bare.read(prompt).copy()]
        for index, token in enumerate(answer[:-1]):
            (row,) = bare.step([(token, len(prompt) + index, 0)])
            expected.append(row.copy())
        for ours, theirs in zip(logits[request.id], expected, strict=True):
            assert np.abs(ours - theirs).max() <= (SAME if company else 0.0)


def test_prompt_and_answer_together_decide_what_is_short(engine: LlamaEngine) -> None:
    room = SHORT_ROOM - len(prompt_of(engine, chat()))
    (asked,) = run(engine, chat(max_tokens=room, ignore_eos=True))
    assert contexts(engine)._long is None
    assert asked.usage.completion_tokens == room
    run(engine, chat(max_tokens=room + 1))
    assert contexts(engine)._long is not None


def test_what_long_requests_may_use_is_the_same_before_there_was_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LlamaEngine()
    monkeypatch.setattr(slots, "free_memory", lambda: 2**33)
    loaded = engine.load(Load(path=str(path), context_length=1024), lambda _: None)
    before, after = run(engine, chat()) + run(engine, chat("a" * 500))
    (short,) = run(engine, chat())
    for asked in (before, after, short):
        assert asked.usage.context_window == loaded.context_length == 1024


def test_how_long_a_request_may_be_does_not_depend_on_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, model_file: Callable[..., Path]
) -> None:
    """The slot that is not there yet counts as if it was."""
    engine = LlamaEngine()
    free = 2**30
    monkeypatch.setattr(slots, "free_memory", lambda: free)
    loaded = engine.load(Load(path=str(model_file(context=2**18))), lambda _: None)
    assert slots.FIRST_CONTEXT_LENGTH < loaded.context_length < 2**18
    long = contexts(engine).long
    free -= long._slot_bytes(long.room)
    assert contexts(engine).longest == loaded.context_length


def test_answers_do_not_depend_on_which_context_was_made_first(path: Path) -> None:
    def answers(*requests: Generate) -> dict[int, Any]:
        engine = load(path, 1024)
        return {each.id: run(engine, each)[0].events for each in requests}

    short, long = numbered(1, "short", max_tokens=30), numbered(2, "a" * 500, max_tokens=30)
    assert answers(short, long) == answers(long, short)


def test_what_was_asked_before_does_not_change_a_short_answer(engine: LlamaEngine) -> None:
    (first,) = run(engine, chat("Tell me."))
    run(engine, chat("a" * 500), chat("b" * 100, max_tokens=400))
    (again,) = run(engine, chat("Tell me."))
    assert again.events == first.events


def test_short_and_long_answers_are_given_at_once(engine: LlamaEngine) -> None:
    requests = [
        numbered(1, "a" * 600, max_tokens=80),
        numbered(2, "short", max_tokens=5),
        numbered(3, "b" * 300, max_tokens=3),
    ]
    alone = [run(engine, request)[0].text for request in requests]
    long, short, middle = asked = [Asked(engine, request) for request in requests]
    while short.answer is None:
        engine.step()
    assert long.answer is None
    finish(engine, *asked)
    assert [each.text for each in (long, short, middle)] == alone


def test_short_prompts_are_remembered_among_themselves(engine: LlamaEngine) -> None:
    run(engine, shared("Remember this.", max_tokens=4))
    (again,) = run(engine, shared("Remember this.", max_tokens=4))
    assert cached(again) == again.prompt_tokens - 1
    (long,) = run(engine, shared("Remember this.", max_tokens=400))
    assert cached(long) == 0


def test_without_memory_for_both_contexts_all_requests_use_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also later, when there is some: an answer does not depend on when it is asked for."""
    free = 0
    monkeypatch.setattr(slots, "free_memory", lambda: free)
    engine = load(path, 1024)
    long = contexts(engine)._long
    assert long is not None
    assert long._slots == 1
    free = 2 * long._slot_bytes(SHORT_ROOM) - 1
    asked = run(engine, chat(), chat("other"))
    monkeypatch.undo()
    asked += run(engine, chat())
    assert all(isinstance(each.answer, Reply) for each in asked)
    assert contexts(engine).short is None


def test_a_context_for_short_requests_that_cannot_be_made_fails_no_request(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_contexts(monkeypatch, SHORT_ROOM)
    engine = load(path, 1024)
    (asked,) = run(engine, chat())
    assert isinstance(asked.answer, Reply)
    assert contexts(engine).short is None


def test_a_model_that_no_context_can_be_made_for_is_not_loaded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_contexts(monkeypatch)
    with pytest.raises(CarError, match="does not fit") as caught:
        load(path, 1024)
    assert caught.value.kind == "out_of_memory"


@pytest.mark.parametrize("form", [None, RegexFormat(pattern="[a-z]+")])
def test_a_long_request_without_memory_for_it_fails_alone(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch, form: RegexFormat | None
) -> None:
    long = numbered(1, "a" * 500, max_tokens=20)
    if form is not None:  # it waits for its form, and only then for its context
        long = msgspec.structs.replace(long, response_format=form)
    with monkeypatch.context() as patch:
        refuse_contexts(patch)
        failed, short = run(engine, long, numbered(2, "short"))
    assert isinstance(failed.answer, Failed)
    assert failed.answer.kind == "out_of_memory"
    assert "unload another model, or ask for less" in failed.answer.detail
    assert isinstance(short.answer, Reply)
    (later,) = run(engine, long)
    assert isinstance(later.answer, Reply)


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="the limits of others are set on Linux alone")
def test_a_worker_survives_a_long_request_that_there_is_no_memory_for(
    start_worker: Callable[..., Worker], model_file: Callable[..., Path]
) -> None:
    worker = start_worker("llama_cpp")
    assert isinstance(worker.load(model_file(context=2**16), context_length=2**16), Loaded)
    short = worker.generate()
    process = psutil.Process(worker.process.pid)
    limits = process.rlimit(psutil.RLIMIT_AS)
    room = process.memory_info().vms + 2**26  # a fifth of what the context takes
    process.rlimit(psutil.RLIMIT_AS, (room, limits[1]))
    failed = worker.ask(worker.request("a" * 300))
    assert isinstance(failed, Failed)
    assert failed.kind == "out_of_memory"
    assert worker.generate() == short
    process.rlimit(psutil.RLIMIT_AS, limits)
    assert worker.generate("a" * 300)


def test_the_second_context_counts_where_it_is_said_how_many_slots_there_are(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = contexts(engine).long
    free = 4 * (long._slot_bytes(1024) + long._slot_bytes(SHORT_ROOM))
    monkeypatch.setattr(slots, "free_memory", lambda: free)
    assert long._kept(1024) == 2
    free -= 2
    assert long._kept(1024) == 1


def test_what_is_estimated_before_a_model_is_loaded_counts_the_same_context() -> None:
    assert fit.SHORT_CONTEXT_TOKENS == SHORT_ROOM
    assert fit.CONTEXT_TOKENS == slots.DEFAULT_CONTEXT_LENGTH
    assert fit.CACHES_BYTES == slots.KV_BUDGET_BYTES


def test_both_contexts_together_keep_no_more_in_the_memory_of_the_host(
    engine: LlamaEngine,
) -> None:
    run(engine, chat())
    both = contexts(engine)
    assert both.short is not None
    kept = [each._sequences._max_bytes for each in (both.short, both.long)]
    assert sum(kept) == slots.saved_budget()
    assert 0 < kept[0] < kept[1]


def test_a_cancelled_short_request_leaves_its_slot(engine: LlamaEngine) -> None:
    asked = Asked(engine, chat(max_tokens=100))
    engine.step()
    asked.job.cancel()
    engine.step()
    assert asked.answer == Failed(id=1, kind="cancelled", detail="")
    short = contexts(engine).short
    assert short is not None
    assert not short._active


def test_a_reset_forgets_short_requests_too(engine: LlamaEngine) -> None:
    Asked(engine, chat(max_tokens=100))
    engine.step()
    engine.reset()
    assert not engine.step()


def test_models_that_do_not_gain_have_one_context(
    path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    guessing = LlamaEngine()
    guessing.load(Load(path=str(path), speculation=LookupSpeculation()), lambda _: None)
    recurrent = load(WRITERS["recurrent"](tmp_path_factory.mktemp("one") / "model.gguf"), 1024)
    for engine in (guessing, recurrent):
        run(engine, chat())
        assert contexts(engine).short is None
