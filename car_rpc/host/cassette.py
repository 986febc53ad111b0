"""Put a process with a cassette together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from car_rpc.config import Settings
from car_rpc.host.configuration import FILE_NAME, load
from car_rpc.host.deck import Deck
from car_rpc.host.double import Double
from car_rpc.host.system import RandomIds, SystemClock, now

if TYPE_CHECKING:
    from car_rpc.host.wiring import App


class CassetteApp:
    """Everything behind the dispatcher of a process with a cassette.

    Args:
        settings: The process's settings, with a cassette.
        session_id: Names the session in what is recorded.
        make_app: Makes what runs requests; called only where any are run.

    Raises:
        CarError: As ``make_app``, and ``io_error`` when the cassette cannot be used.
    """

    def __init__(self, settings: Settings, session_id: str, make_app: Callable[[], App]) -> None:
        cassette = settings.cassette
        assert cassette is not None  # noqa: S101 - narrows the type
        # What only answers does not depend on what is in anybody's state directory.
        unsaid = settings.state_dir / FILE_NAME if cassette.records else Path(os.devnull)
        configuration = load(
            settings.config or unsaid, os.environ, needed=settings.config is not None
        )
        secrets = configuration.privacy.secrets()
        self._deck = Deck(cassette, session_id, secrets, now, RandomIds())
        self._app = make_app() if cassette.records else None
        #: Whether all that the mode promises was kept; known once it is closed.
        self.kept = True
        self.dispatcher = Double(
            self._deck,
            None if self._app is None else self._app.dispatcher,
            SystemClock(),
            is_timed=cassette.speed == "timed",
        )

    def begin_session(self) -> None:
        """Record that the session began, where there is a log."""
        if self._app is not None:
            self._app.begin_session()

    async def stop_backends(self) -> None:
        """Stop all workers."""
        if self._app is not None:
            await self._app.stop_backends()

    async def close(self, reason: str, timeout_s: float) -> None:
        """Write the cassette, and close everything."""
        self.kept = await asyncio.to_thread(self._deck.eject)
        if self._app is not None:
            await self._app.close(reason, timeout_s)
