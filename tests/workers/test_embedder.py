"""Which texts go into one batch, and what becomes of a request whose text is trouble."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from car_rpc.errors import CarError
from car_rpc.wire.worker import Embed, Failed, FromWorker, Reply
from car_rpc.workers.embedding import BATCH_TEXTS, BATCH_TOKENS, Embedder, batch_size
from car_rpc.workers.job import Job


class Encoder:
    """Makes of a text a vector that points its length away; of an empty one none."""

    dimensions = 2
    limit = 1000

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], Job | None]] = []
        self.failure: CarError | None = None

    def check(self) -> None:
        pass

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def encode(self, batch: Sequence[list[int]], owner: Job | None) -> list[Any]:
        self.batches.append(([len(tokens) for tokens in batch], owner))
        if self.failure is not None:
            raise self.failure
        return [np.array([len(tokens), 1.0 if tokens else 0.0], np.float32) for tokens in batch]


class Requests:
    """Requests to an embedder, and what they were answered."""

    def __init__(self) -> None:
        self.encoder = Encoder()
        self.embedder = Embedder(self.encoder)
        self.answers: dict[int, FromWorker] = {}

    def add(self, request_id: int, *texts: str) -> Job:
        request = Embed(id=request_id, texts=list(texts))
        job = Job(
            request, lambda answer: self.answers.__setitem__(request_id, answer), lambda _: None
        )
        self.embedder.add(job, request)
        return job

    def lengths(self, request_id: int) -> list[int]:
        answer = self.answers[request_id]
        assert isinstance(answer, Reply)
        vectors = np.frombuffer(answer.result.data, "<f4").reshape(-1, 2)
        return [round(float(x / y)) for x, y in vectors]

    def run(self) -> None:
        while self.embedder.step():
            pass


@pytest.fixture
def requests() -> Requests:
    return Requests()


def test_small_requests_share_a_batch_and_each_gets_its_own_vectors(requests: Requests) -> None:
    for number in range(1, 6):
        requests.add(number, "a" * number, "b" * 10 * number)
    requests.run()
    assert [sizes for sizes, _ in requests.encoder.batches] == [[1, 10, 2, 20, 3, 30, 4, 40, 5, 50]]
    assert requests.encoder.batches[0][1] is None, "no single cancel ends what others wait for"
    assert {number: requests.lengths(number) for number in range(1, 6)} == {
        number: [number, 10 * number] for number in range(1, 6)
    }


def test_a_batch_of_one_request_ends_when_that_is_cancelled(requests: Requests) -> None:
    job = requests.add(1, "a", "b")
    requests.run()
    assert requests.encoder.batches == [([1, 1], job)]


def test_a_batch_holds_so_many_texts_and_tokens_and_a_longer_text_goes_alone() -> None:
    assert batch_size([[0]] * 100, 1000) == BATCH_TEXTS
    assert batch_size([[0] * 100] * 100, 1000) == BATCH_TOKENS // 100
    assert batch_size([[0] * 900, [0]], 1000) == 1
    assert batch_size([[0] * 10] * 100, 25) == 2
    assert batch_size([], 1000) == 0


def test_texts_of_many_batches_keep_their_order(requests: Requests) -> None:
    sizes = [number % 90 + 1 for number in range(200)]
    requests.add(1, *("x" * size for size in sizes))
    requests.add(2, "abc")
    requests.run()
    assert requests.lengths(1) == sizes
    assert requests.lengths(2) == [3]


def test_a_text_without_a_direction_fails_its_own_request_alone(requests: Requests) -> None:
    requests.add(1, "abc", "")
    requests.add(2, "ab")
    requests.run()
    failed = requests.answers[1]
    assert isinstance(failed, Failed)
    assert failed.kind == "inference_failed"
    assert requests.lengths(2) == [2]


def test_a_failed_batch_fails_those_in_it_and_no_other(requests: Requests) -> None:
    requests.encoder.failure = CarError("inference_failed", "no")
    requests.add(1, "a" * BATCH_TOKENS)
    requests.add(2, "b")
    requests.embedder.step()
    requests.encoder.failure = None
    requests.run()
    assert isinstance(requests.answers[1], Failed)
    assert requests.lengths(2) == [1]


def test_what_is_cancelled_takes_no_room_in_a_batch(requests: Requests) -> None:
    requests.add(1, "aaaa").cancel()
    requests.add(2, "bb")
    requests.run()
    assert [sizes for sizes, _ in requests.encoder.batches] == [[2]]
    assert requests.lengths(2) == [2]


def test_no_texts_are_answered_at_once(requests: Requests) -> None:
    requests.add(1)
    assert requests.embedder.step() is False
    assert requests.lengths(1) == []
    assert not requests.encoder.batches
