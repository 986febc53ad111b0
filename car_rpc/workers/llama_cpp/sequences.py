"""Which sequence of a context a prompt goes to, so that little of it has to be read again.

A sequence keeps what it holds after its request is answered. A prompt goes on from whatever
begins like it: from a sequence that nobody uses, or from a copy of one that is in use, or of one
that had to make room and went to the host's memory. What is found is compared token by token.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from car_rpc.workers.prefix import common

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

#: What a model remembers of a sequence, as bytes.
State: TypeAlias = "NDArray[Any]"

#: Copying this many tokens takes about as long as reading one.
_COPIED_PER_READ = 64

#: Most states in the host's memory: looking through them takes time before every answer.
MAX_STATES = 64


class Memory(Protocol):
    """What a model remembers of the sequences of a context."""

    @property
    def can_cut(self) -> bool:
        """Whether the end of a sequence can be forgotten. A recurrent model's cannot."""
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


@dataclass(eq=False)
class Sequence:
    """A sequence of a context.

    Attributes:
        number: Its number.
        tokens: What the model remembers of it.
        shared: Whether other requests may use what it holds.
        busy: Whether a request uses it.
        used: When it was used last, as a count of requests.
    """

    number: int
    tokens: list[int] = field(default_factory=list[int])
    shared: bool = True
    busy: bool = False
    used: int = 0


@dataclass(eq=False, frozen=True)
class _Saved:
    tokens: list[int]
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

    def take(self, prompt: SequenceOf[int], *, shared: bool) -> Sequence:
        """A free sequence that holds a beginning of the prompt, all but its last token at most.

        Args:
            prompt: The tokens that are to be read.
            shared: Whether it may hold what other requests left, and leave something to others.
        """
        free = [sequence for sequence in self._all if not sequence.busy]
        sequence = self._begun(prompt, free) if shared else self._vacated(free)
        sequence.busy, sequence.shared = True, shared
        return sequence

    def give_back(self, sequence: Sequence) -> None:
        """A request is done with a sequence."""
        sequence.busy = False
        sequence.used = next(self._clock)
        if not sequence.shared:
            self.forget(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Forget what a sequence holds."""
        sequence.tokens = []
        self._memory.drop(sequence.number)

    def repair(self, sequence: Sequence) -> None:
        """A batch was broken off: forget whatever the sequence holds beyond its tokens."""
        self._cut(sequence, len(sequence.tokens))

    def checkpoint(self, sequence: Sequence) -> None:
        """Save the state of a sequence that cannot be cut back to it later."""
        if not self._memory.can_cut and sequence.shared and sequence.tokens:
            self._save(sequence)

    def move(self, memory: Memory, count: int) -> bool:
        """Go on in another memory, which has more sequences and as much room for each.

        Args:
            memory: The other memory, in which nothing is.
            count: How many sequences it has.

        Returns:
            Whether that was possible; otherwise nothing has changed.
        """
        for sequence in self._all:
            number = sequence.number
            if sequence.tokens and not memory.restore(number, self._memory.save(number)):
                return False
        self._all += [Sequence(number) for number in range(len(self._all), count)]
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
        """How much of the host's memory states take."""
        return sum(saved.state.nbytes for saved in self._saved)

    def _begun(self, prompt: SequenceOf[int], free: list[Sequence]) -> Sequence:
        """A sequence that holds the longest beginning of a prompt that is worth its price."""

        def usable(source: Sequence | _Saved) -> int:
            length = self._usable(source.tokens, prompt)
            return length if length * _COPIED_PER_READ >= len(source.tokens) else 0

        sources: list[Sequence | _Saved] = [each for each in self._all if each.shared]
        sources += self._saved
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
            state = _Saved(list(source.tokens), self._memory.save(source.number))
            return self._copied(state, length, [each for each in free if each is not source])
        if is_worth_keeping:
            self._save(source)
        self._cut(source, length)
        return source

    def _copied(self, saved: _Saved, length: int, free: list[Sequence]) -> Sequence:
        sequence = self._vacated(free)
        if self._memory.restore(sequence.number, saved.state):
            sequence.tokens = list(saved.tokens)
            self._cut(sequence, length)
        else:
            self.forget(sequence)
        return sequence

    def _vacated(self, free: list[Sequence]) -> Sequence:
        """An empty sequence; what the least recently used one holds is saved if there is none."""
        sequence = min(free, key=lambda each: (bool(each.tokens), each.used))
        if sequence.tokens:
            self._save(sequence)
            self.forget(sequence)
        return sequence

    def _save(self, sequence: Sequence) -> None:
        tokens = sequence.tokens
        others = [each.tokens for each in self._all if each is not sequence and each.shared]
        if any(self._serves(other, tokens) for other in others):
            return
        if self._memory.state_bytes(sequence.number) > self._max_bytes:
            return
        for saved in list(self._saved):
            if self._serves(tokens, saved.tokens):
                self._saved.remove(saved)
        self._saved.append(_Saved(list(tokens), self._memory.save(sequence.number)))
        while self.saved_bytes > self._max_bytes or len(self._saved) > MAX_STATES:
            self._saved.popleft()

    def _serves(self, tokens: list[int], wanted: list[int]) -> bool:
        """Whether a state is of no use beside another."""
        if not self._memory.can_cut:
            return tokens == wanted
        return common(tokens, wanted) == len(wanted)

    def _usable(self, tokens: SequenceOf[int], prompt: SequenceOf[int]) -> int:
        """How many tokens of a prompt need not be read; the last one always is, for its logits."""
        length = min(common(tokens, prompt), len(prompt) - 1)
        return length if self._memory.can_cut or length == len(tokens) else 0

    def _cut(self, sequence: Sequence, length: int) -> None:
        if self._memory.cut(sequence.number, length):
            del sequence.tokens[length:]
        else:
            self.forget(sequence)
