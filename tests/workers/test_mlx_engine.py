"""What only the MLX engine does, inside this process: beginnings that are kept, odd models."""

import gc
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.wire.content import Message
from car_rpc.wire.events import (
    ContentBlockStop,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)
from car_rpc.wire.inference import JsonObjectFormat, ResponseFormat
from car_rpc.wire.worker import AnswerPrefix, Failed, Generate, Load, SamplingParams
from tests.workers.conftest import DEMO_FOLDER, ROOT
from tests.workers.test_beginnings import cached, keeping
from tests.workers.test_engines import LONG, Asked, chat, finish, run
from tests.workers.test_judging import rank, score, values

pytest.importorskip("mlx_lm")

from mlx_lm.generate import generate_step

from car_rpc.workers.mlx.engine import MlxEngine, make_engine
from car_rpc.workers.mlx.generator import MlxGeneration
from car_rpc.workers.mlx.model import PREFILL_CHUNK
from car_rpc.workers.mlx.native import mx
from car_rpc.workers.mlx.rows import Rows

pytestmark = pytest.mark.mlx

#: The outputs of llama.cpp on the same weights. A narrow margin may fall to rounding.
GOLDEN = json.loads((ROOT / "tools" / "demo_model" / "golden.json").read_text(encoding="utf-8"))
WIDE = [case for case in GOLDEN if case["f16_margin"] > 1]

#: Prompts whose caches are of very different sizes.
SHARED_BATCH = [("a", 450), ("b", 10), ("c", 10), ("d", 10)]

#: Tokens before the text of each prompt.
FRAME = 1 + len("user\n")

#: What MLX holds on to besides.
SLACK_BYTES = 200_000

#: A sliding window, whose memory of a token cannot be taken back.
WINDOW = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}


def load(path: Path, **options: Any) -> MlxEngine:
    engine = make_engine()
    engine.load(Load(path=str(path), **options), lambda _: None)
    return engine


@pytest.fixture(scope="module")
def shared(model_folder: Callable[..., Path]) -> MlxEngine:
    return load(model_folder())


@pytest.fixture
def engine(shared: MlxEngine) -> MlxEngine:
    """An engine that remembers nothing."""
    shared.reset()
    return shared


def test_its_context_is_what_its_entry_asks_for_or_8192_tokens(
    model_folder: Callable[..., Path],
) -> None:
    load = Load(path=str(model_folder(context=16384)))
    loaded = make_engine().load(load, lambda _: None)
    assert (loaded.context_length, loaded.context_trained) == (8192, 16384)
    assert loaded.context_is_fixed, "it grows with no memory"


# ---------------------------------------------------------------- beginnings that are kept


def test_what_is_kept_takes_no_more_memory_than_it_may(engine: MlxEngine) -> None:
    prefixes = engine._generator._prefixes
    gc.collect()
    before = mx.get_active_memory()
    for number in range(6):  # a long one and short ones share a batch
        contents = [f"{number}{letter}" + "x" * length for letter, length in SHARED_BATCH]
        run(engine, *map(keeping, contents))
        gc.collect()
        assert mx.get_active_memory() - before <= prefixes.nbytes + SLACK_BYTES
    assert prefixes.nbytes > 6 * 480 * engine._model.kv_bytes_per_token
    engine.reset()
    gc.collect()
    assert mx.get_active_memory() <= before + SLACK_BYTES


def cancel_amid_a_chunk(
    monkeypatch: pytest.MonkeyPatch, *asked: Asked, layer: int = 1
) -> list[Any]:
    """Cancel requests while a layer, the first one or another, reads some of their prompts.

    Returns:
        The layers that read some of a prompt from now on.
    """
    layers: list[Any] = []
    fetch = Rows.update_and_fetch

    def note(rows: Rows, keys: Any, values: Any) -> Any:
        if keys.shape[2] > 1:
            layers.append(rows)
            for each in asked if len(layers) == layer else ():
                each.job.cancel()
                assert each.answer == Failed(id=1, kind="cancelled", detail="")  # at once
        return fetch(rows, keys, values)

    monkeypatch.setattr(Rows, "update_and_fetch", note)
    return layers


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("lengths", [[480], [480, 40 + PREFILL_CHUNK], [480, 450, 460]])
def test_prompts_that_are_cancelled_amid_a_chunk_leave_it_and_keep_those_before(
    engine: MlxEngine, monkeypatch: pytest.MonkeyPatch, lengths: list[int], chunks: int, layer: int
) -> None:
    contents = [letter * length for letter, length in zip("abc", lengths, strict=False)]
    asked = [Asked(engine, keeping(content)) for content in contents]
    for _ in range(chunks):
        engine.step()
    running = engine._generator._running.values()
    read = [each.read_count for each in running] or [0 for _ in asked]
    layers = cancel_amid_a_chunk(monkeypatch, *asked, layer=layer)
    engine.step()
    monkeypatch.undo()
    assert len(layers) == layer
    assert not engine.step()
    for content, length in zip(contents, read, strict=True):
        (again,) = run(engine, keeping(content))
        assert max(cached(again), FRAME) == max(length, FRAME)  # how all begin is known of others
        assert again.text == run(engine, chat(content))[0].text


def test_a_prompt_that_is_cancelled_beside_others_changes_none_of_them(
    engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [chat("one", max_tokens=40, ignore_eos=True), chat("b" * 200, ignore_eos=True)]
    alone = [run(engine, request)[0].events for request in requests]
    running = Asked(engine, requests[0])
    for _ in range(4):
        engine.step()
    left = Asked(engine, keeping("c" * 480))
    layers = cancel_amid_a_chunk(monkeypatch, left)
    engine.step()
    assert len(layers) == 1
    reading, left = Asked(engine, requests[1]), Asked(engine, keeping("d" * 480))
    cancel_amid_a_chunk(monkeypatch, left)
    finish(engine, running, reading)
    assert [running.events, reading.events] == alone
    assert not [event for event in left.events if isinstance(event, TextDelta)]


@pytest.mark.parametrize("options", [{}, {"logprobs": 1}])
@pytest.mark.parametrize("form", [None, JsonObjectFormat()])
def test_a_first_token_is_told_before_the_step_behind_it(
    engine: MlxEngine,
    monkeypatch: pytest.MonkeyPatch,
    form: ResponseFormat | None,
    options: dict[str, int],
) -> None:
    steps: list[Any] = []
    network = type(engine._model.network)
    compute = network.__call__

    def note(self: Any, tokens: Any, **others: Any) -> Any:
        if tokens.shape[1] == 1:
            steps.append(tokens)
        return compute(self, tokens, **others)

    monkeypatch.setattr(network, "__call__", note)
    request = chat("x" * 40, max_tokens=1, **options)
    (answer,) = run(engine, msgspec.structs.replace(request, response_format=form))
    assert answer.usage.completion_tokens == 1
    assert len(answer.likely) == len(options)
    assert len(steps) == 1


def test_a_seed_chooses_the_same_after_a_cut() -> None:
    engine = load(DEMO_FOLDER)
    request = chat("Tell me a short story.", temperature=1.0, seed=11, thinking="off")
    (whole,) = run(engine, request)
    pieces = [event.text for event in whole.events if isinstance(event, TextDelta)]
    for count in (1, 5, len(pieces) - 1):
        begun = "".join(pieces[:count])
        (rest,) = run(engine, msgspec.structs.replace(request, prefix=AnswerPrefix(text=begun)))
        assert begun + rest.text == whole.text


@pytest.mark.parametrize("company", [0, 3])
def test_greedy_answers_are_those_of_mlx_lm_itself(
    engine: MlxEngine, monkeypatch: pytest.MonkeyPatch, company: int
) -> None:
    tokens: dict[int, list[int]] = {}
    accept = MlxGeneration.accept

    def note(generation: MlxGeneration, token: int) -> bool:
        tokens.setdefault(generation.job.id, []).append(token)
        return accept(generation, token)

    monkeypatch.setattr(MlxGeneration, "accept", note)
    texts = ["word " * 60, "other", "a longer one " * 20, "b" * 400][: 1 + company]
    requests = [
        msgspec.structs.replace(chat(text, max_tokens=40, ignore_eos=True), id=number)
        for number, text in enumerate(texts)
    ]
    run(engine, *requests)
    for request in requests:
        prompt = mx.array(engine._prompter.prompt(request).tokens)
        steps = generate_step(
            prompt, engine._model.network, max_tokens=40, prefill_step_size=PREFILL_CHUNK
        )
        assert tokens[request.id] == [token for token, _ in steps]


# ---------------------------------------------------------------------------- the models


def test_the_demo_model_says_what_it_says_in_llama_cpp(
    proof_count: Callable[[int, int], int],
) -> None:
    engine = load(DEMO_FOLDER)
    cases = WIDE[:: len(WIDE) // proof_count(4, len(WIDE))]
    asked = run(
        engine,
        *(
            Generate(
                id=1,
                messages=[message(turn) for turn in case["messages"]],
                tools=case["tools"] or [],
                params=SamplingParams(
                    temperature=0.0, thinking="on" if case["thinking"] else "off", max_tokens=200
                ),
            )
            for case in cases
        ),
    )
    assert len(cases) >= proof_count(4, 20)
    for case, answer in zip(cases, asked, strict=True):
        assert said(answer) == "".join(case["f16"].split()), case["messages"]


def message(turn: dict[str, Any]) -> Message:
    calls = [{"id": "1", **call["function"]} for call in turn.get("tool_calls", [])]
    return msgspec.convert({**turn, **({"tool_calls": calls} if calls else {})}, Message)


def said(answer: Asked) -> str:
    """The answer as the model wrote it, but for white space."""
    reasoning = "".join(e.text for e in answer.events if isinstance(e, ReasoningDelta))
    written = f"<think>{reasoning}</think>" if reasoning else ""
    for event in answer.events:
        if isinstance(event, TextDelta):
            written += event.text
        elif isinstance(event, ToolCallStart):
            written += f'<tool_call>{{"name": "{event.name}", "arguments": '
        elif isinstance(event, ToolCallDelta):
            written += event.arguments_delta
        elif isinstance(event, ContentBlockStop):
            written += "}</tool_call>"
    return "".join(written.split())


@pytest.fixture(scope="module")
def sliding(model_folder: Callable[..., Path]) -> MlxEngine:
    return load(model_folder(**{name: freeze(value) for name, value in WINDOW.items()}))


def freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_a_model_whose_memory_cannot_be_cut_answers_alone_and_the_same(sliding: MlxEngine) -> None:
    requests = [chat(text, max_tokens=12, ignore_eos=True) for text in ("x" * 40, "y", LONG)]
    alone = [run(sliding, request)[0].events for request in requests]
    assert [asked.events for asked in run(sliding, *requests)] == alone


def test_its_answers_can_be_paused_and_its_prompts_kept(sliding: MlxEngine) -> None:
    request = chat("x" * 40, ignore_eos=True)
    (expected,) = run(sliding, request)
    asked = Asked(sliding, request)
    for _ in range(6):
        sliding.step()
    asked.job.pause()
    assert not sliding.step()
    asked.job.resume()
    run(sliding)
    assert asked.events == expected.events
    run(sliding, keeping("x" * 40, ignore_eos=True))
    turns = [*request.messages, Message(role="assistant", content=expected.text)]
    turns.append(Message(role="user", content="more"))
    (alone,) = run(sliding, msgspec.structs.replace(request, messages=turns))
    (after,) = run(sliding, msgspec.structs.replace(request, messages=turns, prefix_cache=True))
    assert after.text == alone.text


def test_answers_are_judged_one_by_one_as_well_as_together(sliding: MlxEngine) -> None:
    labels = ["a label", "another", "third"]
    together = values(sliding, score("x" * 60, *labels))
    assert together == [values(sliding, score("x" * 60, label))[0] for label in labels]


def test_the_question_about_documents_is_read_once(
    engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    logits = engine._model.logits

    def note(tokens: Any, cache: Any) -> Any:
        read.append(len(tokens))
        return logits(tokens, cache)

    monkeypatch.setattr(engine._model, "logits", note)
    values(engine, rank("a" * 10))
    first = sum(read)
    values(engine, rank("b" * 10, "c" * 10))
    assert sum(read) < 1.5 * first


def test_quantized_weights_say_nearly_what_the_whole_ones_say(
    engine: MlxEngine, model_folder: Callable[..., Path]
) -> None:
    quantized = load(model_folder(bits=8))
    assert quantized._model.size_bytes < engine._model.size_bytes / 2
    request = chat(max_tokens=4, ignore_eos=True)
    assert run(quantized, request)[0].text == run(engine, request)[0].text


def test_without_the_memory_for_singles_halves_stay_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = load(DEMO_FOLDER)
    monkeypatch.setattr(
        "car_rpc.workers.mlx.model.physical_memory", lambda: 2 * whole._model.size_bytes - 1
    )
    halved = load(DEMO_FOLDER)
    assert halved._model.size_bytes * 2 == whole._model.size_bytes
    request = chat("Hello!", thinking="off")
    assert run(halved, request)[0].text == run(whole, request)[0].text


def test_a_context_that_cannot_fit_is_refused(model_folder: Callable[..., Path]) -> None:
    with pytest.raises(CarError, match="does not fit") as caught:
        load(model_folder(context=2**40), context_length=2**40)
    assert caught.value.kind == "out_of_memory"


def test_running_out_of_memory_in_a_step_is_told_apart(
    engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Asked(engine, chat())
    monkeypatch.setattr(engine._generator._batch, "next", fail("[malloc] Unable to allocate"))
    with pytest.raises(MemoryError):
        engine.step()
    engine.reset()
    Asked(engine, chat())
    monkeypatch.setattr(engine._generator._batch, "next", fail("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        engine.step()


def fail(message: str) -> Callable[[], None]:
    def act() -> None:
        raise RuntimeError(message)

    return act


@pytest.mark.parametrize("params", [{"top_k": 10**6}, {"top_p": 0.9, "min_p": 0.05, "top_k": 5}])
def test_cuts_are_taken_together_and_beyond_the_vocabulary(
    engine: MlxEngine, params: dict[str, Any]
) -> None:
    (asked,) = run(engine, chat(temperature=1.0, seed=1, ignore_eos=True, **params))
    assert asked.usage.completion_tokens == 16


def test_equally_likely_tokens_are_drawn_equally_often(engine: MlxEngine) -> None:
    bias = {engine._vocab.tokenize(letter, special=False)[0]: 1e6 for letter in "xy"}
    options = {"logit_bias": bias, "top_k": 2, "temperature": 1e4, "max_tokens": 100}
    (asked,) = run(engine, chat(seed=3, **options))
    assert set(asked.text) == {"x", "y"}
    assert math.isclose(asked.text.count("x"), 50, abs_tol=20)  # four standard deviations


def test_failures_of_a_prompt_are_the_requests_own(engine: MlxEngine) -> None:
    good, bad = run(engine, chat("good"), chat(logit_bias={10**6: 1.0}))
    assert isinstance(bad.answer, Failed)
    assert good.text
