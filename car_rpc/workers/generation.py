"""One answer in the making: what every engine does with a sampled token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from car_rpc.errors import CarError
from car_rpc.workers.text.answer import Answer

if TYPE_CHECKING:
    from car_rpc.wire.worker import Generate
    from car_rpc.workers.chat.prompter import Prompt
    from car_rpc.workers.job import Job


class Tokens(Protocol):
    """What an answer needs of a model's vocabulary."""

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        ...

    def piece(self, token: int) -> bytes:
        """Bytes that a generated token adds; none for control tokens."""
        ...


class Generation:
    """One answer in the making.

    Args:
        job: Where it is answered.
        request: What was asked.
        prompt: Its prompt.
        vocab: The model's vocabulary.
        context_length: Tokens of context that it may use.

    Raises:
        CarError: The prompt leaves no room (``context_overflow``).
    """

    def __init__(
        self, job: Job, request: Generate, prompt: Prompt, vocab: Tokens, context_length: int
    ) -> None:
        params = request.params
        room = context_length - len(prompt.tokens)
        if room < 1:
            raise context_overflow(len(prompt.tokens), context_length)
        self.job = job
        self.prompt = prompt.tokens
        self.answer = Answer(
            stops=params.stop,
            tools=bool(request.tools),
            in_reasoning=prompt.in_reasoning,
            reasoning_budget=params.budget_tokens,
            begun_tokens=prompt.answer_tokens,
        )
        self.cached_tokens = 0  # tokens of the prompt that an earlier request left behind
        self._vocab = vocab
        self._ignore_eos = params.ignore_eos
        self.asked_tokens = len(prompt.tokens) - prompt.answer_tokens
        most = context_length - self.asked_tokens
        self._limit = min(params.max_tokens or most, most)
        self._context_length = context_length

    def accept(self, token: int) -> bool:
        """Take the sampled token; returns whether the answer is complete."""
        ended = self._vocab.ends(token) and not self._ignore_eos
        events = self.answer.feed(b"" if ended else self._vocab.piece(token))
        limited = self.answer.tokens >= self._limit or self.answer.out_of_budget
        complete = ended or self.answer.stopped or limited
        if complete:
            events += self.answer.finish(
                limited=not (ended or self.answer.stopped),
                prompt_tokens=self.asked_tokens,
                context_window=self._context_length,
                cached_tokens=self.cached_tokens,
            )
        self.job.emit(events)
        return complete


def context_overflow(
    prompt_tokens: int, context_length: int, what: str = "the prompt", **data: int
) -> CarError:
    """The error for a text that is too long, with the counts."""
    return CarError(
        "context_overflow",
        f"{what} has {prompt_tokens} tokens and the context {context_length}, which leaves no"
        " room; shorten it or load the model with a longer context",
        prompt_tokens=prompt_tokens,
        context_length=context_length,
        **data,
    )
