"""Find markers in text that arrives in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Scan(NamedTuple):
    """Text cut at a marker.

    Attributes:
        before: Text that certainly belongs to no marker.
        marker: The marker that was found, or ``None``.
        rest: What follows the marker; without one, a tail that may begin a marker.
    """

    before: str
    marker: str | None
    rest: str


def scan(text: str, markers: Sequence[str]) -> Scan:
    """Cut ``text`` at the marker that ends first (the longest of those that end there).

    The choice does not depend on how the text was cut into pieces: a marker counts as soon as
    its last character is there, and no earlier. Markers must not be empty.
    """
    best_end, best = len(text) + 1, None
    for marker in markers:
        start = text.find(marker, 0, best_end)
        if start < 0:
            continue
        end = start + len(marker)
        if best is None or end < best_end or len(marker) > len(best):
            best_end, best = end, marker
    if best is not None:
        return Scan(text[: best_end - len(best)], best, text[best_end:])
    held = max((_held(text, marker) for marker in markers), default=0)
    return Scan(text[: len(text) - held], None, text[len(text) - held :])


def _held(text: str, marker: str) -> int:
    """Length of the longest end of ``text`` that begins ``marker``."""
    start = max(0, len(text) - len(marker) + 1)
    while (start := text.find(marker[0], start)) >= 0:
        if marker.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0
