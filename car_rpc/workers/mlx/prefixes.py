"""What is kept of earlier prompts, so that the next one need not read the same text again."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from car_rpc.workers.prefix import common

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, eq=False)
class Prefix:
    """A read beginning of a sequence, by default an empty one.

    Attributes:
        tokens: What was read.
        cache: What the model remembers of it, by layer; never changed.
    """

    tokens: list[int] = field(default_factory=list[int])
    cache: list[Any] = field(default_factory=list[Any])

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        return sum(layer.nbytes for layer in self.cache)


#: Most beginnings that are kept: looking through them takes time before every answer.
MAX_PREFIXES = 64


class Prefixes:
    """Beginnings of sequences, the least recently used first to go.

    mlx-lm's own ``LRUPromptCache`` copies what it finds, does not count a find as use, and
    takes time that grows with the square of a sequence's length.

    Args:
        max_bytes: Most memory for all of them.
        can_be_cut: Whether any first part of one is as good as the whole. Otherwise one serves
            only sequences that begin with all of it.
    """

    def __init__(self, max_bytes: int, *, can_be_cut: bool) -> None:
        self._max_bytes = max_bytes
        self._can_be_cut = can_be_cut
        self._entries: deque[Prefix] = deque()

    def put(self, prefix: Prefix) -> None:
        """Keep a beginning; what it makes useless is dropped."""
        if not prefix.tokens:
            return
        if self._can_be_cut:
            for entry in list(self._entries):
                if common(entry.tokens, prefix.tokens) == len(entry.tokens):
                    self._entries.remove(entry)
        self._entries.append(prefix)
        while self.nbytes > self._max_bytes or len(self._entries) > MAX_PREFIXES:
            self._entries.popleft()

    def find(self, tokens: Sequence[int]) -> Prefix:
        """The longest known beginning that leaves at least one token to read; may be empty."""
        best, length = None, 0
        for entry in self._entries:
            shared = min(common(entry.tokens, tokens), len(tokens) - 1)
            if shared > length and (self._can_be_cut or shared == len(entry.tokens)):
                best, length = entry, shared
        if best is None:
            return Prefix()
        self._entries.remove(best)
        self._entries.append(best)
        return cut(best, length)

    @property
    def nbytes(self) -> int:
        """Memory that all of them take, in bytes."""
        return sum(entry.nbytes for entry in self._entries)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()


def cut(prefix: Prefix, length: int) -> Prefix:
    """The first part of a prefix, which shares its memory."""
    layers = [copy.copy(layer) for layer in prefix.cache]
    surplus = len(prefix.tokens) - length
    if surplus:
        for layer in layers:
            layer.trim(surplus)
    return Prefix(prefix.tokens[:length], layers)
