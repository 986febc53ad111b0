"""Generate several answers at once, each in a slot of one context."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from car_rpc.errors import CarError
from car_rpc.workers.generation import Generation
from car_rpc.workers.llama_cpp.context import Context, DecodeError, Row
from car_rpc.workers.llama_cpp.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from car_rpc.wire.worker import Generate
    from car_rpc.workers.chat.prompter import Prompt
    from car_rpc.workers.job import Job
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
        context_length: Tokens of context that it may use.

    Raises:
        CarError: The prompt leaves no room (``context_overflow``), or a parameter is wrong.
    """

    def __init__(
        self, job: Job, request: Generate, prompt: Prompt, vocab: Vocab, context_length: int
    ) -> None:
        super().__init__(job, request, prompt, vocab, context_length)
        self.sampler = Sampler(request.params, vocab.size, context_length)
        self.evaluated = 0  # tokens in the context's memory
        self.pending: int | None = None  # sampled, not evaluated yet

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are not evaluated yet."""
        return max(0, len(self.prompt) - self.evaluated)


class Generator:
    """Shares one context between generations, first come, first served.

    A step evaluates one token of each running answer together, then one chunk of the shortest
    unread prompt alone. A chunk's size never depends on what else runs: the numbers that a
    model computes depend on it, so a request gets the same answer on a busy machine.

    Args:
        context: The context, with a sequence per slot.
        slots: How many generations run at once.
    """

    def __init__(self, context: Context, slots: int) -> None:
        self._context = context
        self._slots = slots
        self._waiting: deque[LlamaGeneration] = deque()
        self._active: dict[int, LlamaGeneration] = {}

    def add(self, generation: LlamaGeneration) -> None:
        """Queue a generation."""
        self._waiting.append(generation)

    def step(self) -> bool:
        """Advance all; returns whether any can go on at once."""
        self._drop_cancelled()
        self._admit()
        self._advance_running()
        self._read_prompt()
        next_can_start = bool(self._waiting) and len(self._active) < self._slots
        runs = any(generation.job.running.is_set() for generation in self._active.values())
        return next_can_start or runs

    def reset(self) -> None:
        """Forget all generations."""
        self._waiting.clear()
        self._active.clear()
        self._context.clear()

    def _drop_cancelled(self) -> None:
        cancelled = [each for each in self._waiting if each.job.cancelled.is_set()]
        for generation in cancelled:
            self._waiting.remove(generation)
            generation.sampler.close()
        for slot, generation in list(self._active.items()):
            if generation.job.cancelled.is_set():
                self._release(slot)

    def _admit(self) -> None:
        for slot in range(self._slots):
            if self._waiting and slot not in self._active:
                self._active[slot] = self._waiting.popleft()

    def _advance_running(self) -> None:
        rows: list[Row] = []
        for slot, generation in self._active.items():
            if generation.pending is not None and generation.job.running.is_set():
                rows.append(Row(generation.pending, generation.evaluated, slot, output=True))
        self._evaluate(rows)

    def _read_prompt(self) -> None:
        unread = [
            (generation.unread, slot)
            for slot, generation in self._active.items()
            if generation.unread and generation.job.running.is_set()
        ]
        if not unread:
            return
        # The shortest first: a short request answers soon even behind a long one.
        count, slot = min(unread)
        generation = self._active[slot]
        start = generation.evaluated
        chunk = generation.prompt[start : start + PREFILL_CHUNK]
        last = len(chunk) - 1 if count <= PREFILL_CHUNK else None
        self._evaluate(
            [
                Row(token, start + index, slot, output=index == last)
                for index, token in enumerate(chunk)
            ],
            generation.job,
        )

    def _evaluate(self, rows: Sequence[Row], owner: Job | None = None) -> None:
        if not rows:
            return
        try:
            self._context.decode(rows, owner)
        except DecodeError as error:
            failure = CarError("inference_failed", f"llama.cpp could not decode (code {error})")
            for slot in {row.sequence for row in rows}:
                job = self._active[slot].job
                self._release(slot)
                job.fail(failure)
            return
        for index, row in enumerate(rows):
            generation = self._active[row.sequence]
            generation.evaluated += 1
            if not row.output:
                continue
            generation.pending = generation.sampler.sample(self._context, index)
            if generation.accept(generation.pending):
                self._release(row.sequence)
                generation.job.reply()

    def _release(self, slot: int) -> None:
        self._active.pop(slot).sampler.close()
        self._context.drop(slot)
