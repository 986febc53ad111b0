"""WordPiece beside the library that BERT's vocabularies are published for."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.workers.text.wordpiece import MAX_WORD_CHARS, WordPiece

tokenizers = pytest.importorskip("tokenizers")

LETTERS = "abcdefghijklmnopqrstuvwxyzABCß0123456789.,!?-_'\"$€#@~^ñéıσςжабह्िाक가각나中文日ア゙"
PARTS = [*LETTERS, *unicodedata.normalize("NFD", LETTERS), "un", "ing", "the", "able"]

#: What old versions of Unicode know as new ones do: the library's is not ours.
KNOWN = [
    letter
    for letter in map(chr, [*range(0xD800), *range(0xE000, 0x11000)])
    if unicodedata.ucd_3_2_0.category(letter) == unicodedata.category(letter) != "Cn"
]

#: Written by people, and whatever else there is.
TEXTS = st.one_of(
    st.text(st.sampled_from([*LETTERS, " ", "\t", "\n", "\u0301", "\u200b", "\u00a0", "\ufffd"])),
    st.text(st.sampled_from(KNOWN)),
    st.lists(st.sampled_from(["un", "able", "ing", "the", "x" * 99, "中", " ", "."])).map("".join),
)


def both(*, lowercase: bool) -> tuple[WordPiece, Any]:
    """Ours and the library's, with one vocabulary."""
    parts = dict.fromkeys(part for part in PARTS if not lowercase or part == part.lower())
    begins = {part: index for index, part in enumerate(parts, start=1)}
    within = {part: index for index, part in enumerate(parts, start=len(parts) + 1)}
    vocabulary = {"[UNK]": 0, **begins, **{f"##{part}": index for part, index in within.items()}}
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    theirs = tokenizers.Tokenizer(model)
    theirs.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return WordPiece(begins, within, 0), theirs


SMALL, LARGE = both(lowercase=True), both(lowercase=False)


@given(TEXTS)
def test_any_text_becomes_the_tokens_of_the_library(text: str) -> None:
    for ours, theirs in (SMALL, LARGE):
        assert ours.tokenize(text) == theirs.encode(text).ids


def test_letters_that_are_made_of_parts_keep_all_that_are_no_accents() -> None:
    ours, theirs = SMALL
    for text in ("각나", "हि", "हा", "カ\u3099", "é", "ñandú"):
        tokens = ours.tokenize(text)
        assert tokens == theirs.encode(text).ids
    assert len(ours.tokenize("각")) == 3
    assert len(ours.tokenize("é")) == 1


def test_a_word_is_unknown_when_it_cannot_be_spelled_or_has_too_many_letters() -> None:
    ours, _ = SMALL
    assert ours.tokenize("the ü中þ the") == [
        *ours.tokenize("the"), *ours.tokenize("ü"), *ours.tokenize("中"), 0, *ours.tokenize("the"),
    ]  # fmt: skip
    assert ours.tokenize("x" * (MAX_WORD_CHARS + 1)) == [0]
    assert len(ours.tokenize("x" * MAX_WORD_CHARS)) == MAX_WORD_CHARS


def test_a_vocabulary_with_large_letters_is_read_as_it_is_written() -> None:
    ours, _ = LARGE
    assert ours.tokenize("A") != ours.tokenize("a")
    assert ours.tokenize("é") != ours.tokenize("e")
    small, _ = SMALL
    assert small.tokenize("A") == small.tokenize("a")


def test_nothing_has_no_tokens() -> None:
    ours, _ = SMALL
    assert ours.tokenize("") == ours.tokenize(" \n\u200b") == []
    assert WordPiece({}, {}, 7).tokenize("a b") == [7, 7]
