"""Text to tokens and back."""

from __future__ import annotations

import ctypes
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from car_rpc.errors import CarError
from car_rpc.workers.constraint.spellings import Spellings
from car_rpc.workers.llama_cpp.native import lib
from car_rpc.workers.text.wordpiece import WordPiece

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from car_rpc.workers.chat.prompt import Part

#: enum llama_token_attr: tokens that text may become only with parse_special.
_ATTR_UNKNOWN, _ATTR_CONTROL = 1 << 0, 1 << 3

#: First guess for the bytes of a token; longer ones get the buffer they need.
_PIECE_BYTES = 256

_NO_TOKEN = -1

#: enum llama_vocab_type: the vocabularies of BERT.
_WORD_PIECE = 3

#: How such a vocabulary spells the beginning of a word, and the word that cannot be spelled.
_WORD_BEGINS, _UNKNOWN = "\u2581", "[UNK]"


class Vocab:
    """The vocabulary of a model.

    Args:
        handle: llama.cpp's vocabulary.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.size: int = lib.llama_vocab_n_tokens(handle)
        self._bos: int = lib.llama_vocab_bos(handle)
        self._eos: int = lib.llama_vocab_eos(handle)
        self._shown: set[int] = set()

    @property
    def bos_text(self) -> str:
        """Spelling of the token that begins a text; empty when there is none."""
        return self._spelling(self._bos)

    @property
    def eos_text(self) -> str:
        """Spelling of the token that ends a text; empty when there is none."""
        return self._spelling(self._eos)

    @property
    def end_tokens(self) -> list[int]:
        """Tokens that end an answer, the one that ends a text before the others."""
        ends = [token for token in range(self.size) if self.ends(token)]
        return sorted(ends, key=lambda token: token != self._eos)

    @property
    def filler(self) -> int:
        """A token that stands for an empty text.

        For a vocabulary like GPT-2's that names no first token llama.cpp makes one up.
        """
        return next((token for token in (self._eos, self._bos) if token != _NO_TOKEN), 0)

    def control_spellings(self) -> list[str]:
        """Spellings that become control tokens where special tokens are parsed."""
        return [*self._control_tokens]

    def has_token(self, text: str) -> bool:
        """Whether the text is one token of its own."""
        return len(self.tokenize(text, special=True)) == 1

    def spellings(self) -> Spellings:
        """How it spells its tokens; may run beside everything else."""
        tokens = range(self.size)
        return Spellings(
            tokens=[self._bytes(token, special=True) for token in tokens],
            special={token for token in tokens if self._is_control(token) or token in self._shown},
            ends=self.end_tokens or [0],
        )

    def show(self, markers: Iterable[str]) -> None:
        """Let control tokens that are spelled like these be part of what a model says."""
        spelled = (self.tokenize(marker, special=True) for marker in markers)
        self._shown |= {tokens[0] for tokens in spelled if len(tokens) == 1}

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return bool(lib.llama_vocab_is_eog(self._handle, token))

    def tokenize(self, text: str, *, special: bool, framed: bool = False) -> list[int]:
        """Tokens of a text.

        Args:
            text: The text.
            special: Whether spellings of control tokens become these tokens.
            framed: Whether the model's own first and last tokens are put around it.

        Raises:
            CarError: llama.cpp cannot tokenize it (``tokenization_error``).
        """
        if self._word_piece is not None:
            return self._tokenize_words(self._word_piece, text, special=special, framed=framed)
        data = text.encode()
        capacity = len(data) + 2  # no token is shorter than a byte, plus the frame
        tokens = (lib.llama_token * capacity)()
        count: int = lib.llama_tokenize(
            self._handle, data, len(data), tokens, capacity, framed, special
        )
        if count < 0:
            capacity = -count
            tokens = (lib.llama_token * capacity)()
            count = lib.llama_tokenize(
                self._handle, data, len(data), tokens, capacity, framed, special
            )
        if count < 0:
            raise CarError("tokenization_error", f"the vocabulary cannot spell {text[:40]!r}")
        return list(tokens[:count])

    def _tokenize_words(
        self, word_piece: WordPiece, text: str, *, special: bool, framed: bool
    ) -> list[int]:
        tokens = [self._bos] if framed else []
        for part in self._controls.split(text) if special else [text]:
            control = self._control_tokens.get(part)
            tokens += word_piece.tokenize(part) if control is None or not special else [control]
        return [*tokens, lib.llama_vocab_sep(self._handle)] if framed else tokens

    @cached_property
    def _word_piece(self) -> WordPiece | None:
        """How to make tokens where llama.cpp does not do it as the model knows them."""
        if lib.llama_vocab_type(self._handle) != _WORD_PIECE:
            return None
        begins: dict[str, int] = {}
        within: dict[str, int] = {}
        unknown = 0
        for token in range(self.size):
            text = lib.llama_vocab_get_text(self._handle, token).decode("utf-8", "replace")
            if text == _UNKNOWN:
                unknown = token
            elif text.startswith(_WORD_BEGINS):
                begins[text.removeprefix(_WORD_BEGINS)] = token
            elif not self._is_control(token):
                within[text] = token
        return WordPiece(begins, within, unknown)

    @cached_property
    def _control_tokens(self) -> dict[str, int]:
        tokens = range(self.size)
        return {self._spelling(token): token for token in tokens if self._is_control(token)}

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        spelled = sorted(self._control_tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, spelled))})")

    def tokenize_prompt(self, parts: Iterable[Part]) -> list[int]:
        """Tokens of a rendered prompt; a missing first token is added, a second never."""
        parts = list(parts)
        tokens = self.first_tokens(parts)
        for part in parts:
            tokens += self.tokenize(part.text, special=not part.is_content)
        return tokens

    def first_tokens(self, parts: Sequence[Part]) -> list[int]:
        """The token that begins every text of this model, where a prompt lacks it."""
        begins = bool(lib.llama_vocab_get_add_bos(self._handle)) and self._bos != _NO_TOKEN
        if begins and parts and not parts[0].is_content:
            begins = not parts[0].text.startswith(self.bos_text)
        return [self._bos] if begins else []

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special ones included; bytes that are no text become U+FFFD.

        Raises:
            CarError: A token is not of this vocabulary (``tokenization_error``).
        """
        for token in tokens:
            if not 0 <= token < self.size:
                raise CarError(
                    "tokenization_error", f"token {token} is not one of 0..{self.size - 1}"
                )
        array = (lib.llama_token * len(tokens))(*tokens)
        size = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            count: int = lib.llama_detokenize(
                self._handle, array, len(tokens), buffer, size, False, True
            )
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            size = -count

    def piece(self, token: int) -> bytes:
        """Bytes that a generated token adds; none for control tokens."""
        return self._bytes(token, special=token in self._shown)

    def _is_control(self, token: int) -> bool:
        attributes: int = lib.llama_vocab_get_attr(self._handle, token)
        return bool(attributes & (_ATTR_CONTROL | _ATTR_UNKNOWN))

    def spelling(self, token: int) -> bytes:
        """Bytes that spell a token, also one that shows nothing."""
        return self._bytes(token, special=True)

    def _spelling(self, token: int) -> str:
        if token == _NO_TOKEN:
            return ""
        return self.spelling(token).decode("utf-8", "replace")

    def _bytes(self, token: int, *, special: bool) -> bytes:
        size = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            count: int = lib.llama_token_to_piece(self._handle, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count
