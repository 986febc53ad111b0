"""What waits for the app to answer a request of the core's own."""

from __future__ import annotations

from typing import Protocol

from car_rpc.protocol.messages import Response


class Waiting(Protocol):
    """A request to the app that has no response yet."""

    def answer(self, response: Response) -> None:
        """The response."""
        ...

    def abandon(self) -> None:
        """There will be none: the app is gone."""
        ...
