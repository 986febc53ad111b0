"""How a vocabulary spells, in the words of no library."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Spellings(NamedTuple):
    """How a vocabulary spells.

    Attributes:
        tokens: The bytes of each token, by its number.
        special: Tokens that no text becomes and no text holds.
        ends: Tokens that end an answer, at least one.
    """

    tokens: Sequence[bytes]
    special: Collection[int]
    ends: Sequence[int]
