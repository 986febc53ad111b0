"""Which sequence of a context a prompt goes to, so that little of it has to be read again.

A sequence keeps what it holds after its request is answered. A prompt goes on from whatever
begins like it: from a sequence that nobody uses, or from a copy of one that is in use, or of one
that had to make room and went to the host's memory. What is found is compared token by token.

The memory of some models cannot be cut anywhere: a recurrent model has one state for all that it
read, and a sliding window has forgotten what lies before it. There a prompt goes on from a
checkpoint, a copy of that part of the memory. Checkpoints are taken while a prompt is read:

- shortly before its end, as the next turn of a conversation may differ from there on, where a
  template writes the answer anew,
- every so often, as others may leave a long text anywhere,
- where it parts from what is known already, as where two have parted a third may.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from car_rpc.workers.prefix import common

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from car_rpc.workers.llama_cpp.state import State

#: Copying this many tokens takes about as long as reading one.
_COPIED_PER_READ = 64

#: Most states in the host's memory: looking through them takes time before every answer.
MAX_STATES = 64

#: Most checkpoints of a sequence.
MAX_CHECKPOINTS = 8

#: A checkpoint is so many tokens before the end of a prompt: before what a template puts there for
#: the answer to begin, which is up to ten tokens and may be missing in the next turn.
TAIL = 16

#: And one is taken each time that so many tokens were read.
STRIDE = 2048

#: Sequences keep so many checkpoints before states make room for others.
_LEFT_AS_THEY_ARE = 2

#: Reading so many tokens again is cheaper than a checkpoint.
_WORTH_A_CHECKPOINT = 64


class Memory(Protocol):
    """What a model remembers of the sequences of a context."""

    @property
    def can_cut(self) -> bool:
        """Whether a sequence can be cut anywhere, at any time."""
        ...

    def shortest(self, sequence: int) -> int:
        """The fewest tokens that a sequence can be cut to, without a checkpoint."""
        ...

    def cut(self, sequence: int, length: int) -> bool:
        """Forget all but the first tokens of a sequence; tells whether that was possible."""
        ...

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        ...

    def state_bytes(self, sequence: int) -> int:
        """Size of what is remembered of a sequence."""
        ...

    def save(self, sequence: int) -> State:
        """A copy of what is remembered of a sequence."""
        ...

    def restore(self, sequence: int, state: State) -> bool:
        """Let a sequence be what was saved; tells whether there was room."""
        ...

    def save_part(self, sequence: int) -> State:
        """A copy of the part that cannot be cut."""
        ...

    def rewind(self, sequence: int, part: State, length: int) -> bool:
        """Cut a sequence to the length at which a part was saved; tells whether it succeeded."""
        ...


class Checkpoint(NamedTuple):
    """What is needed to cut a sequence to some length.

    Attributes:
        length: The length.
        part: What could not be cut to it.
    """

    length: int
    part: State


@dataclass(eq=False)
class Sequence:
    """A sequence of a context.

    Attributes:
        number: Its number.
        tokens: What the model remembers of it.
        checkpoints: Lengths that it can be cut to, in ascending order.
        marks: Lengths at which a checkpoint is to be taken, all of them still to come.
        shared: Whether other requests may use what it holds.
        busy: Whether a request uses it.
        used: When it was used last, as a count of requests.
    """

    number: int
    tokens: list[int] = field(default_factory=list[int])
    checkpoints: list[Checkpoint] = field(default_factory=list[Checkpoint])
    marks: list[int] = field(default_factory=list[int])
    shared: bool = True
    busy: bool = False
    used: int = 0


@dataclass(eq=False, frozen=True)
class _Saved:
    tokens: list[int]
    checkpoints: list[Checkpoint]
    state: State


class Sequences:
    """Hands out the sequences of a context.

    Args:
        memory: What the model remembers.
        count: How many sequences there are.
        max_bytes: Most of the host's memory for states that made room.
    """

    def __init__(self, memory: Memory, count: int, max_bytes: int) -> None:
        self._memory = memory
        self._all = [Sequence(number) for number in range(count)]
        self._saved: deque[_Saved] = deque()
        self._max_bytes = max_bytes
        self._clock = itertools.count(1)

    @property
    def any_free(self) -> bool:
        """Whether :meth:`take` has one to give."""
        return not all(sequence.busy for sequence in self._all)

    def displaces(self, prompt: SequenceOf[int]) -> bool:
        """Whether a prompt takes the place of most of what another one left."""
        free = [sequence for sequence in self._all if not sequence.busy]
        return all(len(each.tokens) > 2 * self._usable(each, prompt) for each in free)

    def take(self, prompt: SequenceOf[int], *, shared: bool) -> Sequence:
        """A free sequence that holds a beginning of the prompt, all but its last token at most.

        Args:
            prompt: The tokens that are to be read.
            shared: Whether it may hold what other requests left, and leave something to others.
        """
        free = [sequence for sequence in self._all if not sequence.busy]
        if not shared or self._memory.can_cut:
            sequence = self._begun(prompt, free) if shared else self._vacated(free)
        else:
            known = max((common(each.tokens, prompt) for each in self._sources), default=0)
            sequence = self._begun(prompt, free)
            sequence.marks = _marks(len(sequence.tokens), known, len(prompt))
        sequence.busy, sequence.shared = True, shared
        return sequence

    def give_back(self, sequence: Sequence) -> None:
        """A request is done with a sequence."""
        sequence.busy = False
        sequence.marks = []
        sequence.used = next(self._clock)
        if not sequence.shared:
            self.forget(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Forget what a sequence holds."""
        sequence.tokens, sequence.checkpoints, sequence.marks = [], [], []
        self._memory.drop(sequence.number)

    def repair(self, sequence: Sequence) -> None:
        """A batch was broken off: forget whatever the sequence holds beyond its tokens."""
        self._cut(sequence, len(sequence.tokens))

    def mark(self, sequence: Sequence, length: int) -> None:
        """Another prompt will part from a sequence's there: a checkpoint would serve it."""
        worth = length >= len(sequence.tokens) + _WORTH_A_CHECKPOINT
        if worth and sequence.shared and not self._memory.can_cut:
            sequence.marks = sorted({*sequence.marks, length})

    def checkpoint(self, sequence: Sequence) -> None:
        """Take a checkpoint of a sequence, if it has come to a mark."""
        length = len(sequence.tokens)
        if length in sequence.marks:
            part = self._memory.save_part(sequence.number)
            sequence.checkpoints.append(Checkpoint(length, part))
            if len(sequence.checkpoints) > MAX_CHECKPOINTS:
                _thin(sequence.checkpoints)
            self._keep_to_budget()
        sequence.marks = [mark for mark in sequence.marks if mark > length]

    def move(self, memory: Memory, count: int) -> bool:
        """Go on in another memory, with no less room for each sequence; their numbers change.

        Args:
            memory: The other memory, in which nothing is.
            count: How many sequences it has, which is no fewer than are busy. What others hold
                that find no place there is saved.

        Returns:
            Whether that was possible; otherwise nothing has changed.
        """
        kept = sorted(self._all, key=lambda each: (not each.busy, not each.tokens, -each.used))
        kept, others = kept[:count], kept[count:]
        kept += [Sequence(number) for number in range(len(kept), count)]
        # What comes next finds room beside what is in use, see _vacated.
        kept.sort(key=lambda each: (not each.busy and not each.tokens, each.busy))
        try:
            for number, sequence in enumerate(kept):
                state = self._memory.save(sequence.number) if sequence.tokens else None
                if state is not None and not memory.restore(number, state):
                    return False
            for sequence in others:
                if sequence.tokens:
                    self._save(sequence)
        except MemoryError:  # for the copies
            return False
        for number, sequence in enumerate(kept):
            sequence.number = number
        self._all = kept
        self._memory = memory
        return True

    def clear(self) -> None:
        """Forget all; nothing is busy any more."""
        self._saved.clear()
        for sequence in self._all:
            sequence.busy = False
            self.forget(sequence)

    @property
    def saved_bytes(self) -> int:
        """How much of the host's memory states and checkpoints take."""
        states = [each.state for each in self._saved]
        states += [each.part for source in self._sources for each in source.checkpoints]
        # Copies of a sequence have the same checkpoints.
        return sum(state.nbytes for state in {id(each): each for each in states}.values())

    @property
    def _sources(self) -> list[Sequence | _Saved]:
        return [*(each for each in self._all if each.shared), *self._saved]

    def _begun(self, prompt: SequenceOf[int], free: list[Sequence]) -> Sequence:
        """A sequence that holds the longest beginning of a prompt that is worth its price."""

        def usable(source: Sequence | _Saved) -> int:
            length = self._usable(source, prompt)
            return length if length * _COPIED_PER_READ >= len(source.tokens) else 0

        sources = self._sources
        # Of equals a free sequence, which needs no copy.
        source = max(sources, key=lambda each: (usable(each), each in free), default=None)
        length = usable(source) if source is not None else 0
        if source is None or not length:
            return self._vacated(free)
        if isinstance(source, _Saved):
            self._saved.remove(source)
            self._saved.append(source)
            return self._copied(source, length, free)
        is_worth_keeping = len(source.tokens) > 2 * length
        if source.busy or (is_worth_keeping and len(free) > 1):
            others = [each for each in free if each is not source]
            return self._copied(self._copy(source), length, others)
        if is_worth_keeping:
            self._save(source)
        self._cut(source, length)
        return source

    def _copied(self, saved: _Saved, length: int, free: list[Sequence]) -> Sequence:
        sequence = self._vacated(free)
        if self._memory.restore(sequence.number, saved.state):
            sequence.tokens = list(saved.tokens)
            sequence.checkpoints = list(saved.checkpoints)
            self._cut(sequence, length)
        else:
            self.forget(sequence)
        return sequence

    def _vacated(self, free: list[Sequence]) -> Sequence:
        """An empty sequence; else what the least recently used one holds is saved.

        In both cases rather one beside a sequence in use: llama.cpp reads the weights once for
        those whose numbers follow upon each other, and once more wherever they do not
        (llama_batch_allocr::split_equal), so that a step takes as much longer.
        """
        busy = {each.number for each in self._all if each.busy}

        def price(each: Sequence) -> tuple[bool, bool, int]:
            is_apart = bool(busy) and busy.isdisjoint((each.number - 1, each.number + 1))
            return bool(each.tokens), is_apart, each.used if each.tokens else 0

        sequence = min(free, key=price)
        if sequence.tokens:
            self._save(sequence)
            self.forget(sequence)
        return sequence

    def _copy(self, sequence: Sequence) -> _Saved:
        state = self._memory.save(sequence.number)
        return _Saved(list(sequence.tokens), list(sequence.checkpoints), state)

    def _save(self, sequence: Sequence) -> None:
        tokens = sequence.tokens
        others = [each for each in self._all if each is not sequence and each.shared]
        if any(self._serves(other, tokens) for other in others):
            return
        if self._memory.state_bytes(sequence.number) > self._max_bytes:
            return
        for saved in list(self._saved):
            if self._serves(sequence, saved.tokens):
                self._saved.remove(saved)
        self._saved.append(self._copy(sequence))
        self._keep_to_budget()

    def _keep_to_budget(self) -> None:
        if len(self._saved) > MAX_STATES:
            self._saved.popleft()
        while self.saved_bytes > self._max_bytes:
            most = max((each.checkpoints for each in self._sources), key=len)
            if self._saved and len(most) <= _LEFT_AS_THEY_ARE:
                self._saved.popleft()
            else:
                _thin(most)

    def _serves(self, source: Sequence | _Saved, wanted: list[int]) -> bool:
        """Whether a state is of no use beside another."""
        length = common(source.tokens, wanted)
        lost = length - self._reach(source, length)
        return length == len(wanted) and lost < _WORTH_A_CHECKPOINT

    def _usable(self, source: Sequence | _Saved, prompt: SequenceOf[int]) -> int:
        """How many tokens of a prompt need not be read; the last one always is, for its logits."""
        return self._reach(source, min(common(source.tokens, prompt), len(prompt) - 1))

    def _reach(self, source: Sequence | _Saved, length: int) -> int:
        """The most tokens, up to some length, that a source can be cut to."""
        if self._memory.can_cut or length == len(source.tokens):
            return length
        if isinstance(source, Sequence) and length >= self._memory.shortest(source.number):
            return length
        return max((each.length for each in source.checkpoints if each.length <= length), default=0)

    def _cut(self, sequence: Sequence, length: int) -> None:
        """Cut a sequence; where that is impossible, to the last checkpoint before."""
        before = [each for each in sequence.checkpoints if each.length <= length]
        if not self._memory.cut(sequence.number, length):
            if not before or not self._memory.rewind(
                sequence.number, before[-1].part, before[-1].length
            ):
                self.forget(sequence)
                return
            length = before[-1].length
        del sequence.tokens[length:]
        sequence.checkpoints = before


def _marks(begun: int, known: int, length: int) -> list[int]:
    """Where checkpoints are to be taken of a prompt.

    Args:
        begun: Tokens of it that need not be read.
        known: Tokens of it that were read before, be they of use or not.
        length: Tokens of it.
    """
    marks = {length - TAIL, *range(STRIDE, length, STRIDE)}
    if begun + _WORTH_A_CHECKPOINT <= known < length - TAIL:
        marks.add(known)
    return sorted(mark for mark in marks if mark > begun)


def _thin(checkpoints: list[Checkpoint]) -> None:
    """Drop the one without which the least is to be read again; the last only if it is alone."""
    lengths = [0, *(each.length for each in checkpoints)]
    gaps = [length - before for before, length in itertools.pairwise(lengths)]
    del checkpoints[gaps.index(min(gaps[:-1] or gaps))]
