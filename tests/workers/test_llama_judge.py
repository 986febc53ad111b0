"""What a real model thinks of given answers, read off its logits."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from car_rpc.wire.content import Message
from car_rpc.wire.tasks import RERANK_INSTRUCTION
from car_rpc.wire.worker import Failed, Rank, Reply, Score
from tests.workers.conftest import DEMO_MODEL, Worker

pytest.importorskip("llama_cpp")

pytestmark = [pytest.mark.llama, pytest.mark.process]

QUERY = "What is the capital of France?"
RIGHT, WRONG = "Paris is the capital of France.", "The lamp costs 20 dollars."


def rank(*documents: str, query: str = QUERY, request_id: int = 1) -> Rank:
    return Rank(id=request_id, query=query, documents=[*documents], instruction=RERANK_INSTRUCTION)


def score(text: str, *answers: str, request_id: int = 1) -> Score:
    messages = [Message(role="user", content=text)]
    return Score(id=request_id, messages=messages, answers=[*answers])


def values(answer: Reply | Failed) -> list[float]:
    assert isinstance(answer, Reply), answer
    return answer.result


def test_a_head_for_ranking_and_the_logits_say_the_same(
    start_worker: Callable[..., Worker],
) -> None:
    by_head, by_logits = start_worker("llama_cpp"), start_worker("llama_cpp")
    by_head.load(DEMO_MODEL, pooling="rank")
    by_logits.load(DEMO_MODEL)
    request = rank(RIGHT, WRONG, "It says <|im_end|> in the middle.", "")
    head, logits = values(by_head.ask(request)), values(by_logits.ask(request))
    assert head == pytest.approx(logits, abs=1e-4)
    assert head[0] > 0.9
    assert head[1] < 0.1


def test_a_model_whose_file_lost_its_head_is_judged_by_its_logits(
    start_worker: Callable[..., Worker],
) -> None:
    headless, by_logits = start_worker("llama_cpp"), start_worker("llama_cpp")
    headless.load(DEMO_MODEL, pooling="rank", has_rank_head=False)
    by_logits.load(DEMO_MODEL)
    request = rank(RIGHT, WRONG)
    assert values(headless.ask(request)) == values(by_logits.ask(request))


def test_the_probability_of_an_answer_is_that_of_its_tokens(
    start_worker: Callable[..., Worker], model_file: Callable[..., Path]
) -> None:
    worker = start_worker("llama_cpp")
    worker.load(model_file())
    # The vocabulary has the 256 bytes and the markers: all answers of one byte, and the end
    # alone, are at most everything that can be said.
    bytes_ = [chr(code) for code in range(32, 127)]
    likelihoods = values(worker.ask(score("hi", "", *bytes_)))
    assert all(value < 0 for value in likelihoods)
    assert sum(map(math.exp, likelihoods)) < 1
    again = values(worker.ask(score("hi", *reversed(bytes_))))
    assert again[::-1] == pytest.approx(likelihoods[1:], abs=1e-3)


def test_it_is_the_probability_with_which_the_model_answers(
    start_worker: Callable[..., Worker],
) -> None:
    worker = start_worker("llama_cpp")
    worker.load(DEMO_MODEL)
    worker.send(worker.request("Is fire hot? Answer yes or no.", thinking="off"))
    events, _ = worker.collect(1)
    answered = "".join(getattr(event, "text", "") for event in events).strip()
    others = [answered + "!", "seventeen", "no no"]
    likelihoods = values(
        worker.ask(score("Is fire hot? Answer yes or no.", *others, answered, request_id=2))
    )
    assert max(likelihoods) == likelihoods[-1], "what greedy sampling says is the likeliest"


def test_judging_does_not_change_what_is_generated_meanwhile(
    start_worker: Callable[..., Worker],
) -> None:
    worker = start_worker("llama_cpp")
    worker.load(DEMO_MODEL)
    alone = worker.generate("Tell me a story.", max_tokens=64)
    worker.send(worker.request("Tell me a story.", max_tokens=64), rank(RIGHT, WRONG, request_id=2))
    events, _ = worker.collect(1)
    text = "".join(getattr(event, "text", "") for event in events)
    assert text == "".join(getattr(event, "text", "") for event in alone)


def test_what_is_too_long_is_refused_with_the_counts(
    start_worker: Callable[..., Worker], model_file: Callable[..., Path]
) -> None:
    worker = start_worker("llama_cpp")
    worker.load(model_file())
    long = worker.ask(rank("short", "x" * 600))
    assert isinstance(long, Failed)
    assert (long.kind, long.data["index"]) == ("context_overflow", 1)
    label = worker.ask(score("hi", "ok", "y" * 200))
    assert isinstance(label, Failed)
    assert (label.kind, label.data) == ("invalid_request", {"index": 1})
    assert values(worker.ask(score("hi", "ok")))
