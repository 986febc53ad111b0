"""Vectors of texts, from a worker of each engine for language models."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from car_rpc.wire.models import Pooling
from car_rpc.wire.worker import (
    Cancel,
    Embed,
    Embeddings,
    Failed,
    Load,
    Loaded,
    Reply,
)
from tests.workers.conftest import DEMO_FOLDER, DEMO_MODEL, Kind, Worker
from tests.workers.test_engines import embed

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def worker(
    kind: Kind, model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    worker = Worker(kind.engine, tmp_path_factory.mktemp("worker") / "stderr")
    assert isinstance(worker.load(model()), Loaded)
    yield worker
    worker.kill()


def vectors(worker: Worker, *texts: str) -> np.ndarray:
    answer = worker.ask(Embed(id=1, texts=list(texts)))
    assert isinstance(answer, Reply), answer
    result = answer.result
    assert set(result) == set(Embeddings.__struct_fields__)
    array = np.frombuffer(result["data"], "<f4")
    return array.reshape(len(texts), result["dimensions"])


def test_vectors_have_unit_length_and_keep_the_order(worker: Worker) -> None:
    texts = [f"text number {index}" for index in range(40)]
    together = vectors(worker, *texts)
    alone = np.concatenate([vectors(worker, text) for text in texts])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert len(np.unique(alone.round(3), axis=0)) == len(texts)


def test_the_same_text_has_the_same_vector(worker: Worker) -> None:
    first, second = vectors(worker, "same"), vectors(worker, "same")
    np.testing.assert_array_equal(first, second)


def test_an_empty_text_has_a_vector(worker: Worker) -> None:
    assert np.isfinite(vectors(worker, "", "a")).all()


def test_no_texts_have_no_vectors(worker) -> None:
    assert vectors(worker).size == 0


def test_a_text_that_is_too_long_is_named(worker: Worker) -> None:
    answer = worker.ask(Embed(id=1, texts=["short", "x" * 600]))
    assert isinstance(answer, Failed)
    assert answer.kind == "context_overflow"
    assert answer.data == {"prompt_tokens": 600, "context_length": 512, "index": 1}


def test_embedding_can_be_cancelled(worker: Worker) -> None:
    worker.send(Embed(id=1, texts=["x" * 500] * 200), Cancel(id=1))
    assert worker.collect(1)[1] == Failed(id=1, kind="cancelled", detail="")


def test_generating_and_embedding_share_a_worker(worker: Worker) -> None:
    expected = worker.generate()
    worker.send(worker.request(), Embed(id=2, texts=["x" * 300] * 20))
    events, answer = worker.collect(1)
    assert answer == Reply(id=1)
    assert events == expected
    assert isinstance(worker.until(Reply).result, dict)


@pytest.mark.llama
@pytest.mark.mlx
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_both_engines_know_the_same_of_a_text(pooling: Pooling) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("mlx_lm")
    from car_rpc.workers.llama_cpp.engine import LlamaEngine
    from car_rpc.workers.mlx.engine import MlxEngine

    texts = ["The cat sleeps.", "What is the weather in Paris?", "Tell me a story. " * 12, ""]
    known = []
    for engine, path in ((LlamaEngine(), DEMO_MODEL), (MlxEngine(), DEMO_FOLDER)):
        engine.load(Load(path=str(path), pooling=pooling), lambda _: None)
        answer = embed(engine, *texts)
        assert isinstance(answer, Reply), answer
        vectors = np.frombuffer(answer.result.data, "<f4").reshape(len(texts), -1)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        known.append(vectors)
    assert (known[0] * known[1]).sum(axis=1).min() > 0.9999
