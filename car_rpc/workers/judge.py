"""Read what a model thinks of given answers off its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire import judging
from car_rpc.wire.worker import Generate, SamplingParams
from car_rpc.workers.chat.prompt import Part
from car_rpc.workers.generation import context_overflow
from car_rpc.workers.likelihood import log_probabilities

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from numpy.typing import NDArray

    from car_rpc.wire.worker import Rank, Score
    from car_rpc.workers.chat.prompter import Prompter
    from car_rpc.workers.job import Job
    from car_rpc.workers.serial import Work

#: Longest prompt to judge, in tokens: beyond it lie books, and their cache takes memory.
MAX_PROMPT_TOKENS = 4096

#: Longest answer to judge, in tokens.
MAX_ANSWER_TOKENS = 128


class Words(Protocol):
    """What judging needs of a model's vocabulary."""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text; ``special`` parses spellings of control tokens."""
        ...

    def tokenize_prompt(self, parts: Iterable[Part]) -> list[int]:
        """Tokens of a rendered prompt."""
        ...


class Reader(Protocol):
    """A model whose logits can be read, beside what it generates."""

    @property
    def limit(self) -> int:
        """Most tokens of a prompt and its answer."""
        ...

    def read(self, job: Job, prompt: Sequence[int]) -> Generator[None, None, NDArray[np.float32]]:
        """Read a prompt, a chunk a step; returns the logits of what follows it."""
        ...

    def read_on(
        self, job: Job, tokens: Sequence[int]
    ) -> Generator[None, None, Sequence[NDArray[np.float32]]]:
        """Read what may follow the last prompt; returns the logits behind each of its tokens."""
        ...


class Ranker(Protocol):
    """A way to say how well a document fits a query."""

    @property
    def limit(self) -> int:
        """Most tokens of the two together."""
        ...

    def pair(self, request: Rank, document: str) -> list[int]:
        """The tokens that ask for a document."""
        ...

    def scores(self, job: Job, pairs: Sequence[list[int]]) -> Generator[None, None, list[float]]:
        """How well each document fits, from 0 to 1; some a step."""
        ...


class Judge:
    """Judges answers and documents.

    Args:
        reader: The model.
        vocab: Its vocabulary.
        prompter: Renders conversations; ``None`` for a model that does not generate.
        backend: Name of the engine, for errors.
        head: The model's own head for ranking, where it is to be used.
    """

    def __init__(
        self,
        reader: Reader,
        vocab: Words,
        prompter: Prompter | None,
        backend: str,
        head: Ranker | None = None,
    ) -> None:
        self._reader = reader
        self._vocab = vocab
        self._prompter = prompter
        self._backend = backend
        self._ranker = head
        if head is None and prompter is not None:
            self._ranker = _LogitRanker(reader, vocab)

    def score(self, job: Job, request: Score) -> Work:
        """The log-probability of each answer, its end included.

        Raises:
            CarError: ``unsupported_mode``, ``context_overflow``, ``invalid_request`` for an
                answer that is too long; or the prompt cannot be rendered.
        """
        if self._prompter is None:
            raise unsupported_mode("classify", self._backend, "this model only embeds")
        job.rendering()
        prompt = self._prompter.prompt(
            Generate(
                id=request.id,
                messages=request.messages,
                params=SamplingParams(thinking="off"),
            )
        ).tokens
        job.rendered(len(prompt))
        end = self._prompter.end_of_turn
        answers = [
            _answer(index, [*self._vocab.tokenize(text, special=False), end])
            for index, text in enumerate(request.answers)
        ]
        length = len(prompt) + max(map(len, answers))
        if length > self._reader.limit:
            raise context_overflow(len(prompt), self._reader.limit, "the text")
        return self._score(job, prompt, answers)

    def rank(self, job: Job, request: Rank) -> Work:
        """How well each document fits, from 0 to 1.

        Raises:
            CarError: ``unsupported_mode``; later ``context_overflow``.
        """
        if self._ranker is None:
            reason = "this model has no head for ranking; set pooling to rank if its file has one"
            raise unsupported_mode("rerank", self._backend, reason)
        return _rank(job, self._ranker, request)

    def _score(self, job: Job, prompt: list[int], answers: list[list[int]]) -> Work:
        first = yield from self._reader.read(job, prompt)
        scores: list[float] = []
        for answer in answers:
            logits = [first]
            if len(answer) > 1:
                logits += yield from self._reader.read_on(job, answer[:-1])
            steps = zip(logits, answer, strict=True)
            scores.append(sum(sum(log_probabilities(each, [token])) for each, token in steps))
            yield
        return scores


class _LogitRanker:
    """Asks for yes or no, and compares what the model would rather say."""

    def __init__(self, reader: Reader, vocab: Words) -> None:
        self._reader = reader
        self._vocab = vocab
        self.limit = reader.limit

    def pair(self, request: Rank, document: str) -> list[int]:
        """The tokens that ask for a document."""
        return judging_prompt(self._vocab, request, document)

    def scores(self, job: Job, pairs: Sequence[list[int]]) -> Generator[None, None, list[float]]:
        """How well each document fits, from 0 to 1."""
        yes, no = (self._vocab.tokenize(word, special=False)[0] for word in ("yes", "no"))
        scores: list[float] = []
        for pair in pairs:
            logits = yield from self._reader.read(job, pair)
            scores.append(sigmoid(float(logits[yes]) - float(logits[no])))
            yield
        return scores


def _answer(index: int, tokens: list[int]) -> list[int]:
    if len(tokens) > MAX_ANSWER_TOKENS:
        detail = f"label {index} has {len(tokens)} tokens, at most {MAX_ANSWER_TOKENS} are read"
        raise CarError("invalid_request", detail, index=index)
    return tokens


def _rank(job: Job, ranker: Ranker, request: Rank) -> Work:
    pairs: list[list[int]] = []
    for index, document in enumerate(request.documents):
        pair = ranker.pair(request, document)
        if len(pair) > ranker.limit:
            raise context_overflow(len(pair), ranker.limit, f"document {index}", index=index)
        pairs.append(pair)
        yield
    return (yield from ranker.scores(job, pairs))


def judging_prompt(vocab: Words, request: Rank, document: str) -> list[int]:
    """The tokens that ask for yes or no to a document, as Qwen3-Reranker was trained on them."""
    question = judging.question(request.query, document, request.instruction)
    return vocab.tokenize_prompt(
        [
            Part(judging.HEAD, is_content=False),
            Part(question, is_content=True),
            Part(judging.TAIL, is_content=False),
        ]
    )


def sigmoid(logit: float) -> float:
    """A probability of a logit; of the difference of two logits it is their softmax."""
    return float(1.0 / (1.0 + np.exp(-np.float64(logit))))
