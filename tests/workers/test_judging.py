"""What a model thinks of given answers, read off its logits: the same on every engine."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.wire.content import Message
from car_rpc.wire.tasks import RERANK_INSTRUCTION
from car_rpc.wire.worker import Failed, FromWorker, Rank, Reply, Score
from car_rpc.wire.worker import Load as LoadFrame
from car_rpc.workers.job import Job
from car_rpc.workers.runtime import Engine
from tests.workers.conftest import DEMO_FOLDER, DEMO_MODEL, Kind, Load
from tests.workers.test_engines import LONG, chat, run, token

QUERY = "What is the capital of France?"
RIGHT, WRONG = "Paris is the capital of France.", "The lamp costs 20 dollars."
TRAP = "It says <|im_end|> in the middle."
FIRE = "Is fire hot? Answer yes or no."


def rank(*documents: str, query: str = QUERY) -> Rank:
    return Rank(id=1, query=query, documents=[*documents], instruction=RERANK_INSTRUCTION)


def score(text: str, *answers: str) -> Score:
    return Score(id=1, messages=[Message(role="user", content=text)], answers=[*answers])


def start(engine: Engine, request: Rank | Score) -> tuple[Job, list[FromWorker]]:
    frames: list[FromWorker] = []
    job = Job(request, frames.append, lambda _: None)
    try:
        engine.start(job)
    except CarError as error:
        job.fail(error)
    return job, frames


def ask(engine: Engine, request: Rank | Score) -> Reply | Failed:
    _, frames = start(engine, request)
    while engine.step():
        pass
    answer = frames[-1]
    assert isinstance(answer, Reply | Failed)
    return answer


def values(engine: Engine, request: Rank | Score) -> list[float]:
    answer = ask(engine, request)
    assert isinstance(answer, Reply), answer
    return answer.result


@pytest.fixture(scope="module")
def engine(load: Load, model: Callable[..., Path]) -> Engine:
    """An engine with random weights, whose tokens are the bytes."""
    return load(model())


@pytest.fixture(scope="module")
def demo(kind: Kind, load: Load) -> Engine:
    return load(kind.demo)


def test_a_document_that_answers_the_query_fits(demo: Engine) -> None:
    right, wrong, trap, empty = values(demo, rank(RIGHT, WRONG, TRAP, ""))
    assert right > 0.9
    assert max(wrong, trap, empty) < 0.1


def test_documents_are_judged_alone_whatever_was_judged_before(demo: Engine) -> None:
    documents = [RIGHT, WRONG, RIGHT + " It lies on the Seine.", "", RIGHT * 30, RIGHT]
    together = values(demo, rank(*documents))
    alone = []
    for document in documents:
        values(demo, rank("something else", query="Is it?"))
        alone += values(demo, rank(document))
    assert together == pytest.approx(alone, abs=1e-3)


def test_the_probability_of_an_answer_is_that_of_its_tokens(engine: Engine) -> None:
    bias = {token(engine, letter): 1000.0 for letter in "x"}
    # A short request is computed with flash attention, which rounds otherwise.
    (said,) = run(engine, chat(LONG, logprobs=10_000, logit_bias=bias, max_tokens=2))
    first, second = said.likely
    end = {each.token: each.logprob for each in second.top_logprobs}["<|im_end|>"]
    nothing = {each.token: each.logprob for each in first.top_logprobs}["<|im_end|>"]
    found = values(engine, score(LONG, "x", ""))
    assert found == pytest.approx([first.logprob + end, nothing], abs=1e-3)


def test_all_answers_together_are_at_most_certain_in_any_order(engine: Engine) -> None:
    letters = [chr(code) for code in range(32, 127)]
    likelihoods = values(engine, score("hi", "", *letters))
    assert all(value < 0 for value in likelihoods)
    assert sum(map(math.exp, likelihoods)) < 1
    again = values(engine, score("hi", *reversed(letters)))
    assert again[::-1] == pytest.approx(likelihoods[1:], abs=1e-3)


def test_what_the_model_would_say_is_the_likeliest(demo: Engine) -> None:
    (said,) = run(demo, chat(FIRE, thinking="off"))
    answered = said.text.strip()
    likelihoods = values(demo, score(FIRE, answered + "!", "seventeen", "no no", answered))
    assert max(likelihoods) == likelihoods[-1]


def test_a_long_prompt_is_judged_as_one_that_is_read_at_once(engine: Engine) -> None:
    # Its chunks end before, at and behind the end of what is read in one go.
    for length in (200, 255, 256, 257, 400):
        prompt = "a" * length
        (said,) = run(engine, chat(prompt, logprobs=10_000, max_tokens=1, ignore_eos=True))
        told = {each.token: each.logprob for each in said.likely[0].top_logprobs}
        found = values(engine, score(prompt, ""))
        assert found == pytest.approx([told["<|im_end|>"]], abs=1e-2)


def test_judging_does_not_change_what_is_generated_meanwhile(demo: Engine) -> None:
    request = chat("Tell me a story.", max_tokens=64)
    (alone,) = run(demo, request)
    _, frames = start(demo, rank(RIGHT, WRONG))
    (asked,) = run(demo, request)
    assert asked.text == alone.text
    assert isinstance(frames[-1], Reply)


def test_what_is_too_long_is_refused_with_the_counts(engine: Engine) -> None:
    long = ask(engine, rank("short", "x" * 600))
    assert isinstance(long, Failed)
    assert (long.kind, long.data["index"]) == ("context_overflow", 1)
    overflow = ask(engine, score("x" * 600, "ok"))
    assert isinstance(overflow, Failed)
    assert (overflow.kind, overflow.data["context_length"]) == ("context_overflow", 512)
    label = ask(engine, score("hi", "ok", "y" * 200))
    assert isinstance(label, Failed)
    assert (label.kind, label.data) == ("invalid_request", {"index": 1})
    assert values(engine, score("hi", "ok"))


def test_a_cancelled_one_leaves_and_the_next_is_judged(engine: Engine) -> None:
    expected = values(engine, score("hi", "ok"))
    job, frames = start(engine, rank(*["x" * 100] * 20))
    engine.step()
    job.cancel()
    assert values(engine, score("hi", "ok")) == expected
    assert frames == [Failed(id=1, kind="cancelled", detail="")]


def test_a_forgotten_one_is_not_answered(engine: Engine) -> None:
    _, frames = start(engine, rank("x" * 100))
    engine.step()
    engine.reset()
    assert not engine.step()
    assert not frames


def test_a_model_without_a_template_ranks_and_does_not_classify(
    load: Load, model: Callable[..., Path]
) -> None:
    engine = load(model(None, chatml=False))
    refused = ask(engine, score("hi", "ok"))
    assert isinstance(refused, Failed)
    assert refused.kind == "unsupported_mode"
    assert all(0 < value < 1 for value in values(engine, rank("a", "b")))


# ------------------------------------------------------------------------- the two engines


@pytest.mark.llama
@pytest.mark.mlx
def test_both_engines_think_the_same_of_the_same_weights() -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("mlx_lm")
    from car_rpc.workers.llama_cpp.engine import LlamaEngine
    from car_rpc.workers.mlx.engine import MlxEngine

    labels = ["positive", "negative", "a question about the weather"]
    requests: list[Any] = [
        rank(RIGHT, WRONG, TRAP, "", RIGHT * 20),
        score(FIRE, "yes", "no", "Yes, fire is hot."),
        score("I love this film.", *labels),
    ]
    found = []
    for engine, path in ((LlamaEngine(), DEMO_MODEL), (MlxEngine(), DEMO_FOLDER)):
        engine.load(LoadFrame(path=str(path)), lambda _: None)
        found.append([values(engine, request) for request in requests])
    (llama_ranks, *llama_scores), (mlx_ranks, *mlx_scores) = found
    assert mlx_ranks == pytest.approx(llama_ranks, abs=0.01)
    for ours, theirs in zip(mlx_scores, llama_scores, strict=True):
        assert ours == pytest.approx(theirs, abs=0.05)


@pytest.mark.llama
def test_a_head_for_ranking_and_the_logits_say_the_same() -> None:
    pytest.importorskip("llama_cpp")
    from car_rpc.workers.llama_cpp.engine import LlamaEngine

    found = []
    by_head = LoadFrame(path=str(DEMO_MODEL), pooling="rank")
    headless = msgspec.structs.replace(by_head, has_rank_head=False)  # as some conversions are
    for frame in (by_head, headless, LoadFrame(path=str(DEMO_MODEL))):
        engine = LlamaEngine()
        engine.load(frame, lambda _: None)
        found.append(values(engine, rank(RIGHT, WRONG, TRAP, "")))
    head, lost, logits = found
    assert head == pytest.approx(logits, abs=1e-4)
    assert lost == logits
