"""Conversations with every kind of memory, beside a bare loop that reads the same chunks."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from car_rpc.wire.content import Message
from car_rpc.wire.worker import Failed, Generate, Load, Reply
from tests.workers.test_engines import Asked, chat, finish, run

pytest.importorskip("llama_cpp")

from benchmarks.local.bare import FLASH_OFF, BareLoop
from car_rpc.workers import slots
from car_rpc.workers.llama_cpp.context import Context
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK, LlamaGeneration
from car_rpc.workers.llama_cpp.generators import SHORT_ROOM
from car_rpc.workers.llama_cpp.sampler import Sampler
from car_rpc.workers.llama_cpp.sequences import STRIDE, TAIL
from car_rpc.workers.prefix import common
from tests.workers.memories import WRITERS, write_hybrid_model, write_window_model
from tests.workers.test_judging import score, values
from tests.workers.test_llama_prefix import MAX_LOGIT_CHANGE, cached, generator_of, load, shared

pytestmark = pytest.mark.llama

CONTEXT = 2048

#: How much a logit of these models changes where a batch holds tokens of several sequences, as
#: other routines multiply it then, or where what is remembered lies in another order, as sums do.
SAME = 0.01

#: An answer that is longer than what a window can be cut by.
LONG_ANSWER = 2 * PREFILL_CHUNK

KINDS = ["attention", *WRITERS]

#: Those that can forget the last few tokens.
CAN_CUT_A_LITTLE = {"attention", "window"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def path(
    kind: str, model_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if kind == "attention":
        return model_file(context=2 * STRIDE)
    return WRITERS[kind](tmp_path_factory.mktemp(kind) / "model.gguf")


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
        path,
        threads=1,
        context=CONTEXT,
        chunk=PREFILL_CHUNK,
        flash_attn_type=FLASH_OFF,
        swa_full=False,
    )


class Chunk(NamedTuple):
    """Tokens that were read at once, and how many of them were kept."""

    tokens: tuple[int, ...]
    kept: int


class Witness:
    """What the engine read, in which chunks, and the logits that it chose tokens by."""

    def __init__(self, engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine = engine
        self._chunks: dict[tuple[int, ...], list[Chunk]] = {(): []}
        self.answers: dict[int, list[int]] = {}
        self.logits: dict[int, list[Any]] = {}
        decode, sample, accept = Context.decode, Sampler.sample, LlamaGeneration.accept
        seen: dict[Sampler, Any] = {}

        def note_chunks(context: Context, rows: Any, owner: Any = None) -> None:
            decode(context, rows, owner)
            for number, group in itertools.groupby(rows, lambda row: row.sequence):
                before = tuple(generator_of(engine)._sequences._all[number].tokens)
                tokens = tuple(row.token for row in group)
                chunk = Chunk(tokens, len(tokens))
                self._chunks[before + tokens] = [*self.chunks(before), chunk]

        def note_logits(sampler: Sampler, context: Context, index: int, allowed: Any) -> int:
            seen[sampler] = context.logits(index, sampler._vocab_size).copy()
            return sample(sampler, context, index, allowed)

        def note_tokens(generation: LlamaGeneration, token: int) -> bool:
            number = generation.job.id
            self.answers.setdefault(number, []).append(token)
            self.logits.setdefault(number, []).append(seen[generation.sampler])
            return accept(generation, token)

        monkeypatch.setattr(Context, "decode", note_chunks)
        monkeypatch.setattr(Sampler, "sample", note_logits)
        monkeypatch.setattr(LlamaGeneration, "accept", note_tokens)

    def chunks(self, tokens: tuple[int, ...]) -> list[Chunk]:
        """The chunks in which these tokens were read."""
        if tokens in self._chunks:
            return self._chunks[tokens]
        # Cut within the last chunk of something longer.
        longer = (each for each in self._chunks if each[: len(tokens)] == tokens)
        whole = min(longer, key=len)
        *before, chunk = self._chunks[whole]
        return [*before, Chunk(chunk.tokens, chunk.kept - (len(whole) - len(tokens)))]

    def asks(self, request: Generate) -> list[int]:
        """The tokens of a request's prompt."""
        assert self._engine._prompter is not None
        return self._engine._prompter.prompt(request).tokens

    def read(self, request: Generate) -> list[int]:
        """The tokens that were read for a request: the last of the answer is not."""
        return [*self.asks(request), *self.answers[request.id][:-1]]


def replay(bare: BareLoop, chunks: Iterable[Chunk], begun: int) -> Iterator[Any]:
    """The logits behind each chunk that reaches beyond some length."""
    bare.clear()
    read = 0
    for chunk in chunks:
        logits = bare.read(chunk.tokens, start=read)
        read += chunk.kept
        bare.cut(read)
        if read >= begun:
            yield logits


def check(engine_said: Witness, bare: BareLoop, *requests: Generate, within: float = SAME) -> None:
    """A bare loop says the same of the same chunks, and nearly the same of whole ones."""
    for request in requests:
        prompt, read = engine_said.asks(request), engine_said.read(request)
        logits = engine_said.logits[request.id]
        same = replay(bare, engine_said.chunks(tuple(read)), len(prompt))
        for ours, theirs in zip(logits, same, strict=True):
            assert np.abs(ours - theirs).max() <= within
        starts = [*range(0, len(prompt), PREFILL_CHUNK), *range(len(prompt), len(read) + 1)]
        whole = [tuple(read[begin:end]) for begin, end in itertools.pairwise(starts)]
        fresh = replay(bare, [Chunk(each, len(each)) for each in whole], len(prompt))
        for ours, theirs in zip(logits, fresh, strict=True):
            assert np.abs(ours - theirs).max() < MAX_LOGIT_CHANGE
            if ours.argmax() != theirs.argmax():
                second, first = np.sort(theirs)[-2:]
                assert first - second < MAX_LOGIT_CHANGE


@pytest.fixture
def witness(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> Witness:
    return Witness(engine, monkeypatch)


@pytest.fixture
def plain(engine: LlamaEngine) -> dict[int, float]:
    """Lets a model say nothing but capital letters, which are tokenized as they were said."""
    letters = {engine._vocab.tokenize(chr(code), special=False)[0] for code in range(65, 91)}
    return {token: -1000.0 for token in range(engine._vocab.size) if token not in letters}


def turns(number: int, *texts: str, **params: Any) -> Generate:
    """A conversation's next request; its texts are said in turns."""
    messages = [
        Message(role="assistant" if index % 2 else "user", content=text)
        for index, text in enumerate(texts)
    ]
    return msgspec.structs.replace(shared("", **params), id=number, messages=messages)


# ------------------------------------------------------------------------------ conversations


@pytest.mark.parametrize("company", [0, 3])
def test_answers_without_the_cache_are_those_of_a_bare_loop(
    engine: LlamaEngine, witness: Witness, bare: BareLoop, company: int
) -> None:
    texts = ["word " * 250, "other " * 50, "a longer one " * 60, "b" * 900][: 1 + company]
    requests = [
        msgspec.structs.replace(chat(text, max_tokens=60, ignore_eos=True), id=number)
        for number, text in enumerate(texts)
    ]
    run(engine, *requests)
    for request in requests:
        assert witness.answers[request.id] == bare.generate(witness.asks(request), 60)
    check(witness, bare, *requests, within=SAME if company else 0.0)


def test_a_conversation_goes_on_from_where_it_was(
    kind: str, engine: LlamaEngine, witness: Witness, bare: BareLoop, plain: dict[int, float]
) -> None:
    begin = turns(1, "a" * 600, max_tokens=LONG_ANSWER, logit_bias=plain)
    (first,) = run(engine, begin)
    run(engine, turns(2, "z" * 300))
    more = turns(3, "a" * 600, first.text, "More.", max_tokens=20)
    (second,) = run(engine, more)
    assert cached(second) == first.prompt_tokens + LONG_ANSWER - 1
    other = turns(4, "a" * 600, first.text, "Other.", max_tokens=20)
    (third,) = run(engine, other)
    # A template that leaves out what the model thought, or an answer that was edited.
    rewritten = turns(5, "a" * 600, "B" + first.text[-9:], "And?", max_tokens=20)
    (fourth,) = run(engine, rewritten)
    shared_tokens = common(witness.asks(more), witness.asks(other))
    checkpoint = first.prompt_tokens - TAIL
    assert cached(third) == (shared_tokens if kind in CAN_CUT_A_LITTLE else checkpoint)
    assert cached(fourth) == (first.prompt_tokens if kind == "attention" else checkpoint)
    check(witness, bare, begin, more, other, rewritten)


def test_conversations_at_once_do_not_disturb_each_other(
    engine: LlamaEngine, witness: Witness, bare: BareLoop, plain: dict[int, float]
) -> None:
    texts = ["a" * 600, "b" * 300, "c" * 200, "a" * 580 + "d" * 90]
    asked = [turns(i, text, max_tokens=90, logit_bias=plain) for i, text in enumerate(texts)]
    answers = [each.text for each in run(engine, *asked)]
    more = [
        turns(10 + i, text, answer, "More.", max_tokens=30)
        for i, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    for answer, before in zip(run(engine, *more), asked, strict=True):
        assert cached(answer) == len(witness.read(before))
    check(witness, bare, *asked, *more)


def test_a_conversation_comes_back_from_the_hosts_memory(
    engine: LlamaEngine, witness: Witness, bare: BareLoop, plain: dict[int, float]
) -> None:
    begin = turns(1, "a" * 600, max_tokens=30, logit_bias=plain)
    (first,) = run(engine, begin)
    for letter in "bcdefghijkl":
        run(engine, turns(2, letter * 300))
    more = turns(3, "a" * 600, first.text, "More.", max_tokens=20)
    (second,) = run(engine, more)
    assert cached(second) == first.prompt_tokens + 30 - 1
    for letter in "mnopqrstuvw":
        run(engine, turns(4, letter * 300))
    rewritten = turns(5, "a" * 600, "B", "And?", max_tokens=20)
    (third,) = run(engine, rewritten)
    assert cached(third) >= first.prompt_tokens - TAIL
    check(witness, bare, begin, more, rewritten)


def test_what_many_begin_with_is_read_twice_at_most(
    engine: LlamaEngine, witness: Witness, bare: BareLoop
) -> None:
    requests = [turns(i, "s" * 700 + letter * 90) for i, letter in enumerate("abc")]
    asked = [run(engine, request)[0] for request in requests]
    assert cached(asked[2]) >= 700
    engine.reset()
    requests = [msgspec.structs.replace(each, id=each.id + 10) for each in requests]
    at_once = run(engine, *requests)
    assert not cached(at_once[0])
    assert all(cached(each) >= 2 * PREFILL_CHUNK for each in at_once[1:])
    check(witness, bare, *requests)


def test_a_window_that_is_longer_than_the_context_can_be_cut_anywhere(tmp_path: Path) -> None:
    engine = load(write_window_model(tmp_path / "model.gguf", window=512), context_length=512)
    run(engine, shared("a" * 400))
    (asked,) = run(engine, shared("a" * 300 + "b"))
    assert 300 <= cached(asked) <= 320
    assert generator_of(engine)._sequences.saved_bytes == 0


def test_what_was_read_before_and_how_the_rest_is_read_is_logged(
    kind: str, engine: LlamaEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = [
        run(engine, turns(number, "a" * 600, *more))[0]
        for number, more in enumerate([(), ("", "b" * 300)])
    ]
    lines = capfd.readouterr().err.splitlines()[-2:]
    for number, (answer, line) in enumerate(zip(asked, lines, strict=True)):
        size = answer.prompt_tokens
        said = f"<7>request {number}: {cached(answer)} of {size} prompt tokens were read before"
        chunks = f", the others are read {PREFILL_CHUNK} at once"
        ends = "" if kind == "attention" else f" and with checkpoints at {[size - TAIL]}"
        assert line == said + chunks + ends


# ------------------------------------------------------------------------------------- room


def test_what_was_read_moves_where_more_are_answered_at_once(
    path: Path, bare: BareLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(path)
    witness = Witness(engine, monkeypatch)
    known = turns(1, "k" * 600, max_tokens=20)
    run(engine, known)
    requests = [turns(10 + i, letter * 400) for i, letter in enumerate("abcdefg")]
    early = [Asked(engine, request) for request in requests[:2]]
    for _ in range(6):  # some are in the middle of their answers
        engine.step()
    run(engine, *requests[2:])
    assert all(each.answer is not None for each in early)
    assert generator_of(engine)._slots == slots.MAX_GROWN_SLOTS
    again = turns(2, "k" * 600, "", "More.")
    (asked,) = run(engine, again)
    assert cached(asked) >= len(witness.asks(known)) - TAIL
    check(witness, bare, known, *requests, again)


def test_several_are_answered_at_once_where_nothing_can_move(tmp_path: Path) -> None:
    engine = load(write_hybrid_model(tmp_path / "model.gguf", window=64))
    asked = [Asked(engine, turns(0, "a" * 40))]
    engine.step()  # now there is something that would have to move
    asked += [Asked(engine, turns(number, "b" * 40)) for number in (1, 2, 3)]
    engine.step()
    assert len(generator_of(engine)._active) == len(asked)
    finish(engine, *asked)
    assert all(isinstance(each.answer, Reply) for each in asked)


def test_a_slot_begins_as_long_as_it_may_get_where_nothing_can_move(tmp_path: Path) -> None:
    path = write_hybrid_model(tmp_path / "model.gguf", window=64)
    engine = LlamaEngine()
    loaded = engine.load(Load(path=str(path)), lambda _: None)
    assert loaded.context_is_fixed
    assert generator_of(engine).room > slots.FIRST_CONTEXT_LENGTH


def test_what_was_read_moves_to_a_longer_context(
    path: Path, bare: BareLoop, plain: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "DEFAULT_CONTEXT_LENGTH", 512)
    engine = LlamaEngine()
    engine.load(Load(path=str(path)), lambda _: None)
    witness = Witness(engine, monkeypatch)
    begin = turns(1, "a" * 300, max_tokens=40, logit_bias=plain)
    other = turns(2, "b" * 300)
    (first,) = run(engine, begin)
    run(engine, other)
    generator = generator_of(engine)
    room_for_two = 4 * (generator._slot_bytes(CONTEXT) + generator._slot_bytes(SHORT_ROOM))
    monkeypatch.setattr(slots, "free_memory", lambda: room_for_two)
    more = turns(3, "a" * 300, first.text, "c" * 600, max_tokens=300)
    (second,) = run(engine, more)
    assert cached(second) == first.prompt_tokens + 40 - 1
    assert (generator.room, generator._slots) == (CONTEXT, 2)
    again = turns(4, "b" * 300, "", "More.")
    (third,) = run(engine, again)
    assert cached(third) >= len(witness.asks(other)) - TAIL
    check(witness, bare, begin, other, more, again)


# ------------------------------------------------------------------------------- cancelling


def test_what_was_read_before_a_cancel_is_not_read_again(
    engine: LlamaEngine, witness: Witness, bare: BareLoop
) -> None:
    asked = Asked(engine, turns(1, "a" * 1500))
    for _ in range(2):
        engine.step()
    asked.job.cancel()
    engine.step()
    again = turns(2, "a" * 1500)
    (answer,) = run(engine, again)
    assert cached(answer) == 2 * PREFILL_CHUNK
    check(witness, bare, again)


def test_a_chunk_that_is_broken_off_leaves_no_trace(
    kind: str,
    engine: LlamaEngine,
    witness: Witness,
    bare: BareLoop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = turns(1, "a" * 600, max_tokens=4)
    (first,) = run(engine, begin)
    asked = Asked(engine, turns(2, "a" * 600 + "b" * 900))
    engine.step()
    (generation,) = generator_of(engine)._active.values()
    read = len(generation.sequence.tokens)
    decode = Context.decode

    def cancel_amid(context: Context, rows: Any, owner: Any = None) -> None:
        asked.job.cancel()
        decode(context, rows, owner)

    with monkeypatch.context() as patch:
        patch.setattr(Context, "decode", cancel_amid)
        engine.step()
    assert asked.answer == Failed(id=2, kind="cancelled", detail="")
    assert not generator_of(engine)._active
    again = turns(3, "a" * 600 + "b" * 900)
    (answer,) = run(engine, again)
    assert cached(answer) == (read if kind in CAN_CUT_A_LITTLE else first.prompt_tokens - TAIL)
    check(witness, bare, begin, again)


def test_an_answer_that_is_cancelled_leaves_what_was_read(
    engine: LlamaEngine, witness: Witness, bare: BareLoop
) -> None:
    asked = Asked(engine, turns(1, "a" * 300, max_tokens=200))
    for _ in range(50):
        engine.step()
    asked.job.cancel()
    engine.step()
    again = turns(2, "a" * 300, max_tokens=20)
    (answer,) = run(engine, again)
    assert cached(answer) >= answer.prompt_tokens - TAIL
    check(witness, bare, again)


def test_a_long_text_is_left_at_its_last_checkpoint(path: Path) -> None:
    engine = load(path, context_length=2 * STRIDE)
    run(engine, shared("a" * (STRIDE + 500)))
    (asked,) = run(engine, shared("a" * (STRIDE + 90) + "b" * 200))
    assert cached(asked) >= STRIDE


# --------------------------------------------------------------------------------- judging


def test_answers_are_judged_one_by_one_as_well_as_together_and_the_prompt_is_read_once(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ["a label", "another", "third" * 10]
    alone = [values(engine, score("x" * 700, label))[0] for label in labels]
    sizes: list[int] = []
    decode = Context.decode

    def note_size(context: Context, rows: Any, owner: Any = None) -> None:
        sizes.append(len(rows))
        decode(context, rows, owner)

    values(engine, score("y" * 700, "a label"))  # so that nothing of it is known
    monkeypatch.setattr(Context, "decode", note_size)
    together = values(engine, score("x" * 700, *labels))
    assert together == pytest.approx(alone, abs=SAME)
    assert 700 <= sum(sizes) < 2 * 700
