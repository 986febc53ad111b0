"""Stop strings: end an answer at the first one, and never show any part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from car_rpc.workers.text.scan import scan

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopMatcher:
    """Matches all stop strings of a request against text that arrives in pieces.

    Only text that may begin a stop string is held back.

    Args:
        stops: The stop strings; empty ones are ignored.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Add text; returns what may be shown. After a match nothing more is shown."""
        if self.matched is not None:
            return ""
        before, self.matched, self._held = scan(self._held + text, self._stops)
        return before

    def flush(self) -> str:
        """End a run of text: what was held back was no stop string after all."""
        held, self._held = self._held, ""
        return held if self.matched is None else ""
