"""Find what a continuation repeats of the text before it, while it streams. Pure.

Models that are asked to continue often say the end of what they had said again. That is removed
only when it is long enough to be no accident: at least :data:`MIN_OVERLAP_CHARS`, or all of the
text before.
"""

from __future__ import annotations

#: Shortest repetition that is taken for one, in characters.
MIN_OVERLAP_CHARS = 24


class OverlapRemover:
    """Passes a continuation on without what it repeats at its beginning.

    Text is held back only as long as it may still be a repetition.

    Args:
        prefix: The text before.
    """

    def __init__(self, prefix: str) -> None:
        #: Characters that were removed so far.
        self.removed = 0
        self._prefix = prefix
        self._held = ""
        #: Where in the prefix the repetition may begin; ``None`` once that is decided.
        self._starts: list[int] | None = None
        self._decided = not prefix

    @property
    def holding(self) -> bool:
        """Whether some text is held back."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """Take the next piece; returns what can be passed on."""
        if self._decided or not text:
            return text
        self._held += text
        alive = self._alive()
        # The longest repetition wins, so a shorter one that is complete waits for the longer.
        complete = [start for start in alive if len(self._prefix) - start <= len(self._held)]
        if len(complete) < len(alive):
            self._starts = alive
            return ""
        return self._decide(min(complete, default=len(self._prefix)))

    def close(self) -> str:
        """The continuation ended; returns what was held back and is no repetition."""
        if self._decided:
            return ""
        complete = [s for s in self._alive() if len(self._prefix) - s <= len(self._held)]
        return self._decide(min(complete, default=len(self._prefix)))

    def _alive(self) -> list[int]:
        """Starts that everything held back still agrees with."""
        prefix, held = self._prefix, self._held
        if self._starts is None:
            self._starts = [0, *range(1, len(prefix) - MIN_OVERLAP_CHARS + 1)]
        return [s for s in self._starts if held.startswith(prefix[s : s + len(held)])]

    def _decide(self, start: int) -> str:
        self._decided = True
        self.removed = len(self._prefix) - start
        held, self._held = self._held, ""
        return held[self.removed :]
