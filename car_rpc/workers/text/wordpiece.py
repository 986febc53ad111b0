"""WordPiece, the way from a text to tokens of BERT and its kin.

As their own tokenizer does it (``BertNormalizer``, ``BertPreTokenizer`` and ``WordPiece`` of the
library tokenizers). llama.cpp's way differs where a letter has parts that are no accents, as in
Korean and Hindi, which it leaves out, and in words beyond a hundred letters; and it makes all
letters small, whatever the vocabulary knows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

#: Longest word that is looked into, in characters; a longer one is unknown.
MAX_WORD_CHARS = 100

#: Words whose tokens are remembered.
_REMEMBERED = 65_536

#: Ideographs, each a word of its own (``_is_chinese_char`` of BERT).
_IDEOGRAPHS = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
)

#: Whatever may have to stand apart or to go: no letters, digits or spaces, and the controls that
#: Python counts among spaces.
_STRANGE = re.compile(rf"[^\w\s]|[_\x0b\x0c\x1c-\x1f\x85{_IDEOGRAPHS}]")
_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")


class WordPiece:
    """Makes tokens of texts.

    Args:
        begins: Tokens that begin a word, by their letters.
        within: Tokens that go on within a word.
        unknown: The token of a word that cannot be spelled.
    """

    def __init__(self, begins: Mapping[str, int], within: Mapping[str, int], unknown: int) -> None:
        self._begins = begins
        self._within = within
        self._unknown = unknown
        self._longest = max(map(len, [*begins, *within]), default=0)
        # A vocabulary without large letters was made of texts without them, and without accents.
        self._has_large = any(word != word.lower() for word in begins)
        self._word = lru_cache(_REMEMBERED)(self._tokens_of_word)

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, with nothing around them."""
        return [token for word in self._normal(text).split() for token in self._word(word)]

    def _normal(self, text: str) -> str:
        """The text with spaces around what stands apart."""
        text = _STRANGE.sub(_apart, text)
        if self._has_large:
            return text
        if text.isascii():
            return text.lower()
        marks = unicodedata.normalize("NFD", text)
        # Letter by letter: what stands behind one does not change how it is written small.
        plain = (each.lower() for each in marks if unicodedata.category(each) != "Mn")
        return "".join(plain)

    def _tokens_of_word(self, word: str) -> tuple[int, ...]:
        if len(word) > MAX_WORD_CHARS:
            return (self._unknown,)
        tokens: list[int] = []
        start, known = 0, self._begins
        while start < len(word):
            end = min(len(word), start + self._longest)
            while end > start and word[start:end] not in known:
                end -= 1
            if end == start:
                return (self._unknown,)
            tokens.append(known[word[start:end]])
            start, known = end, self._within
        return tuple(tokens)


def _apart(found: re.Match[str]) -> str:
    letter = found[0]
    category = unicodedata.category(letter)
    if _IDEOGRAPH.match(letter) or category.startswith("P") or "!" <= letter <= "~":
        return f" {letter} "
    return "" if category.startswith("C") or letter == "\ufffd" else letter
