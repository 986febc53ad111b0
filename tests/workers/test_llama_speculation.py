"""Drafts with real models: the same answers in fewer steps, beside everything else."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.wire.inference import JsonSchemaFormat, RegexFormat
from car_rpc.wire.speculation import DraftSpeculation, LookupSpeculation, Speculation
from car_rpc.wire.worker import Events, Failed, Generate, Load, Reply
from tests.workers.conftest import DEMO_MODEL
from tests.workers.test_engines import Asked, chat, run
from tests.workers.test_structured import formed, validity

pytest.importorskip("llama_cpp")

from car_rpc.workers.llama_cpp import draft as drafting
from car_rpc.workers.llama_cpp.context import DecodeError
from car_rpc.workers.llama_cpp.draft import READ, DraftModel
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.sampler import Sampler
from car_rpc.workers.llama_cpp.speculation import Speculator
from car_rpc.workers.speculation.pace import LENGTHS
from tests.workers.memories import WRITERS

pytestmark = pytest.mark.llama

DRAFT_MODEL = DEMO_MODEL.with_name("tiny-chat-Q8_0.gguf")
LOOKUP = LookupSpeculation()
DRAFT = DraftSpeculation(path=str(DRAFT_MODEL))

#: What the demo model says to this repeats itself.
REPEAT = "Repeat this word by word: one two three four five, one two three four five, one two"

#: The sizes of batches change the last digits of what is computed, and 8 bits make more of it.
MAX_LOGIT_CHANGE = 0.2


def load(path: Path, speculation: Speculation | None, **options: Any) -> LlamaEngine:
    engine = LlamaEngine()
    engine.load(Load(path=str(path), speculation=speculation, **options), lambda _: None)
    return engine


@pytest.fixture(scope="module")
def plain() -> LlamaEngine:
    return load(DEMO_MODEL, None)


@pytest.fixture(scope="module", params=[LOOKUP, DRAFT], ids=["lookup", "draft"])
def loaded(request: pytest.FixtureRequest) -> LlamaEngine:
    return load(DEMO_MODEL, request.param)


@pytest.fixture
def engine(loaded: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[LlamaEngine]:
    """An engine that always drafts, in changing lengths, whatever that costs."""
    draft_always(loaded, monkeypatch)
    yield loaded
    loaded.reset()


def draft_always(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter(LENGTHS * 10_000)
    pace = speculator(engine)._pace
    pace.plain(0.01)
    monkeypatch.setattr(pace, "length", lambda kind, most, unread: min(next(lengths), most))


def speculator(engine: LlamaEngine) -> Speculator:
    assert engine._generators is not None
    assert engine._generators.long.speculator is not None
    return engine._generators.long.speculator


def drafted(asked: Asked) -> int:
    return asked.usage.draft_tokens or 0


def right(asked: Asked) -> int:
    return asked.usage.accepted_draft_tokens or 0


class Choices:
    """What was sampled, and from which logits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: list[int] = []
        self.logits: list[Any] = []
        sample = Sampler.sample

        def note(sampler: Sampler, context: Any, index: int, *allowed: Any) -> int:
            self.logits.append(context.logits(index, sampler._vocab_size).copy())
            self.tokens.append(sample(sampler, context, index, *allowed))
            return self.tokens[-1]

        monkeypatch.setattr(Sampler, "sample", note)

    def of(self, engine: LlamaEngine, request: Generate) -> tuple[Asked, list[int], list[Any]]:
        self.tokens, self.logits = [], []
        (asked,) = run(engine, request)
        return asked, self.tokens, self.logits


@pytest.mark.parametrize("text", [REPEAT, "Count from one to ten.", "Tell me a story."])
@pytest.mark.parametrize("thinking", ["on", "off"])
def test_a_greedy_answer_is_the_same_but_for_the_last_digits(
    plain: LlamaEngine,
    engine: LlamaEngine,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    thinking: str,
) -> None:
    choices = Choices(monkeypatch)
    request = chat(text, thinking=thinking, max_tokens=120)
    _, expected, logits = choices.of(plain, request)
    asked, tokens, with_drafts = choices.of(engine, request)
    assert isinstance(asked.answer, Reply)
    pairs = zip(expected, tokens, logits, with_drafts, strict=False)
    for number, (there, here, before, after) in enumerate(pairs):
        assert abs(before - after).max() < MAX_LOGIT_CHANGE, number
        if there != here:  # from here on the texts are different ones
            assert before[there] - before[here] < MAX_LOGIT_CHANGE
            return
    assert len(tokens) == len(expected)


def test_drafts_save_most_steps_of_a_text_that_repeats_itself(engine: LlamaEngine) -> None:
    (asked,) = run(engine, chat(REPEAT, max_tokens=200, ignore_eos=True))
    assert right(asked) > 100


@pytest.mark.parametrize("params", [{"temperature": 1.0}, {"repeat_penalty": 1.2, "logprobs": 2}])
def test_drafts_go_with_every_way_to_sample(engine: LlamaEngine, params: dict[str, Any]) -> None:
    (asked,) = run(engine, chat(REPEAT, max_tokens=80, ignore_eos=True, seed=1, **params))
    assert 0 < right(asked) <= drafted(asked)
    assert asked.usage.completion_tokens == 80
    told = [each for frame in asked.frames if isinstance(frame, Events) for each in frame.logprobs]
    assert bool(told) == ("logprobs" in params)


def test_a_draft_ends_with_a_stop_string(engine: LlamaEngine) -> None:
    whole = run(engine, chat(REPEAT, thinking="off", max_tokens=100, ignore_eos=True))[0].text
    stop = whole[len(whole) // 2 :][:4]
    (asked,) = run(
        engine, chat(REPEAT, thinking="off", max_tokens=100, ignore_eos=True, stop=[stop])
    )
    assert asked.reason == "stop_sequence"
    assert stop not in asked.text


def test_drafts_keep_to_a_form(engine: LlamaEngine) -> None:
    item = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "on": {"type": "boolean"}},
        "required": ["name", "on"],
        "additionalProperties": False,
    }
    schema = {"type": "array", "items": item, "minItems": 6, "maxItems": 6}
    (asked,) = run(engine, formed(JsonSchemaFormat(schema=schema), max_tokens=400))
    assert len(json.loads(asked.text)) == 6
    assert validity(asked) is True
    assert right(asked) > 0
    pattern = "([a-d] ?){40}"
    (asked,) = run(engine, formed(RegexFormat(pattern=pattern)))
    assert re.fullmatch(pattern, asked.text)


def test_nothing_is_drafted_while_several_answers_run(engine: LlamaEngine) -> None:
    asked = run(engine, *(chat(REPEAT, max_tokens=60, ignore_eos=True) for _ in range(3)))
    assert [drafted(each) for each in asked] == [0, 0, 0]


def test_an_answer_that_is_cancelled_amid_drafts_leaves_no_trace(engine: LlamaEngine) -> None:
    request = chat(REPEAT, max_tokens=None, ignore_eos=True)
    asked = Asked(engine, request)
    for _ in range(12):
        engine.step()
    said = list(asked.frames)
    asked.job.cancel()
    assert not engine.step()
    assert asked.frames == [*said, Failed(id=1, kind="cancelled", detail="")]
    first, second = (run(engine, chat("next", max_tokens=40))[0] for _ in range(2))
    assert first.text == second.text


def test_drafts_fill_a_context_to_its_end(engine: LlamaEngine) -> None:
    (asked,) = run(engine, chat(REPEAT * 8, thinking="off", max_tokens=None, ignore_eos=True))
    assert asked.usage.total_tokens == asked.usage.context_window
    assert asked.reason == "max_tokens"


# ----------------------------------------------------------------------------- draft models


def test_a_draft_model_of_another_vocabulary_is_refused(model_file: Callable[..., Path]) -> None:
    other = model_file()
    with pytest.raises(CarError) as caught:
        load(DEMO_MODEL, DraftSpeculation(path=str(other)))
    assert caught.value.kind == "model_load_failed"
    assert caught.value.extra["path"] == str(other)
    assert "vocabulary" in str(caught.value)


def test_one_token_that_is_another_is_enough(model_file: Callable[..., Path]) -> None:
    with pytest.raises(CarError, match="token 258 is another one"):
        load(model_file(), DraftSpeculation(path=str(model_file(chatml=False))))


def test_a_draft_model_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CarError) as caught:
        load(DEMO_MODEL, DraftSpeculation(path=str(tmp_path / "none.gguf")))
    assert caught.value.kind == "io_error"
    assert caught.value.detail.startswith("speculation.path: cannot read")


def test_a_draft_model_that_is_no_gguf_file_is_not_taken_for_the_model(tmp_path: Path) -> None:
    (bad := tmp_path / "bad.gguf").write_bytes(b"<html>")
    with pytest.raises(CarError) as caught:
        load(DEMO_MODEL, DraftSpeculation(path=str(bad)))
    assert caught.value.kind == "model_load_failed"
    assert caught.value.detail.startswith(f"speculation.path: {bad} is not a GGUF file")
    assert caught.value.extra == {"path": str(bad)}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_draft_model_must_be_able_to_forget(
    model_file: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    draft = WRITERS[kind](tmp_path / "draft.gguf")
    with pytest.raises(CarError, match="cannot forget"):
        load(model_file(), DraftSpeculation(path=str(draft)))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_model_that_cannot_forget_works_without_drafts(tmp_path: Path, kind: str) -> None:
    engine = load(WRITERS[kind](tmp_path / "model.gguf"), LOOKUP)
    (asked,) = run(engine, chat(REPEAT, max_tokens=30, ignore_eos=True))
    assert isinstance(asked.answer, Reply)
    assert drafted(asked) == 0


def test_the_weights_of_both_are_told() -> None:
    def told(speculation: Speculation | None) -> int:
        frame = Load(path=str(DEMO_MODEL), speculation=speculation)
        return LlamaEngine().load(frame, lambda _: None).model_bytes

    assert told(LOOKUP) == told(None)
    assert told(DRAFT) - told(None) > 3_000_000


def test_a_draft_model_reads_only_the_end_of_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "WINDOW", 400)
    engine = load(DEMO_MODEL, DRAFT)
    draft_always(engine, monkeypatch)
    drafter = speculator(engine)._drafter
    assert isinstance(drafter, DraftModel)
    sizes: list[int] = []
    decode = drafter._context.decode

    def note(rows: Any) -> None:
        sizes.append(len(rows))
        assert rows[-1].position < drafter._context.room
        decode(rows)

    monkeypatch.setattr(drafter._context, "decode", note)
    (asked,) = run(engine, chat("word " * 300, max_tokens=320, ignore_eos=True))
    assert right(asked) > 50
    assert max(sizes) == READ
    assert sizes.count(READ) >= 2  # it began anew where its window was full


def test_a_draft_model_that_fails_is_missed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(DEMO_MODEL, DRAFT)
    draft_always(engine, monkeypatch)
    drafter = speculator(engine)._drafter
    assert isinstance(drafter, DraftModel)

    def fail(rows: Any) -> None:
        raise DecodeError(1)

    with monkeypatch.context() as patch:
        patch.setattr(drafter._context, "decode", fail)
        (asked,) = run(engine, chat(REPEAT, max_tokens=20, ignore_eos=True))
    assert (asked.usage.completion_tokens, drafted(asked)) == (20, 0)
    (asked,) = run(engine, chat(REPEAT, max_tokens=60, ignore_eos=True))
    assert right(asked)
