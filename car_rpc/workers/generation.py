"""One answer in the making: what every engine does with a sampled token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from car_rpc.errors import CarError
from car_rpc.wire.inference import TokenLogprob, TopLogprob
from car_rpc.workers.text.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from car_rpc.wire.worker import Generate
    from car_rpc.workers.chat.prompter import Prompt
    from car_rpc.workers.constraint.constraint import Constraint, Plan
    from car_rpc.workers.job import Job
    from car_rpc.workers.likelihood import Likely


class Tokens(Protocol):
    """What an answer needs of a model's vocabulary."""

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        ...

    def piece(self, token: int) -> bytes:
        """Bytes that a generated token adds; none for control tokens."""
        ...

    def spelling(self, token: int) -> bytes:
        """Bytes that spell a token, also one that shows nothing."""
        ...


class Generation:
    """One answer in the making.

    Args:
        job: Where it is answered.
        request: What was asked.
        prompt: Its prompt.
        vocab: The model's vocabulary.
        context_length: Tokens of context that it may use at most.

    Raises:
        CarError: The prompt leaves no room (``context_overflow``).
    """

    def __init__(
        self, job: Job, request: Generate, prompt: Prompt, vocab: Tokens, context_length: int
    ) -> None:
        params = request.params
        begun_tokens = prompt.answer_tokens - prompt.counted_tokens
        self.job = job
        self.prompt = prompt.tokens
        self.answer = Answer(
            stops=params.stop,
            tools=request.tools,
            family=prompt.family,
            in_reasoning=prompt.in_reasoning,
            reasoning_budget=params.budget_tokens,
            begun_tokens=begun_tokens,
            begun_text="" if request.prefix is None else request.prefix.text,
        )
        self.constraint: Constraint | None = None
        #: Tokens of the answer that the model has not read yet: the last one that it chose, and
        #: those that had to follow.
        self.pending: list[int] = []
        self._in_reasoning = prompt.in_reasoning
        self._prefix = request.prefix
        self.cached_tokens = 0  # tokens of the prompt that an earlier request left behind
        self._vocab = vocab
        self._ignore_eos = params.ignore_eos
        self._one_call = not request.parallel_tool_calls
        #: Whether a call hands the turn over, so that there is never another in an answer.
        self._in_channels = prompt.family.channels
        self.prompt_tokens = prompt.size
        #: Tokens of the prompt that do not count as those of the answer.
        self.asked_tokens = prompt.size - begun_tokens
        self._context_length = context_length
        #: Tokens of context that prompt and answer take at most, with one that is new in any case.
        self.most_tokens = min(
            max(self.asked_tokens + (params.max_tokens or context_length), prompt.size + 1),
            context_length,
        )
        self.confine(context_length)

    def confine(self, room: int) -> None:
        """Let prompt and answer take no more than so many tokens.

        Raises:
            CarError: The prompt leaves no room (``context_overflow``).
        """
        if self.prompt_tokens >= room:
            raise context_overflow(self.prompt_tokens, room)
        self._limit = min(self.most_tokens, room) - self.asked_tokens

    @property
    def left(self) -> int:
        """Tokens that may still come."""
        return self._limit - self.answer.tokens

    @property
    def waits(self) -> bool:
        """Whether it has begun a call before it has what that is held to: it may not go on yet."""
        return self.constraint is None and self.answer.segments.in_call

    @property
    def advances(self) -> bool:
        """Whether it is to be advanced: it is not paused, nor does it wait."""
        return self.job.running.is_set() and not self.waits

    def constrain(self, plan: Plan) -> None:
        """Give the answer a form.

        Raises:
            CarError: Its beginning has another one (``inference_failed``).
        """
        so_far = None if self._prefix is None else self._prefix.text
        self.constraint = plan.constraint(in_reasoning=self._in_reasoning, so_far=so_far)
        if self.constraint.lost:
            raise _without_form("the beginning of the answer has another form")
        if self.answer.segments.in_call:
            # All is as if it had been there when the last token began the call.
            self.constraint.accept(self.pending[-1], self.answer.segments)
            if self._follow(self.constraint):
                self.job.reply()
                self.job.cancelled.set()  # what is left of it is dropped

    def tell(self, likely: Sequence[Likely]) -> None:
        """Say how likely the token is that comes next, and then the likeliest ones.

        Nothing is said where that was not asked for, nor of the end, which is no part of the
        answer.
        """
        if likely and not self._vocab.ends(likely[0][0]):
            self.job.emit([], [self._logprob(*likely)])

    def _logprob(self, chosen: Likely, *top: Likely) -> TokenLogprob:
        def told(token: int, logprob: float) -> TopLogprob:
            data = self._vocab.spelling(token)
            text = data.decode("utf-8", "replace")
            return TopLogprob(token=text, logprob=logprob, bytes=list(data))

        first = told(*chosen)
        return TokenLogprob(
            token=first.token,
            logprob=first.logprob,
            bytes=first.bytes,
            top_logprobs=[told(*each) for each in top],
        )

    def accept(self, token: int) -> bool:
        """Take the sampled token, and those that must follow; tells whether it is complete."""
        self.pending = [token]
        if self._take(token):
            return True
        return self.constraint is not None and self._follow(self.constraint)

    def _follow(self, constraint: Constraint) -> bool:
        """Take the tokens that must follow; tells whether the answer is complete."""
        for forced in constraint.forced():
            self.pending.append(forced)
            if self._take(forced):
                return True
        return False

    def _take(self, token: int) -> bool:
        ended = self._vocab.ends(token) and not self._ignores_ends
        events = self.answer.feed(b"" if ended else self._vocab.piece(token))
        if self.constraint is not None and not ended:
            self.constraint.accept(token, self.answer.segments)
            if self.constraint.lost:
                self.job.fail(_without_form("the answer got too complex for the form"))
                return True
            ended = self.constraint.complete
        ended = ended or self._called_once
        limited = self.answer.tokens >= self._limit or self.answer.out_of_budget
        complete = ended or self.answer.stopped or limited
        if complete:
            events += self.answer.finish(
                limited=not (ended or self.answer.stopped),
                prompt_tokens=self.asked_tokens,
                context_window=self._context_length,
                cached_tokens=self.cached_tokens,
                verdict=None if self.constraint is None else self.constraint.verdict,
            )
        self.job.emit(events)
        return complete

    @property
    def _ignores_ends(self) -> bool:
        """Whether the answer goes on where the model would end it; one in a form cannot."""
        return self._ignore_eos and not (self.constraint is not None and self.constraint.demands)

    @property
    def _called_once(self) -> bool:
        """Whether the one call that may be is made."""
        segments = self.answer.segments
        is_last = self._in_channels or (self._one_call and not segments.in_call)
        return is_last and segments.calls > 0


def _without_form(reason: str) -> CarError:
    return CarError("inference_failed", f"{reason}; ask for a simpler one, or for none")


def context_overflow(
    prompt_tokens: int, context_length: int, what: str = "the prompt", **data: int
) -> CarError:
    """The error for a text that is too long, with the counts."""
    return CarError(
        "context_overflow",
        f"{what} has {prompt_tokens} tokens and the context {context_length}, which leaves no"
        " room; shorten it",
        prompt_tokens=prompt_tokens,
        context_length=context_length,
        **data,
    )
