"""Text to tokens and back, by the rules in a model's ``tokenizer.json``."""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from car_rpc.errors import CarError
from car_rpc.workers.constraint.spellings import Spellings
from car_rpc.workers.mlx.folder import unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from car_rpc.workers.chat.prompt import Part
    from car_rpc.workers.mlx.folder import Folder

#: How SentencePiece spells a space, and a byte that no token covers.
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Vocab:
    """The vocabulary of a model.

    Args:
        folder: The model's folder.

    Raises:
        CarError: Its tokenizer cannot be used (``model_load_failed``).
    """

    def __init__(self, folder: Folder) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder.tokenizer))
        except Exception as error:  # the library raises nothing narrower
            raise unusable(
                folder.tokenizer, f"is no tokenizer ({error}); fetch it again"
            ) from error
        self._setting = threading.Lock()  # what is no special token here must become none there
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocab = self._tokenizer.get_vocab()
        self._spellings = {token: spelling for spelling, token in vocab.items()}
        self._bytes_of = _spelling_of_bytes(self._tokenizer, folder)
        self.bos_text = folder.bos_text
        self.eos_text = folder.eos_text
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {token: entry.content for token, entry in added.items()}
        self._control = {token for token, entry in added.items() if entry.special}
        self._shown: set[int] = set()
        self._bos = self._tokenizer.token_to_id(self.bos_text)
        self._adds_bos = folder.adds_bos
        eos = self._tokenizer.token_to_id(self.eos_text)
        ends = {*folder.end_tokens, *([] if eos is None else [eos])}
        #: Tokens that end an answer, the one that ends a text before the others.
        self.end_tokens: list[int] = sorted(ends, key=lambda token: (token != eos, token))
        self.size = len(self._spellings)

    def spellings(self) -> Spellings:
        """How it spells its tokens; may run beside everything else."""
        special = self._control | self._shown
        tokens = [self.spelling(token) for token in range(max(self._spellings) + 1)]
        return Spellings(tokens, special, sorted(self.end_tokens))

    def control_spellings(self) -> list[str]:
        """Spellings that become control tokens where special tokens are parsed."""
        return [self._added[token] for token in sorted(self._control)]

    def has_token(self, text: str) -> bool:
        """Whether the text is one token of its own."""
        return self._tokenizer.token_to_id(text) is not None

    def show(self, markers: Iterable[str]) -> None:
        """Let control tokens that are spelled like these be part of what a model says."""
        spelled = {*markers}
        self._shown |= {token for token, text in self._added.items() if text in spelled}

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return token in self.end_tokens

    @property
    def filler(self) -> int:
        """A token that stands for an empty text."""
        return next(iter(self.end_tokens), 0)

    def tokenize(self, text: str, *, special: bool, framed: bool = False) -> list[int]:
        """Tokens of a text.

        Args:
            text: The text.
            special: Whether spellings of control tokens become these tokens.
            framed: Whether the model's own first and last tokens are put around it.
        """
        with self._setting:
            self._tokenizer.encode_special_tokens = not special
            return list(self._tokenizer.encode(text, add_special_tokens=framed).ids)

    def tokenize_prompt(self, parts: Iterable[Part]) -> list[int]:
        """Tokens of a rendered prompt; a missing first token is added, a second never."""
        parts = list(parts)
        begins = self._adds_bos
        if begins and parts and not parts[0].is_content:
            begins = not parts[0].text.startswith(self.bos_text)
        tokens: list[int] = [self._bos] if begins and self._bos is not None else []
        for part in parts:
            tokens += self.tokenize(part.text, special=not part.is_content)
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special ones included; bytes that are no text become U+FFFD.

        Raises:
            CarError: A token is not of this vocabulary (``tokenization_error``).
        """
        for token in tokens:
            if token not in self._spellings:
                raise CarError(
                    "tokenization_error", f"token {token} is not one of 0..{self.size - 1}"
                )
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def piece(self, token: int) -> bytes:
        """Bytes that a generated token adds; none for control tokens."""
        if token in self._control and token not in self._shown:
            return b""
        return self.spelling(token)

    def spelling(self, token: int) -> bytes:
        """Bytes that spell a token, also one that shows nothing."""
        if token in self._added:
            return self._added[token].encode()
        spelling = self._spellings.get(token)
        # Models have room for more tokens than their vocabulary has.
        return self._bytes_of(spelling) if spelling is not None else b""


def _spelling_of_bytes(tokenizer: Any, folder: Folder) -> Callable[[str], bytes]:
    """How the spelling of a token becomes bytes."""
    decoder: Any = json.loads(tokenizer.to_str())["decoder"] or {}
    steps: list[Any] = decoder.get("decoders", [decoder])
    kinds = {step.get("type") for step in steps}
    if kinds == {"ByteLevel"}:
        return _byte_level
    if "ByteFallback" in kinds or "Metaspace" in kinds:
        return _sentence_piece
    kind = decoder.get("type")
    hint = ": mlx-lm has no encoders such as BERT; use a GGUF file" if kind == "WordPiece" else ""
    detail = f"spells tokens in a way that is not supported ({kind}){hint}"
    raise unusable(folder.tokenizer, detail)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the rest follow."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_ALPHABET = _byte_alphabet()


def _byte_level(spelling: str) -> bytes:
    if all(character in _BYTE_ALPHABET for character in spelling):
        return bytes(_BYTE_ALPHABET[character] for character in spelling)
    return spelling.encode()


def _sentence_piece(spelling: str) -> bytes:
    byte = _BYTE.fullmatch(spelling)
    return bytes([int(byte[1], 16)]) if byte else spelling.replace(_SPACE, " ").encode()
