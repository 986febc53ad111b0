"""What the machine gives to the engine: time, and ids that nobody guesses."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime


class SystemClock:
    """The machine's monotonic clock."""

    def now_ms(self) -> float:
        """Milliseconds."""
        return time.monotonic() * 1000

    async def sleep_ms(self, ms: float) -> None:
        """Wait."""
        await asyncio.sleep(ms / 1000)


class RandomIds:
    """Ids of 64 random bits."""

    def new(self, prefix: str) -> str:
        """A fresh id."""
        return prefix + secrets.token_hex(8)


def now() -> datetime:
    """The time of day."""
    return datetime.now(UTC)
