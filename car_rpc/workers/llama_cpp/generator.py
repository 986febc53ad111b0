"""Generate several answers at once, each in a slot of one context."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from car_rpc.errors import CarError
from car_rpc.workers.llama_cpp.context import Context, DecodeError, Row
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK
from car_rpc.workers.llama_cpp.native import log_debug
from car_rpc.workers.llama_cpp.sequences import Sequences
from car_rpc.workers.prefix import common
from car_rpc.workers.slots import MAX_GROWN_SLOTS, longest_context, more_slots, slots_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as SequenceOf

    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.generation import LlamaGeneration
    from car_rpc.workers.llama_cpp.projector import Medium
    from car_rpc.workers.llama_cpp.speculation import Speculator


class Generator:
    """Shares one context between generations, first come, first served.

    A step evaluates one token of each running answer together, then one chunk of the shortest
    unread prompt alone, and of others what is no longer than a chunk with it, so that answers that
    begin at once go on together. Where there is one answer and nothing else to do, what it may go
    on with is evaluated as well. A chunk's size never depends on what else runs: the numbers that a
    model computes depend on it, so a request gets the same answer on a busy machine.

    Args:
        make_context: Makes a context for so many generations at once, each with room for so many
            tokens; may raise MemoryError.
        kept: How many slots there are for conversations that come in turns, when each has so much
            room. It begins with one, and gets others as there is something to put into them; all
            of them where what is remembered cannot move to another context.
        room: Tokens that each may use to begin with.
        most: Tokens that one may use at most, where the memory suffices.
        slot_bytes: What the cache for one with so much room takes.
        saved_bytes: Most of the host's memory for what is kept of prompts that had to make room.
        make_speculator: Makes what guesses how an answer goes on; ``None`` for no guesses. It is
            not called for a model that cannot forget what was wrong.

    Raises:
        MemoryError: There is no room to begin with.
    """

    def __init__(
        self,
        make_context: Callable[[int, int], Context],
        kept: Callable[[int], int],
        room: int,
        most: int,
        slot_bytes: Callable[[int], int],
        saved_bytes: int,
        make_speculator: Callable[[], Speculator] | None = None,
    ) -> None:
        self._make_context = make_context
        self._slots = 1
        self._kept = kept
        self._slot_bytes = slot_bytes
        self._context = make_context(self._slots, room)
        if not self._context.can_move:
            self._context.close()
            self._slots = kept(room)
            self._context = make_context(self._slots, room)
        self.room = min(room, self._context.room)
        self._most = most
        self._most_slots = MAX_GROWN_SLOTS
        self._waits_for_memory = False  # the first in the queue, until others have ended
        self._sequences = Sequences(self._context, self._slots, saved_bytes)
        self._waiting: deque[LlamaGeneration] = deque()
        self._active: dict[int, LlamaGeneration] = {}
        self.speculator: Speculator | None = None
        if make_speculator is not None and self._context.can_cut:
            self.speculator = make_speculator()

    @property
    def longest(self) -> int:
        """Tokens that one generation may use at most, as far as the memory goes for one."""
        return longest_context(self.room, self._most, self._slot_bytes, self._slots)

    def add(self, generation: LlamaGeneration) -> None:
        """Queue a generation."""
        self._waiting.append(generation)

    def step(self) -> bool:
        """Advance all; returns whether any can go on at once."""
        self._drop_cancelled()
        self._lengthen_running()
        self._admit()
        if self._waiting and not self._sequences.any_free:
            self._make_room()
            self._admit()
        self._advance_running()
        self._read_prompts()
        next_can_start = self._sequences.any_free and not self._waits_for_memory
        runs = any(generation.advances for generation in self._active.values())
        return (bool(self._waiting) and next_can_start) or runs

    def reset(self) -> None:
        """Forget all generations, and what is kept of their prompts."""
        self._waiting.clear()
        self._active.clear()
        self._sequences.clear()

    def _drop_cancelled(self) -> None:
        self._waiting = deque(each for each in self._waiting if not each.job.cancelled.is_set())
        for generation in list(self._active.values()):
            if generation.job.cancelled.is_set():
                self._release(generation)

    def _admit(self) -> None:
        self._waits_for_memory = False
        for generation in list(self._waiting):
            if not self._sequences.any_free:
                return
            if self._is_being_read(generation):
                continue
            if not self._has_room(generation):
                return
            if self._sequences.displaces(generation.prompt):
                self._grow(self._slots + 1, self._kept(self.room))
            sequence = self._sequences.take(generation.prompt, shared=generation.shares_prefix)
            self._waiting.remove(generation)
            self._active[sequence.number] = generation
            generation.begin(sequence)
            chunks = f"{PREFILL_CHUNK} at once"
            if sequence.marks:
                chunks += f" and with checkpoints at {sequence.marks}"
            log_debug(
                f"request {generation.job.id}: {generation.cached_tokens} of"
                f" {generation.prompt_tokens} prompt tokens were read before, the others are read"
                f" {chunks}"
            )

    def _make_room(self) -> None:
        """Let more run at once, the first that waits among them."""
        count = len(self._active)
        needed = _needed(self._waiting[0])
        if needed <= self.room:
            self._grow(count + len(self._waiting), self._most_slots)
        elif count < self._most_slots:
            self._lengthen(needed, count + 1)

    def _grow(self, wanted: int, most: int) -> None:
        """Have more slots, where the memory suffices. What was read moves with them."""
        slot_bytes = self._slot_bytes(self.room)
        while True:
            most = min(most, self._most_slots)
            slots = more_slots(self._slots, slot_bytes, wanted, most)
            if slots == self._slots or self._remake(slots, self.room):
                return
            self._most_slots = slots // 2

    def _has_room(self, generation: LlamaGeneration) -> bool:
        """Whether the slots are long enough for a prompt, or can be made so.

        Where that takes the memory of slots that are in use, a prompt waits for it, and all
        behind it do: else others would always be before it.
        """
        needed = _needed(generation)
        is_long_enough = needed <= self.room or self._lengthen(needed, len(self._active) + 1)
        if not is_long_enough and generation.prompt_tokens >= self.room and self._active:
            self._waits_for_memory = True
            return False
        try:
            generation.confine(self.room)
        except CarError as error:
            self._waiting.remove(generation)
            generation.job.fail(error)
            return False
        return True

    def _lengthen_running(self) -> None:
        """Make the slots longer before an answer that may go on comes to the end of its own."""
        for generation in list(self._active.values()):
            needed = min(generation.taken + PREFILL_CHUNK, generation.most_tokens)
            if needed > self.room and not self._lengthen(needed, len(self._active)):
                generation.most_tokens = self.room

    def _lengthen(self, needed: int, slots: int) -> bool:
        """Make the slots longer, and at least so many of them, where the memory suffices."""
        room, longest = self.room, self.longest
        while room < min(needed, longest):
            room = min(2 * room, longest)
        if room < needed:
            return False
        slot_bytes = self._slot_bytes(room)
        most = slots_of(slot_bytes, max(slots, self._slots))
        # What others have left takes memory, too.
        if most < slots < self._slots and self._remake(slots, self.room):
            most = slots_of(slot_bytes, slots)
        if most < slots:
            return False
        count = min(most, max(slots, self._kept(room)))
        if not self._remake(count, room):
            self._most = max(self.room, room // 2)
            return False
        for generation in self._active.values():
            generation.confine(room)
        return True

    def _remake(self, slots: int, room: int) -> bool:
        """Go on in another context; tells whether there was memory for it."""
        try:
            context = self._make_context(slots, room)
        except MemoryError:
            return False
        if not self._sequences.move(context, slots):
            context.close()
            return False
        self._context.close()
        self._context, self._slots, self.room = context, slots, room
        self._active = {each.sequence.number: each for each in self._active.values()}
        log_debug(f"from now on {slots} requests at once have {room} tokens of context each")
        return True

    def _is_being_read(self, generation: LlamaGeneration) -> bool:
        """Whether another is about to read much of the same prompt, which is worth a wait."""
        if not generation.shares_prefix:
            return False
        for other in self._active.values():
            if not (other.shares_prefix and other.unread and other.job.running.is_set()):
                continue
            sequence, shared = other.sequence, common(other.prompt, generation.prompt)
            if shared >= len(sequence.tokens) + PREFILL_CHUNK:
                self._sequences.mark(sequence, shared)
                return True
            if shared in sequence.marks:
                return True
        return False

    def _advance_running(self) -> None:
        # llama.cpp reads the weights once for sequences whose numbers follow upon each other, and
        # once more wherever they do not (llama_batch_allocr::split_equal).
        in_order = sorted(self._active.items())
        running = [each for _, each in in_order if each.advances]
        begun = [each for each in running if each.pending]
        speculator = self.speculator if self._context.can_cut else None
        if speculator is not None and begun == running and len(begun) == 1:
            self._advance_alone(begun[0], speculator)
            return
        rows = [row for generation in begun for row in generation.rows()]
        # What a form forces may be longer than a batch.
        for start in range(0, len(rows), PREFILL_CHUNK):
            part = rows[start : start + PREFILL_CHUNK]
            self._evaluate([row for row in part if row.sequence in self._active])

    def _advance_alone(self, generation: LlamaGeneration, speculator: Speculator) -> None:
        draft = speculator.draft(generation)
        self._evaluate(generation.rows(draft))
        if draft:  # what was wrong of it is in the memory, too
            self._sequences.repair(generation.sequence)
        speculator.learn(generation, ended=not generation.sequence.busy)

    def _read_prompts(self) -> None:
        """Read no more than a chunk: running answers wait for it."""
        room = PREFILL_CHUNK
        while (read := self._read_prompt(room)) and read < room:
            room -= read

    def _read_prompt(self, room: int) -> int:
        """Read some of a prompt, all that is left where others were read before it.

        Returns:
            How many tokens these were; 0 when there is no prompt that fits into the room.
        """
        unread = [
            generation
            for generation in self._active.values()
            if generation.unread and generation.job.running.is_set()
        ]
        # The shortest first: a short request answers soon even behind a long one.
        generation = min(unread, key=lambda each: each.turn, default=None)
        if generation is None or (generation.unread > room and room < PREFILL_CHUNK):
            return 0
        for other in unread:
            other.passed_over = 0 if other is generation else other.passed_over + 1
        number, count = generation.sequence.number, generation.unread
        self._sequences.checkpoint(generation.sequence)
        start = len(generation.sequence.tokens)
        chunk, medium = generation.next_chunk()
        if medium is not None:
            self._read_medium(generation, medium)
            return medium.size
        last = len(chunk) - 1 if len(chunk) == count else None
        self._evaluate(
            [
                Row(token, start + index, number, output=index == last)
                for index, token in enumerate(chunk)
            ],
            generation.job,
        )
        return len(chunk)

    def _read_medium(self, generation: LlamaGeneration, medium: Medium) -> None:
        number = generation.sequence.number
        try:
            medium.read(self._context, number, generation.job)
        except DecodeError as error:
            self._fail({number}, error)
        else:
            generation.sequence.tokens += medium.tokens

    def _evaluate(self, rows: SequenceOf[Row], owner: Job | None = None) -> None:
        if not rows:
            return
        try:
            self._context.decode(rows, owner)
        except DecodeError as error:
            self._fail({row.sequence for row in rows}, error)
            return
        for index, row in enumerate(rows):
            generation = self._active.get(row.sequence)
            if generation is None or generation.waits or not generation.takes(row):
                continue  # it was drafted for nothing
            if generation.pending or not row.output:
                continue
            token = generation.sampler.sample(self._context, index, generation.constraint)
            if generation.accept(token):
                self._release(generation)
                generation.job.reply()

    def _fail(self, numbers: set[int], error: DecodeError) -> None:
        """End what a broken batch belonged to; one that was interrupted keeps what was read."""
        for number in numbers:
            generation = self._active[number]
            if error.interrupted:
                self._sequences.repair(generation.sequence)
            else:
                self._sequences.forget(generation.sequence)
            self._release(generation)
            generation.job.fail(
                CarError("inference_failed", f"llama.cpp could not decode (code {error})")
            )

    def _release(self, generation: LlamaGeneration) -> None:
        del self._active[generation.sequence.number]
        self._waits_for_memory = False
        self._sequences.give_back(generation.sequence)


def _needed(generation: LlamaGeneration) -> int:
    """Tokens that a slot must have for a generation to begin."""
    return min(generation.prompt_tokens + PREFILL_CHUNK, generation.most_tokens)
