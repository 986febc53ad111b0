"""An answer in the making, in a slot of a context of llama.cpp."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

from car_rpc.workers.generation import Generation
from car_rpc.workers.llama_cpp.context import Row
from car_rpc.workers.llama_cpp.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from car_rpc.wire.worker import Generate
    from car_rpc.workers.chat.prompter import Prompt
    from car_rpc.workers.constraint.constraint import Constraint
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.projector import Medium
    from car_rpc.workers.llama_cpp.sequences import Sequence
    from car_rpc.workers.llama_cpp.vocab import Vocab

#: Tokens of a prompt that are read in one go: a cancelled request leaves after at most so many,
#: and a running answer waits for at most so many. Larger ones read little faster on a CPU.
PREFILL_CHUNK = 256


class LlamaGeneration(Generation):
    """An answer in a slot of the context.

    Args:
        job: Where it is answered.
        request: What was asked.
        prompt: Its prompt.
        vocab: The model's vocabulary.
        context_length: Tokens of context that it may use at most.

    Raises:
        CarError: The prompt leaves no room (``context_overflow``), or a parameter is wrong.
    """

    def __init__(
        self, job: Job, request: Generate, prompt: Prompt, vocab: Vocab, context_length: int
    ) -> None:
        super().__init__(job, request, prompt, vocab, context_length)
        self.sequence: Sequence
        self.sampler = Sampler(request.params, vocab.size)
        self.shares_prefix = request.prefix_cache
        self.chosen = 0  # tokens that the model chose; others had to follow these
        self.passed_over = 0  # chunks that others read while this one waited to go on
        self.has_media = bool(prompt.media)
        self._media = deque(cast("SequenceOf[Medium]", prompt.media))
        self._drafted_at = context_length  # where in the sequence the last draft began

    def accept(self, token: int) -> bool:
        """Take the sampled token, and those that must follow; tells whether it is complete."""
        self.chosen += 1
        self.tell(self.sampler.likely)
        return super().accept(token)

    def _follow(self, constraint: Constraint) -> bool:
        complete = super()._follow(constraint)
        for forced in self.pending[1:]:
            self.sampler.accept(forced)
        return complete

    def begin(self, sequence: Sequence) -> None:
        """Go on from what a sequence holds."""
        self.sequence = sequence
        held = size = len(sequence.tokens)
        while self._media and self._media[0].start < held:  # they were read before
            medium = self._media.popleft()
            size += medium.size - medium.positions
        self.cached_tokens = min(size, self.asked_tokens)
        # No checkpoint can be taken inside an image: the one before it serves as well.
        sequence.marks = sorted({self._outside(mark) for mark in sequence.marks})

    def _outside(self, length: int) -> int:
        starts = [each.start for each in self._media if each.start < length < each.end]
        return starts[0] if starts else length

    def next_chunk(self) -> tuple[list[int], Medium | None]:
        """What is to be read of the prompt: an image or a recording, or tokens before it."""
        start = len(self.sequence.tokens)
        medium = self._media[0] if self._media else None
        if medium is not None and medium.start == start:
            return medium.tokens, self._media.popleft()
        end = min([start + PREFILL_CHUNK, *self.sequence.marks[:1]])
        return self.prompt[start : end if medium is None else min(end, medium.start)], None

    @property
    def taken(self) -> int:
        """Tokens of context that it takes up to now; images take more than they have places."""
        surplus = self.prompt_tokens - len(self.prompt)
        return len(self.sequence.tokens) + len(self.pending) + surplus

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are not evaluated yet, all those of images among them."""
        surplus = sum(each.size - each.positions for each in self._media)
        return max(0, len(self.prompt) - len(self.sequence.tokens)) + surplus

    @property
    def turn(self) -> int:
        """Whose prompt is read next: the least of these. No prompt waits for ever."""
        return self.unread - self.passed_over * PREFILL_CHUNK

    def rows(self, draft: SequenceOf[int] = ()) -> list[Row]:
        """What the model has not read of the answer, and a draft of what may follow that."""
        start, last = len(self.sequence.tokens), len(self.pending) - 1
        self._drafted_at = start + last + 1
        self.answer.draft_tokens += len(draft)
        return [
            Row(token, start + index, self.sequence.number, output=index >= last)
            for index, token in enumerate((*self.pending, *draft))
        ]

    def takes(self, row: Row) -> bool:
        """Go on with a row that was read, unless it was drafted and turned out to be wrong."""
        if row.position != len(self.sequence.tokens):  # it follows one that was wrong
            return False
        if self.pending:
            if self.pending[0] != row.token:
                return False
            del self.pending[0]
        self.sequence.tokens.append(row.token)
        self.answer.accepted_draft_tokens += row.position >= self._drafted_at
        return True
