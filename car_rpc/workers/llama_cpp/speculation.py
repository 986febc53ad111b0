"""Draft what an answer goes on with, where that pays."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from car_rpc.errors import CarError
from car_rpc.wire.speculation import DraftSpeculation
from car_rpc.workers.llama_cpp.draft import DraftModel, check_vocabulary
from car_rpc.workers.llama_cpp.model import Model, out_of_memory
from car_rpc.workers.llama_cpp.native import log_debug
from car_rpc.workers.speculation.lookup import Lookup
from car_rpc.workers.speculation.pace import LENGTHS, Outcome, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from car_rpc.wire.speculation import Speculation
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.sequences import Sequence as Held
    from car_rpc.workers.text.answer import Answer

#: Most rows of a step with a draft.
MAX_ROWS = 1 + LENGTHS[-1]


class Text(Protocol):
    """What is to be known of an answer in the making, see ``LlamaGeneration``."""

    job: Job
    answer: Answer
    sequence: Held
    pending: list[int]
    chosen: int
    has_media: bool

    @property
    def left(self) -> int:
        """Tokens that may still come."""
        ...


class Drafter(Protocol):
    """Guesses what a text goes on with."""

    @property
    def unread(self) -> int:
        """Tokens that it has to read before it can draft."""
        ...

    def begin(self) -> None:
        """Another text begins."""
        ...

    def follow(self, read: Sequence[int], pending: Sequence[int]) -> int | None:
        """Take the text so far; returns the kind of draft that can be made, if one can."""
        ...

    def draft(self, count: int) -> list[int]:
        """At most so many tokens that may come next."""
        ...


class _Begun(NamedTuple):
    """A step that was begun with a draft, if perhaps an empty one.

    Attributes:
        kind: The kind of the draft.
        asked: How many tokens were to be drafted.
        drafted: How many were.
        unread: Tokens that had to be read for it.
        right: Tokens of drafts that were right before.
        chosen: Tokens that the model had chosen before.
        started_s: When drafting began, in seconds.
        drafted_s: When it ended, in seconds.
    """

    kind: int
    asked: int
    drafted: int
    unread: int
    right: int
    chosen: int
    started_s: float
    drafted_s: float


class Speculator:
    """Drafts for one answer at a time, as long as that pays.

    Args:
        drafter: Makes the drafts.
        draft_cost: A guess of what making a drafted token takes, in steps of the model.
        size_bytes: Size of the weights that it brought along.
        clock: Seconds.
    """

    def __init__(
        self,
        drafter: Drafter,
        draft_cost: float = 0.0,
        size_bytes: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.size_bytes = size_bytes
        self._drafter = drafter
        self._pace = Pace(draft_cost)
        self._clock = clock
        self._generation: Text | None = None
        self._begun: _Begun | None = None

    def draft(self, generation: Text) -> list[int]:
        """What an answer may go on with; nothing where that does not pay."""
        self._begun = None
        # A step with more is not like the others anyway, and what stands for an image is no token.
        if len(generation.pending) != 1 or generation.has_media:
            return []
        if generation is not self._generation:
            self._generation = generation
            self._drafter.begin()
            self._pace.begin()
        started_s = self._clock()
        kind = self._drafter.follow(generation.sequence.tokens, generation.pending)
        unread = self._drafter.unread
        # The model chooses one token more than are drafted.
        asked = 0 if kind is None else self._pace.length(kind, generation.left - 1, unread)
        tokens = self._drafter.draft(asked) if asked else []
        length = max((each for each in LENGTHS if each <= len(tokens)), default=0)
        self._begun = _Begun(
            kind or 0,
            asked,
            length,
            unread,
            generation.answer.accepted_draft_tokens,
            generation.chosen,
            started_s,
            self._clock(),
        )
        return tokens[:length]

    def learn(self, generation: Text, *, ended: bool) -> None:
        """Take what came of the step that :meth:`draft` was for, and whether the answer ended."""
        begun, answer = self._begun, generation.answer
        if ended and answer.draft_tokens:
            log_debug(
                f"request {generation.job.id}: {answer.accepted_draft_tokens} of"
                f" {answer.draft_tokens} drafted tokens were right"
            )
        if begun is None:
            return
        step_s = self._clock() - begun.drafted_s
        if not begun.asked:
            self._pace.plain(step_s)
            return
        self._pace.learn(
            Outcome(
                kind=begun.kind,
                asked=begun.asked,
                drafted=begun.drafted,
                right=answer.accepted_draft_tokens - begun.right,
                chosen=generation.chosen - begun.chosen,
                ended=ended,
                step_s=step_s,
                drafting_s=begun.drafted_s - begun.started_s,
                unread=begun.unread,
            )
        )


def speculator_for(
    asked: Speculation, model: Model, vocab_size: int, context_length: int
) -> Speculator:
    """What a model's source asks for.

    Args:
        asked: That.
        model: The model.
        vocab_size: Tokens of its vocabulary.
        context_length: Tokens of context of a request.

    Raises:
        CarError: A draft model cannot be read, does not fit or does not suit (``io_error``,
            ``out_of_memory``, ``model_load_failed``); it names the field.
    """
    if not isinstance(asked, DraftSpeculation):
        return Speculator(Lookup(context_length))
    try:
        return _draft_speculator(asked, model, vocab_size)
    except CarError as error:  # or it reads as if the model itself were at fault
        raise CarError(error.kind, f"speculation.path: {error.detail}", **error.extra) from error


def _draft_speculator(asked: DraftSpeculation, model: Model, vocab_size: int) -> Speculator:
    draft = Model(asked.path, lambda _: None)
    check_vocabulary(model, draft, asked.path)
    try:
        drafter = DraftModel(draft, vocab_size)
    except MemoryError as error:
        raise out_of_memory(asked.path) from error
    if not drafter.can_cut:
        raise CarError(
            "model_load_failed",
            f"{asked.path} cannot draft: it cannot forget a token that was wrong, as recurrent"
            " models and such with a sliding window cannot; name another one, or use `lookup`",
            path=asked.path,
        )
    return Speculator(drafter, draft.size_bytes / model.size_bytes, draft.size_bytes)
