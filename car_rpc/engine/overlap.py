"""Find what a continuation repeats of the text before it, while it streams. Pure.

Models that are asked to continue often say the end of what they had said again. That is removed
only when it is long enough to be no accident: at least :data:`MIN_OVERLAP_CHARS`, or all of the
text before.
"""

from __future__ import annotations

#: Shortest repetition that is taken for one, in characters.
MIN_OVERLAP_CHARS = 24


#: How far back a repetition is looked for, in characters, apart from one of all the text.
MAX_OVERLAP_CHARS = 4096


class OverlapRemover:
    """Passes a continuation on without what it repeats at its beginning.

    Text is held back only as long as it may still be a repetition.

    Args:
        prefix: The text before.
    """

    def __init__(self, prefix: str) -> None:
        #: Characters that were removed so far.
        self.removed = 0
        #: Whether it is known what is repeated.
        self.decided = not prefix
        self._prefix = prefix
        self._held = ""
        first = max(1, len(prefix) - MAX_OVERLAP_CHARS)
        #: Where in the prefix the repetition may begin.
        self._starts = [0, *range(first, len(prefix) - MIN_OVERLAP_CHARS + 1)]

    def push(self, text: str) -> str:
        """Take the next piece; returns what can be passed on."""
        if self.decided or not text:
            return text
        known = len(self._held)
        self._held += text
        self._starts = [start for start in self._starts if self._goes_on(start + known, text)]
        # The longest repetition wins, so a shorter one that is complete waits for the longer.
        if any(len(self._prefix) - start > len(self._held) for start in self._starts):
            return ""
        return self.close()

    def close(self) -> str:
        """The continuation ended; returns what was held back and is no repetition."""
        if self.decided:
            return ""
        self.decided = True
        whole = [s for s in self._starts if len(self._prefix) - s <= len(self._held)]
        self.removed = len(self._prefix) - min(whole, default=len(self._prefix))
        held, self._held = self._held, ""
        return held[self.removed :]

    def _goes_on(self, position: int, text: str) -> bool:
        """Whether the prefix goes on like the text at a position, as far as it goes."""
        return self._prefix.startswith(text[: max(0, len(self._prefix) - position)], position)
