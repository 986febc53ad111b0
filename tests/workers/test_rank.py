"""Documents in batches and behind a question that is known: each is judged as if it were alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from car_rpc.wire.tasks import RERANK_INSTRUCTION
from car_rpc.wire.worker import Cancel, Failed, Loaded, Rank, Reply
from tests.workers.conftest import DEMO_MODEL, Worker

pytest.importorskip("llama_cpp")

pytestmark = [pytest.mark.llama, pytest.mark.process]

DOCUMENTS = [f"The {animal} number {n} sleeps." for n in range(20) for animal in ("cat", "dog")]


@pytest.fixture(scope="module", params=["logits", "head"])
def worker(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Worker]:
    worker = Worker("llama_cpp", tmp_path_factory.mktemp("worker") / "stderr")
    head = {"pooling": "rank", "has_rank_head": True} if request.param == "head" else {}
    loaded = worker.load(DEMO_MODEL, **head)
    assert isinstance(loaded, Loaded), loaded
    yield worker
    worker.kill()


def scores(worker: Worker, query: str, *documents: str) -> list[float]:
    rank = Rank(id=1, query=query, documents=[*documents], instruction=RERANK_INSTRUCTION)
    answer = worker.ask(rank)
    assert isinstance(answer, Reply), answer
    return answer.result


def test_a_document_scores_among_many_as_alone(worker: Worker) -> None:
    together = scores(worker, "Where is the cat?", *DOCUMENTS)
    alone = [scores(worker, "Where is the cat?", document)[0] for document in DOCUMENTS[::7]]
    np.testing.assert_allclose(together[::7], alone, atol=2e-3)
    assert len({round(score, 4) for score in together}) > 10, "they are told apart"


def test_another_query_and_a_cancelled_one_leave_nothing_behind(worker: Worker) -> None:
    first = scores(worker, "Where is the cat?", *DOCUMENTS[:3])
    scores(worker, "Where is the cat's brother, the dog?", *DOCUMENTS[:3])
    rank = Rank(id=2, query="Where is", documents=DOCUMENTS, instruction=RERANK_INSTRUCTION)
    worker.send(rank, Cancel(id=2))
    assert isinstance(worker.collect(2)[1], Failed)
    np.testing.assert_allclose(
        scores(worker, "Where is the cat?", *DOCUMENTS[:3]), first, atol=2e-3
    )
