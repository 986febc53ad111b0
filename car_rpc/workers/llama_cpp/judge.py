"""Read what a model thinks of given answers off its logits, in contexts of its own."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire import judging
from car_rpc.wire.worker import Generate, Rank, SamplingParams, Score
from car_rpc.workers.chat.prompt import Part
from car_rpc.workers.generation import context_overflow
from car_rpc.workers.llama_cpp.context import Context, DecodeError, Row
from car_rpc.workers.llama_cpp.encoder import POOLING_RANK
from car_rpc.workers.llama_cpp.generator import PREFILL_CHUNK
from car_rpc.workers.llama_cpp.native import BACKEND

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from car_rpc.workers.chat.prompter import Prompter
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.model import Model
    from car_rpc.workers.llama_cpp.vocab import Vocab
    from car_rpc.workers.serial import Work

#: Longest prompt to judge, in tokens: beyond it lie books, and their cache takes memory.
MAX_PROMPT_TOKENS = 4096

#: Longest answer to judge, in tokens.
MAX_ANSWER_TOKENS = 128

#: Longest text that a model with a head for ranking reads: it needs it in one piece, and the
#: buffers for a piece grow with its square.
MAX_RANKED_TOKENS = 2048


class RankHead(NamedTuple):
    """How a model's own head for ranking says that a document fits.

    Attributes:
        outputs: How many numbers it gives.
        yes: Which of them counts.
        is_probability: Whether llama.cpp has made probabilities of them, as for Qwen3; others
            give a logit.
    """

    outputs: int
    yes: int
    is_probability: bool


class Judge:
    """Judges answers and documents, one request after the other.

    Args:
        model: The model.
        vocab: Its vocabulary.
        prompter: Renders conversations; ``None`` for a model that does not generate.
        context_length: Tokens of context that were asked for.
        head: The model's own head for ranking, where it is to be used.
    """

    def __init__(
        self,
        model: Model,
        vocab: Vocab,
        prompter: Prompter | None,
        context_length: int,
        head: RankHead | None,
    ) -> None:
        self._model = model
        self._vocab = vocab
        self._prompter = prompter
        self._limit = min(context_length, MAX_PROMPT_TOKENS)
        self._head = head

    def score(self, job: Job, request: Score) -> Work:
        """The log-probability of each answer, its end included.

        Raises:
            CarError: ``unsupported_mode``, ``context_overflow``, ``invalid_request`` for an
                answer that is too long; or the prompt cannot be rendered.
        """
        if self._prompter is None:
            raise unsupported_mode("classify", BACKEND, "this model only embeds")
        job.rendering()
        prompt = self._prompter.prompt(
            Generate(
                id=request.id,
                messages=request.messages,
                params=SamplingParams(thinking="off"),
            )
        ).tokens
        job.rendered(len(prompt))
        answers = [self._answer(index, text) for index, text in enumerate(request.answers)]
        self._require_room(prompt, max(map(len, answers)), "the text")
        return self._score(job, prompt, answers)

    def rank(self, job: Job, request: Rank) -> Work:
        """How well each document fits, from 0 to 1.

        Raises:
            CarError: ``unsupported_mode``, ``context_overflow``.
        """
        if self._head is not None:
            return self._rank_by_head(job, self._head, request)
        if self._prompter is None:
            reason = "this model has no head for ranking; set pooling to rank if its file has one"
            raise unsupported_mode("rerank", BACKEND, reason)
        return self._rank_by_logits(job, request)

    def _score(self, job: Job, prompt: list[int], answers: list[list[int]]) -> Work:
        first = yield from self._read(job, prompt)
        scores: list[float] = []
        for answer in answers:
            logits = [first]
            if len(answer) > 1:
                logits += self._continued(job, len(prompt), answer[:-1])
            steps = zip(logits, answer, strict=True)
            scores.append(sum(_log_probability(each, token) for each, token in steps))
            if not self._context.cut(0, len(prompt)):
                yield from self._read(job, prompt)  # a memory that cannot be cut starts anew
            yield
        return scores

    def _rank_by_logits(self, job: Job, request: Rank) -> Work:
        yes, no = (self._vocab.tokenize(word, special=False)[0] for word in ("yes", "no"))
        scores: list[float] = []
        for index, document in enumerate(request.documents):
            prompt = self._judging_prompt(request, document)
            self._require_room(prompt, 1, f"document {index}", index=index)
            logits = yield from self._read(job, prompt)
            scores.append(_sigmoid(float(logits[yes]) - float(logits[no])))
        return scores

    def _rank_by_head(self, job: Job, head: RankHead, request: Rank) -> Work:
        scores: list[float] = []
        for index, document in enumerate(request.documents):
            tokens = self._pair(head, request, document)
            if len(tokens) > self._head_limit:
                raise context_overflow(
                    len(tokens), self._head_limit, f"document {index}", index=index
                )
            rows = [Row(token, place, 0, output=True) for place, token in enumerate(tokens)]
            self._head_context.clear()
            _decode(self._head_context, rows, job)
            value = float(self._head_context.pooled(0, head.outputs)[head.yes])
            scores.append(value if head.is_probability else _sigmoid(value))
            yield
        return scores

    def _judging_prompt(self, request: Rank, document: str) -> list[int]:
        question = judging.question(request.query, document, request.instruction)
        return self._vocab.tokenize_prompt(
            [
                Part(judging.HEAD, is_content=False),
                Part(question, is_content=True),
                Part(judging.TAIL, is_content=False),
            ]
        )

    def _pair(self, head: RankHead, request: Rank, document: str) -> list[int]:
        """Query and document as the model was trained on them."""
        query = request.query
        template = self._model.rerank_template
        if template is None and head.is_probability:
            return self._judging_prompt(request, document)
        if template is None:
            # A cross-encoder's: [CLS] query [SEP] document [SEP].
            vocab = self._vocab
            first = vocab.tokenize(query, special=False, framed=True)
            second = vocab.tokenize(document, special=False, framed=True)
            return first + (second[1:] if second[:1] == first[:1] else second)
        before, _, rest = template.partition("{query}")
        between, _, after = rest.partition("{document}")
        texts = [(before, False), (query, True), (between, False), (document, True), (after, False)]
        return self._vocab.tokenize_prompt(Part(text, is_content) for text, is_content in texts)

    def _answer(self, index: int, text: str) -> list[int]:
        tokens = [*self._vocab.tokenize(text, special=False), self._vocab.end_of_turn]
        if len(tokens) > MAX_ANSWER_TOKENS:
            detail = f"label {index} has {len(tokens)} tokens, at most {MAX_ANSWER_TOKENS} are read"
            raise CarError("invalid_request", detail, index=index)
        return tokens

    def _require_room(self, prompt: list[int], more: int, what: str, **data: int) -> None:
        if len(prompt) + more > self._limit:
            raise context_overflow(len(prompt), self._limit, what, **data)

    def _read(self, job: Job, prompt: list[int]) -> Generator[None, None, NDArray[np.float32]]:
        """Read a prompt from its start; returns the logits of what follows it."""
        self._context.clear()
        last = len(prompt) - 1
        for start in range(0, len(prompt), PREFILL_CHUNK):
            chunk = prompt[start : start + PREFILL_CHUNK]
            places = range(start, start + len(chunk))
            rows = [
                Row(token, place, 0, output=place == last)
                for token, place in zip(chunk, places, strict=True)
            ]
            _decode(self._context, rows, job)
            yield
        return self._context.logits(last % PREFILL_CHUNK, self._vocab.size).copy()

    def _continued(self, job: Job, start: int, tokens: Sequence[int]) -> list[NDArray[np.float32]]:
        """The logits behind each of some tokens after the prompt."""
        rows = [Row(token, start + index, 0, output=True) for index, token in enumerate(tokens)]
        _decode(self._context, rows, job)
        return [self._context.logits(i, self._vocab.size).copy() for i in range(len(tokens))]

    @cached_property
    def _context(self) -> Context:
        return _made(
            self._model,
            PREFILL_CHUNK,
            n_ctx=self._limit,
            n_seq_max=1,
            n_outputs_max=MAX_ANSWER_TOKENS,
        )

    @property
    def _head_limit(self) -> int:
        return min(self._limit, MAX_RANKED_TOKENS)

    @cached_property
    def _head_context(self) -> Context:
        return _made(
            self._model,
            self._head_limit,
            n_ctx=self._head_limit,
            n_seq_max=1,
            embeddings=True,
            pooling_type=POOLING_RANK,
        )


def rank_head(model: Model) -> RankHead:
    """The model's head for ranking."""
    labels = model.rank_labels
    yes = labels.index("yes") if "yes" in labels else 0
    return RankHead(len(labels), yes, is_probability=model.architecture.startswith("qwen3"))


def _made(model: Model, capacity: int, **settings: int) -> Context:
    try:
        return Context(model, capacity, **settings)
    except MemoryError as error:
        detail = "no room to judge beside the model; unload another model"
        raise CarError("out_of_memory", detail) from error


def _decode(context: Context, rows: Sequence[Row], job: Job) -> None:
    try:
        context.decode(rows, job)
    except DecodeError as error:
        raise CarError("inference_failed", f"llama.cpp could not decode (code {error})") from error


def _log_probability(logits: NDArray[np.float32], token: int) -> float:
    most = float(logits.max())
    total = float(np.exp(logits.astype(np.float64) - most).sum())
    return float(logits[token]) - most - float(np.log(total))


def _sigmoid(logit: float) -> float:
    # The softmax of two logits is the sigmoid of their difference.
    return float(1.0 / (1.0 + np.exp(-np.float64(logit))))
