"""What may come next in a text that must have a form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray

#: Most tokens that are taken at once because nothing else could come: they are read in one batch
#: with what the other answers need.
MAX_FORCED = 32


class Guide:
    """Follows a text that one of several grammars allows.

    Args:
        matchers: A matcher for each grammar; one that the text leaves is dropped.
        tokenizer: What they know of the vocabulary.
        ends: Tokens that end an answer.
    """

    def __init__(
        self, matchers: Sequence[LLMatcher], tokenizer: LLTokenizer, ends: Sequence[int]
    ) -> None:
        self._matchers = list(matchers)
        self._tokenizer = tokenizer
        self._ends = ends

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        return all(matcher.is_stopped() for matcher in self._matchers)

    @property
    def lost(self) -> bool:
        """Whether the text has left every grammar, or became too complex to follow."""
        return not self._matchers

    def allowed(self) -> NDArray[np.bool_]:
        """For each token whether it may come next."""
        size = self._tokenizer.vocab_size
        masks = [
            np.unpackbits(
                np.frombuffer(matcher.compute_bitmask(), np.uint8), count=size, bitorder="little"
            ).view(np.bool_)
            for matcher in self._matchers
        ]
        self._drop_failed()
        if self.lost:
            ends = np.zeros(size, np.bool_)
            ends[list(self._ends)] = True
            return ends
        return np.logical_or.reduce(masks) if len(masks) > 1 else masks[0]

    def allows(self, token: int) -> bool:
        """Whether a token may come next, which is known sooner than what else may.

        A text that has one way to go on may go on in other tokens than the mask has.
        """
        if self.lost or self.complete:
            return token in self._ends
        return any(matcher.validate_tokens([token]) for matcher in self._matchers)

    def accept(self, *tokens: int) -> None:
        """Take what came."""
        self._matchers = [
            matcher for matcher in self._matchers if matcher.consume_tokens(list(tokens))
        ]

    def accept_bytes(self, text: bytes) -> None:
        """Take a text that came, whatever its tokens were."""
        if text:
            self.accept(*self._tokenizer.tokenize_bytes(text))

    def forced(self) -> list[int]:
        """The tokens that must come next, as the vocabulary spells what they say."""
        if len(self._matchers) != 1:
            return []
        (matcher,) = self._matchers
        tokens = matcher.compute_ff_tokens()[:MAX_FORCED]
        self._drop_failed()
        return tokens

    def _drop_failed(self) -> None:
        self._matchers = [matcher for matcher in self._matchers if not matcher.is_error()]
