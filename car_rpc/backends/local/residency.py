"""Which models stay in memory, which have to go, and which are left alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from car_rpc.errors import CarError
from car_rpc.wire.base import NonNegative, Positive


class ModelsPolicy(Struct, frozen=True, kw_only=True):
    """How long local models stay loaded, and how much memory they may take together.

    Attributes:
        memory_bytes: Memory that the loaded models of all processes on the state directory may
            take, in bytes; 0 means three quarters of the machine's (two thirds where a graphics
            processor shares it). Each counts as its weights and the cache of one
            conversation, or as what it takes where that is more; a model that comes makes room, one
            that grows does not.
        keep_alive_ms: How long a model stays loaded after its last request, in milliseconds, where
            the request does not say; 0 unloads it at once.
        load_wait_ms: How long a request waits for models that are at work to make room for its own,
            in milliseconds. Then it is refused as `overloaded`.
        max_crashes: Crashes in a row, without an answer in between, after which a model is left
            alone.
        crash_backoff_ms: How long the second start after such crashes waits, in milliseconds; each
            further one waits twice as long, the first not at all.
        quarantine_ms: How long a model that crashed so often is left alone, in milliseconds.
    """

    memory_bytes: NonNegative = 0
    keep_alive_ms: NonNegative = 300_000
    load_wait_ms: NonNegative = 60_000
    max_crashes: Positive = 5
    crash_backoff_ms: NonNegative = 500
    quarantine_ms: NonNegative = 60_000


class Resident(NamedTuple):
    """A model in memory.

    Attributes:
        memory_bytes: What it counts as.
        users: Requests that it works on.
        used_ms: When it was last used.
    """

    memory_bytes: int
    users: int
    used_ms: float


def to_evict(needed_bytes: int, budget_bytes: int, residents: Iterable[Resident]) -> int | None:
    """The place of the next model that has to go, or ``None`` when there is room or nobody can.

    It is the one whose last use is longest ago of those that nobody uses.
    """
    listed = list(residents)
    if sum(each.memory_bytes for each in listed) + needed_bytes <= budget_bytes:
        return None
    idle = [index for index, each in enumerate(listed) if not each.users]
    return min(idle, key=lambda index: listed[index].used_ms, default=None)


class Crashes:
    """How often one model's process crashed in a row; a new one is made after an answer.

    Args:
        policy: What follows from it.
    """

    def __init__(self, policy: ModelsPolicy) -> None:
        self._policy = policy
        self._count = 0
        self._last_ms = 0.0

    def crashed(self, now_ms: float) -> None:
        """It crashed."""
        if self._count >= self._policy.max_crashes:
            self._count = 0  # it was given another chance after its quarantine
        self._count += 1
        self._last_ms = now_ms

    def delay_ms(self) -> float:
        """How long to wait before the next start."""
        if self._count < 2:  # noqa: PLR2004 - the first start after a crash does not wait
            return 0
        return self._policy.crash_backoff_ms * 2.0 ** (self._count - 2)

    def check(self, model_id: str, now_ms: float) -> None:
        """See whether the model may be started.

        Raises:
            CarError: ``worker_crashed`` while it is left alone.
        """
        left_ms = self._last_ms + self._policy.quarantine_ms - now_ms
        if self._count >= self._policy.max_crashes and left_ms > 0:
            raise CarError(
                "worker_crashed",
                f"{model_id} crashed {self._count} times in a row and is left alone for"
                f" {left_ms / 1000:.0f} s; its log lines say why, and another model may do",
                model=model_id,
                quarantined=True,
                retry_after_ms=round(left_ms),
            )
