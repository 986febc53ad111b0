"""Which of a server's keys a request is sent with, and what is known of each. Pure.

The pool only prefers: a key that was refused or rate limited is used when there is no better one,
because what bars it may hold for one model alone. Time is passed in, as monotonic milliseconds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from car_rpc.errors import CarError
from car_rpc.wire.base import MAX_SAFE_INTEGER

#: How long a rate-limited key rests when the server does not say: most limits count a minute.
COOLDOWN_MS = 60_000

#: The shortest rest; a server that says 0 must not be asked with one key over and over.
MIN_COOLDOWN_MS = 1000


class Key(NamedTuple):
    """An API key.

    Attributes:
        name: Where it stands; safe to show.
        value: The secret.
    """

    name: str
    value: str

    def __repr__(self) -> str:
        """The name alone."""
        return f"Key({self.name})"


class KeyId(NamedTuple):
    """A key of a server: its address, and the key's name."""

    endpoint: str
    name: str


class Counts(NamedTuple):
    """How often what happened; see :class:`car_rpc.wire.keys.KeyStats`."""

    leases: int = 0
    successes: int = 0
    failures: int = 0
    rate_limited: int = 0
    unauthorized: int = 0

    def plus(self, more: Counts) -> Counts:
        """The sum of both."""
        return Counts(*(a + b for a, b in zip(self, more, strict=True)))


class KeyPool:
    """The keys of all servers."""

    def __init__(self) -> None:
        self._conditions: dict[KeyId, _Condition] = {}
        self._counts: dict[KeyId, Counts] = {}
        self._turn = 0

    def lease(
        self, endpoint: str, keys: Sequence[Key], conversation_id: str | None, now_ms: float
    ) -> Key:
        """The key for a request: a free one, else the one that is free soonest, else a refused one.

        Free keys take turns. A conversation has a key of its own among them, as long as that is
        free: servers keep the beginning of a prompt for the account that sent it.

        Args:
            endpoint: The server.
            keys: Its keys, at least one.
            conversation_id: The conversation, if there is one.
            now_ms: The time.
        """

        def preference(key: Key) -> tuple[float, ...]:
            condition = self._condition(endpoint, key)
            turn = condition.turn if conversation_id is None else -_rank(conversation_id, key.name)
            return condition.quarantined, max(condition.cooling_until_ms, now_ms), turn

        key = min(keys, key=preference)
        self._turn += 1
        self._condition(endpoint, key).turn = self._turn
        self._count(endpoint, key, Counts(leases=1))
        return key

    def succeeded(self, endpoint: str, key: Key) -> None:
        """A request was answered. A rest goes on: the answer may belong to an earlier request."""
        self._condition(endpoint, key).quarantined = False
        self._count(endpoint, key, Counts(successes=1))

    def failed(self, endpoint: str, key: Key, failure: CarError, now_ms: float) -> None:
        """A request failed."""
        condition = self._condition(endpoint, key)
        rate_limited = failure.kind == "rate_limited"
        unauthorized = failure.kind == "unauthorized"
        if rate_limited:
            wait_ms = failure.extra.get("retry_after_ms", COOLDOWN_MS)
            condition.cooling_until_ms = now_ms + max(wait_ms, MIN_COOLDOWN_MS)
        if unauthorized:
            condition.quarantined = True
        failed = Counts(failures=1, rate_limited=rate_limited, unauthorized=unauthorized)
        self._count(endpoint, key, failed)

    def free_in_ms(self, endpoint: str, keys: Iterable[Key], now_ms: float) -> float:
        """How long until one of the keys is free: 0 for now, infinite when all were refused."""
        conditions = [self._condition(endpoint, key) for key in keys]
        rests = [max(c.cooling_until_ms - now_ms, 0) for c in conditions if not c.quarantined]
        return min(rests, default=math.inf)

    def condition(self, key: KeyId, now_ms: float) -> tuple[int, bool]:
        """For how many milliseconds a key rests yet, and whether it is quarantined."""
        condition = self._conditions.get(key)
        if condition is None:
            return 0, False
        rest_ms = min(max(condition.cooling_until_ms - now_ms, 0), MAX_SAFE_INTEGER)
        return round(rest_ms), condition.quarantined

    def counts(self) -> dict[KeyId, Counts]:
        """What was counted since :meth:`take_counts`."""
        return dict(self._counts)

    def take_counts(self) -> dict[KeyId, Counts]:
        """What was counted since the last time, for whoever keeps it."""
        counts, self._counts = self._counts, {}
        return counts

    def add_counts(self, counts: Mapping[KeyId, Counts]) -> None:
        """Put counts back that could not be kept."""
        for key, more in counts.items():
            self._counts[key] = self._counts.get(key, Counts()).plus(more)

    def _condition(self, endpoint: str, key: Key) -> _Condition:
        known = self._conditions.setdefault(KeyId(endpoint, key.name), _Condition(hash(key.value)))
        if known.value_hash != hash(key.value):  # a new key in the old place
            known.value_hash = hash(key.value)
            known.cooling_until_ms, known.quarantined = 0.0, False
        return known

    def _count(self, endpoint: str, key: Key, more: Counts) -> None:
        self.add_counts({KeyId(endpoint, key.name): more})


class _Condition:
    """What is known of a key in this process."""

    def __init__(self, value_hash: int) -> None:
        self.value_hash = value_hash
        self.cooling_until_ms = 0.0
        self.quarantined = False
        #: When it was last used, counted in leases of all keys.
        self.turn = 0


def _rank(conversation_id: str, name: str) -> int:
    """Rendezvous hashing (Thaler and Ravishankar, 1998): every process ranks the keys alike."""
    digest = hashlib.blake2b(f"{conversation_id}\0{name}".encode(errors="replace"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
