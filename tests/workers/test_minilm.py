"""A real embedding model: what the worker says of texts is what the model's authors meant."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from car_rpc.wire.worker import Embed, Failed, Loaded, Reply, Tokenize
from tests.workers.conftest import Worker
from tests.workers.reference import Reference

pytest.importorskip("llama_cpp")
minilm = pytest.importorskip("benchmarks.local.minilm")

pytestmark = [pytest.mark.llama, pytest.mark.process]

TEXTS = [
    "",
    " ",
    ".",
    "a",
    "The cat sits outside.",
    "A man is playing guitar.",
    "The new movie is awesome!",
    "the NEW movie is AWESOME",
    "Is this a question?\nYes, on two lines.\tWith a tab.",
    "def add(a, b):\n    return a + b  # 3.14e-10",
    "https://example.org/a?b=c&d=%20#e",
    "user@example.org wrote 1,234.56 \u20ac",
    "Zażółć gęślą jaźń",
    "Äpfel, Öl, Übermut und Straße",
    "El niño comió piñata mañana",
    "Cafe\u0301 and caf\u00e9 are one word",
    "Việt Nam có nhiều món ăn ngon",
    "İstanbul'da ışık",
    "Съешь же ещё этих мягких французских булок",
    "Η γρήγορη καφέ αλεπού",
    "السلام عليكم ورحمة الله",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "我能吞下玻璃而不伤身体",
    "私はガラスを食べられます。",
    "나는 유리를 먹을 수 있어요",
    "mixed 中文 and English 文字 together",
    "emoji 😀 family 👨\u200d👩\u200d👧 flag 🇩🇪 thumbs 👍🏽",
    "zero\u200bwidth, soft\u00adhyphen, no\u00a0break",
    "\ufeffa mark of order, \ufffd replaced, \x07 a bell",
    "[CLS] spelled out [SEP] [MASK]",
    "##ing ##ed un##believable",
    "antidisestablishmentarianism floccinaucinihilipilification",
    "x" * 120,
    "ﬁ ligature ½ ² № ™ Ａ",
    "a long story about a small town. " * 12,
    "more than two hundred and fifty-six tokens are here " * 30,
]

#: Cosine to the reference that each type of weights keeps; the second is the mean of all texts.
CLOSE = {"F32": (0.99999, 0.99999), "F16": (0.99999, 0.99999), "Q8_0": (0.998, 0.999)}


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference(minilm.minilm_folder())


@pytest.fixture(scope="session")
def expected(reference: Reference) -> np.ndarray:
    return np.array([reference.vector(text) for text in TEXTS])


@pytest.fixture(scope="session")
def minilm_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    cache = tmp_path_factory.mktemp("minilm")
    return lambda kind: minilm.minilm_file(kind, cache)


@pytest.fixture(scope="module")
def worker(minilm_file: Callable[[str], Path], tmp_path_factory) -> Iterator[Worker]:
    worker = Worker("llama_cpp", tmp_path_factory.mktemp("worker") / "stderr")
    loaded = worker.load(minilm_file("F16"))
    assert isinstance(loaded, Loaded)
    assert loaded.context_length == 512
    yield worker
    worker.kill()


def vectors(worker: Worker, *texts: str) -> np.ndarray:
    answer = worker.ask(Embed(id=1, texts=list(texts)))
    assert isinstance(answer, Reply), answer
    return np.frombuffer(answer.result["data"], "<f4").reshape(len(texts), -1).astype(np.float64)


@pytest.mark.parametrize("kind", CLOSE)
def test_vectors_are_those_that_the_model_was_published_with(
    kind: str, minilm_file: Callable[[str], Path], start_worker, expected: np.ndarray
) -> None:
    worker = start_worker("llama_cpp")
    assert isinstance(worker.load(minilm_file(kind)), Loaded)
    cosines = (vectors(worker, *TEXTS) * expected).sum(axis=1)
    least, mean = CLOSE[kind]
    assert cosines.min() > least, TEXTS[int(cosines.argmin())]
    assert cosines.mean() > mean


def test_texts_are_the_same_tokens_that_the_model_was_trained_on(
    worker: Worker, reference: Reference
) -> None:
    for text in TEXTS:
        answer = worker.ask(Tokenize(id=1, text=text))
        assert answer == Reply(id=1, result=reference.tokens(text, framed=False)), text
    embedded = worker.ask(Embed(id=1, texts=TEXTS))
    assert isinstance(embedded, Reply)
    framed = sum(len(reference.tokens_of_content(text)) for text in TEXTS)
    assert embedded.result["prompt_tokens"] == framed


def test_a_text_has_the_same_vector_among_others_as_alone(worker: Worker) -> None:
    together = vectors(worker, *TEXTS)
    alone = np.concatenate([vectors(worker, text) for text in TEXTS])
    backwards = vectors(worker, *TEXTS[::-1])[::-1]
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert (together * alone).sum(axis=1).min() > 0.99999
    assert (together * backwards).sum(axis=1).min() > 0.99999


def test_what_means_the_same_is_closer_than_what_does_not(worker: Worker) -> None:
    cat, kitten, guitar = vectors(
        worker, "A cat sleeps on the sofa.", "A kitten naps on the couch.", "He plays the guitar."
    )
    assert cat @ kitten > 0.6
    assert cat @ guitar < 0.2


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_every_pooling_takes_what_it_says(
    pooling: Literal["mean", "cls", "last"],
    minilm_file: Callable[[str], Path],
    start_worker,
    reference: Reference,
) -> None:
    worker = start_worker("llama_cpp")
    assert isinstance(worker.load(minilm_file("F16"), pooling=pooling), Loaded)
    texts = TEXTS[4:16]
    there = np.array([reference.vector(text, pooling) for text in texts])
    assert (vectors(worker, *texts) * there).sum(axis=1).min() > 0.9999


def test_a_text_is_read_whole_or_refused_and_never_cut(
    worker: Worker, minilm_file: Callable[[str], Path], start_worker, reference: Reference
) -> None:
    longest = "word " * 510
    here = vectors(worker, longest)[0]
    assert here @ reference.vector(longest) > 0.9999
    refused = worker.ask(Embed(id=1, texts=["short", "word " * 511]))
    assert isinstance(refused, Failed)
    assert refused.kind == "context_overflow"
    assert refused.data == {"prompt_tokens": 513, "context_length": 512, "index": 1}
    short = start_worker("llama_cpp")  # as sentence-transformers reads it, but without a cut
    assert isinstance(short.load(minilm_file("F16"), context_length=256), Loaded)
    assert isinstance(short.ask(Embed(id=1, texts=["word " * 254])), Reply)
    refused = short.ask(Embed(id=2, texts=["word " * 255]))
    assert isinstance(refused, Failed)
    assert refused.data == {"prompt_tokens": 257, "context_length": 256, "index": 0}
