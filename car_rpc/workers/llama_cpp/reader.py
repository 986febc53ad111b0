"""Read logits, and what a head for ranking says, in contexts of their own."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from car_rpc.errors import CarError
from car_rpc.workers.chat.prompt import Part
from car_rpc.workers.embedding import BATCH_TEXTS, batch_size
from car_rpc.workers.judge import (
    MAX_ANSWER_TOKENS,
    MAX_PROMPT_TOKENS,
    judging_prompt,
    sigmoid,
)
from car_rpc.workers.llama_cpp.context import FLASH_AUTO, Context, DecodeError, Row
from car_rpc.workers.llama_cpp.encoder import POOLING_RANK, rows_of
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK
from car_rpc.workers.prefix import common

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from car_rpc.wire.worker import Rank
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.model import Model
    from car_rpc.workers.llama_cpp.state import State
    from car_rpc.workers.llama_cpp.vocab import Vocab

#: Longest text that a model with a head for ranking reads: it needs it in one piece, and the
#: buffers for a piece grow with its square.
MAX_RANKED_TOKENS = 2048


class LlamaReader:
    """A GGUF model whose logits can be read.

    Args:
        model: The model.
        vocab: Its vocabulary.
        context_length: Tokens of context that were asked for.
    """

    def __init__(self, model: Model, vocab: Vocab, context_length: int) -> None:
        self._model = model
        self._size = vocab.size
        self.limit = min(context_length, MAX_PROMPT_TOKENS)
        self._prompt: Sequence[int] = []
        self._has_answer = False  # whether the context holds more than the prompt
        self._part: State | None = None  # of what the context held then, where it cannot be cut

    def read(self, job: Job, prompt: Sequence[int]) -> Generator[None, None, NDArray[np.float32]]:
        """Read a prompt, a chunk a step; returns the logits of what follows it.

        What it begins with like the one before is known: documents are asked about one after the
        other, with the same question.
        """
        last = len(prompt) - 1
        known = common(self._prompt, prompt[:last])
        if not known or not self._context.cut(0, known):
            self._context.clear()
            known = 0
        self._prompt, self._has_answer = [], False
        for start in range(known, len(prompt), PREFILL_CHUNK):
            chunk = prompt[start : start + PREFILL_CHUNK]
            rows = [
                Row(token, place, 0, output=place == last)
                for place, token in enumerate(chunk, start)
            ]
            _decode(self._context, rows, job)
            yield
        self._prompt = prompt
        return self._context.logits((last - known) % PREFILL_CHUNK, self._size).copy()

    def read_on(
        self, job: Job, tokens: Sequence[int]
    ) -> Generator[None, None, Sequence[NDArray[np.float32]]]:
        """Read what may follow the last prompt; returns the logits behind each of its tokens."""
        start = len(self._prompt)
        if not self._has_answer:
            self._part = None if self._context.can_cut else self._context.save_part(0)
        elif not self._forget_answer(start):
            yield from self.read(job, self._prompt)
        self._has_answer = True
        rows = [Row(token, place, 0, output=True) for place, token in enumerate(tokens, start)]
        _decode(self._context, rows, job)
        return [self._context.logits(index, self._size).copy() for index in range(len(tokens))]

    def _forget_answer(self, start: int) -> bool:
        """Let the context hold the prompt alone; tells whether it can."""
        context, part = self._context, self._part
        return context.cut(0, start) or (part is not None and context.rewind(0, part, start))

    @cached_property
    def _context(self) -> Context:
        return _made(
            self._model,
            PREFILL_CHUNK,
            n_ctx=self.limit,
            n_seq_max=1,
            outputs=MAX_ANSWER_TOKENS,
        )


class LlamaHead:
    """A model's own head for ranking.

    Args:
        model: The model.
        vocab: Its vocabulary.
        context_length: Tokens of context that were asked for.
    """

    def __init__(self, model: Model, vocab: Vocab, context_length: int) -> None:
        self._model = model
        self._vocab = vocab
        self.limit = min(context_length, MAX_RANKED_TOKENS)
        labels = model.rank_labels
        self._outputs = len(labels)
        self._yes = labels.index("yes") if "yes" in labels else 0
        # llama.cpp makes probabilities of Qwen3's outputs; those of others are logits.
        self._is_probability = model.architecture.startswith("qwen3")

    def pair(self, request: Rank, document: str) -> list[int]:
        """Query and document as the model was trained on them."""
        query, vocab = request.query, self._vocab
        template = self._model.rerank_template
        if template is None and self._is_probability:
            return judging_prompt(vocab, request, document)
        if template is None:
            # A cross-encoder's: [CLS] query [SEP] document [SEP].
            first = vocab.tokenize(query, special=False, framed=True)
            second = vocab.tokenize(document, special=False, framed=True)
            return first + (second[1:] if second[:1] == first[:1] else second)
        before, _, rest = template.partition("{query}")
        between, _, after = rest.partition("{document}")
        texts = [(before, False), (query, True), (between, False), (document, True), (after, False)]
        return vocab.tokenize_prompt(Part(text, is_content) for text, is_content in texts)

    def scores(self, job: Job, pairs: Sequence[list[int]]) -> Generator[None, None, list[float]]:
        """How well each document fits, from 0 to 1; a batch a step."""
        scores: list[float] = []
        while len(scores) < len(pairs):
            batch = pairs[len(scores) : len(scores) + BATCH_TEXTS]
            batch = batch[: batch_size(batch, self.limit)]
            self._context.clear()
            _decode(self._context, rows_of(batch), job)
            for sequence in range(len(batch)):
                value = float(self._context.pooled(sequence, self._outputs)[self._yes])
                scores.append(value if self._is_probability else sigmoid(value))
            yield
        return scores

    @cached_property
    def _context(self) -> Context:
        return _made(
            self._model,
            self.limit,
            n_ctx=self.limit,
            n_seq_max=BATCH_TEXTS,
            kv_unified=True,  # texts of any length share the room
            embeddings=True,
            pooling_type=POOLING_RANK,
            flash_attn_type=FLASH_AUTO,
        )


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
