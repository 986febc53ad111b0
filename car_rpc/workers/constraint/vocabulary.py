"""A model's vocabulary as llguidance needs it."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from car_rpc.workers.constraint.guide import Guide

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from car_rpc.workers.constraint.spellings import Spellings

#: What llguidance says of a broken form must not hold what the model said.
_LIMITS = LLParserLimits(verbose_errors=False)

#: How llguidance calls that nothing may come next, not even the end.
_NO_TEXT = "NoExtensionBias"

#: Most line ends between the reasoning and the answer.
_MAX_LINE_ENDS = 2


class GuideVocabulary:
    """Makes guides for one vocabulary.

    Args:
        spellings: How it spells. Making sense of 150,000 tokens takes about a second.
        tokenize: The tokens of a text that becomes no special token.
    """

    def __init__(self, spellings: Spellings, tokenize: Callable[[str], list[int]]) -> None:
        self._spellings = spellings
        wrapper = TokenizerWrapper(_Tokenizer(spellings, tokenize))
        self._tokenizer = LLTokenizer(wrapper, eos_token=list(spellings.ends))

    def check(self, grammar: str) -> str:
        """What is wrong with a grammar; empty when nothing is."""
        matcher = self._matcher(grammar)
        problem: str = matcher.get_error()
        if problem:
            return problem
        matcher.compute_bitmask()  # what no text has is found only where the first token is sought
        return "no text has this form" if _NO_TEXT in matcher.get_error() else ""

    def guide(self, *grammars: str) -> Guide:
        """A guide through a text that one of the grammars allows. They must be right."""
        matchers = [self._matcher(grammar) for grammar in grammars]
        return Guide(matchers, self._tokenizer, self._spellings.ends)

    def accepts(self, grammar: str, text: str) -> bool:
        """Whether a grammar allows a whole text."""
        matcher = self._matcher(grammar)
        tokens = self._tokenizer.tokenize_str(text)
        return matcher.consume_tokens(tokens) and matcher.is_accepting()

    def spelling(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._spellings.tokens[token]

    def pieces(self, text: str) -> list[str]:
        """A text in Lark's syntax, in which spellings of special tokens are these tokens."""
        pieces = self._special.split(text) if self._by_spelling else [text]
        return [
            f"<[{self._by_spelling[piece]}]>"
            if piece in self._by_spelling
            else json.dumps(piece, ensure_ascii=False)
            for piece in pieces
            if piece
        ]

    @cached_property
    def _by_spelling(self) -> dict[str, int]:
        spelled = self._spellings.tokens
        return {spelled[token].decode(errors="replace"): token for token in self._spellings.special}

    @cached_property
    def _special(self) -> re.Pattern[str]:
        longest_first = sorted(self._by_spelling, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @cached_property
    def line_ends(self) -> frozenset[int]:
        """Tokens of line ends alone, as few as chat formats put behind the reasoning."""
        texts = {b"\n" * count for count in range(1, _MAX_LINE_ENDS + 1)}
        tokens = enumerate(self._spellings.tokens)
        return frozenset(token for token, spelling in tokens if spelling in texts)

    @cached_property
    def goes_on(self) -> NDArray[np.bool_]:
        """All tokens but those that end an answer."""
        mask = np.ones(self._tokenizer.vocab_size, np.bool_)
        mask[list(self._spellings.ends)] = False
        return mask

    def _matcher(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)


class _Tokenizer:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, spellings: Spellings, tokenize: Callable[[str], list[int]]) -> None:
        self.tokens = spellings.tokens
        self.special_token_ids = list(spellings.special)
        self.eos_token_id = spellings.ends[0]
        self._tokenize = tokenize

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenize(text if isinstance(text, str) else text.decode())
