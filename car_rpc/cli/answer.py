"""An answer on the terminal as it comes: text on standard output, reasoning on standard error."""

from __future__ import annotations

import sys

from car_rpc.wire.events import ReasoningDelta, StreamEvent, StreamReset, TextDelta


class Answer:
    """Shows the events of one answer.

    Args:
        silent: Show nothing.
    """

    def __init__(self, *, silent: bool = False) -> None:
        #: Whether there was anything to show.
        self.shown = False
        self._silent = silent
        self._reasoned = False

    def show(self, event: StreamEvent) -> None:
        """Show the next event."""
        if self._silent:
            return
        self.shown = True
        if isinstance(event, ReasoningDelta):
            self._reasoned = True
            print(event.text, end="", flush=True, file=sys.stderr)
        elif isinstance(event, TextDelta):
            if self._reasoned:
                print(file=sys.stderr)
                self._reasoned = False
            print(event.text, end="", flush=True)
        elif isinstance(event, StreamReset):
            print("\n(it begins anew)", file=sys.stderr)

    def end(self) -> None:
        """The answer is complete."""
        if self.shown:
            print()
