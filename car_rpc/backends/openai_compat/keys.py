"""Keys for requests: each request borrows one, and what becomes of it is counted."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import groupby

from msgspec import UNSET

from car_rpc.backends.openai_compat.credentials import Credentials, Headers
from car_rpc.backends.openai_compat.key_pool import Counts, Key, KeyId, KeyPool
from car_rpc.backends.openai_compat.key_stats import KeyStatsStore
from car_rpc.engine.ports import unnoted
from car_rpc.errors import CarError
from car_rpc.wire.keys import EndpointKeys, KeysStatsResult, KeyStats
from car_rpc.wire.models import OpenAICompatSource

logger = logging.getLogger(__name__)

#: How long counts may take to be written at the end, in seconds; they are worth no more.
CLOSE_S = 0.3

#: Failures that another key may not have.
_OF_THE_KEY = frozenset({"rate_limited", "unauthorized"})


class Keys:
    """The keys of all servers.

    Args:
        credentials: Where they are read.
        store: Where counts are kept; without it they are those of this process.
        now_ms: Monotonic milliseconds.
    """

    def __init__(
        self,
        credentials: Credentials,
        store: KeyStatsStore | None = None,
        now_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
    ) -> None:
        self._credentials = credentials
        self._store = store
        self._now_ms = now_ms
        self._pool = KeyPool()
        self._saving: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def headers(
        self,
        source: OpenAICompatSource,
        conversation_id: str | None = None,
        note: Callable[..., None] = unnoted,
    ) -> AsyncGenerator[Headers, None]:
        """The headers of one request, which the block sends.

        Args:
            source: The server.
            conversation_id: The conversation, if there is one.
            note: Records which key it is: see :attr:`GenerateCall.note`.

        Raises:
            CarError: As :class:`Credentials`, or the block's own, with ``another_key`` added when
                the same request may work at once with another key.
        """
        keys = await self._credentials.keys(source)
        endpoint = source.endpoint
        key = self._pool.lease(endpoint, keys, conversation_id, self._now_ms()) if keys else None
        if key is not None:
            note("key_selected", name=key.name, index=keys.index(key), hash=_hash_prefix(key))
        try:
            yield await self._credentials.headers(source, key)
        except CarError as failure:
            if failure.kind == "unauthorized":
                self._credentials.forget(source)
            if key is None:
                raise
            raise self._failed(endpoint, keys, key, failure) from failure.__cause__
        else:
            if key is not None:
                self._pool.succeeded(endpoint, key)
        finally:
            self._save_soon()

    def named(self, source: OpenAICompatSource) -> dict[str, bool | None]:
        """See :meth:`Credentials.named`."""
        return self._credentials.named(source)

    def has_key(self, source: OpenAICompatSource) -> bool:
        """See :meth:`Credentials.has_key`."""
        return self._credentials.has_key(source)

    async def stats(self) -> KeysStatsResult:
        """How all keys have fared."""
        await self._saved()
        counts = self._store.all() if self._store is not None else {}
        for key, more in self._pool.counts().items():
            counts[key] = counts.get(key, Counts()).plus(more)
        return KeysStatsResult(
            endpoints=[
                EndpointKeys(endpoint=endpoint, keys=[self._shown(k, counts[k]) for k in keys])
                for endpoint, keys in groupby(sorted(counts), key=lambda key: key.endpoint)
            ]
        )

    async def close(self) -> None:
        """Write the last counts down, if that is soon done."""
        if self._saving is not None:
            await asyncio.wait([self._saving], timeout=CLOSE_S)
        if self._store is not None:
            self._store.close()

    def _failed(self, endpoint: str, keys: list[Key], key: Key, failure: CarError) -> CarError:
        now_ms = self._now_ms()
        self._pool.failed(endpoint, key, failure, now_ms)
        if failure.kind not in _OF_THE_KEY:
            return failure
        free_in_ms = self._pool.free_in_ms(endpoint, keys, now_ms)
        if not free_in_ms:
            return failure.with_data(another_key=True)
        if "retry_after_ms" in failure.extra:
            # Another key may be free before the one that was asked last.
            wait_ms = math.ceil(min(failure.extra["retry_after_ms"], free_in_ms))
            return CarError(
                failure.kind, failure.detail, **{**failure.extra, "retry_after_ms": wait_ms}
            )
        return failure

    def _shown(self, key: KeyId, counts: Counts) -> KeyStats:
        rest_ms, quarantined = self._pool.condition(key, self._now_ms())
        return KeyStats(
            name=key.name,
            **counts._asdict(),
            cooling_down_ms=rest_ms or UNSET,
            quarantined=quarantined,
        )

    def _save_soon(self) -> None:
        is_saving = self._saving is not None and not self._saving.done()
        if self._store is not None and not is_saving and self._pool.counts():
            self._saving = asyncio.create_task(self._save(self._store))

    async def _saved(self) -> None:
        while self._saving is not None and not self._saving.done():
            await asyncio.wait([self._saving])

    async def _save(self, store: KeyStatsStore) -> None:
        while counts := self._pool.take_counts():
            try:
                # In a thread: another process may hold the database for a moment.
                await asyncio.to_thread(store.add, counts)
            except CarError as error:
                logger.warning("how keys fared is not written down: %s", error.message)
                self._pool.add_counts(counts)
                return


def _hash_prefix(key: Key) -> str:
    """Tells one key from another, also after it was replaced, and nothing of what it is."""
    return sha256(key.value.encode()).hexdigest()[:8]
