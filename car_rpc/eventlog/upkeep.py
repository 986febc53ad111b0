"""Keep the log within its bounds, and delete what is to be forgotten."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec import UNSET

from car_rpc.errors import CarError, invalid_params
from car_rpc.eventlog.deletion import (
    BATCH_EVENTS,
    OLDEST,
    Chosen,
    delete_batch,
    empty_write_ahead_log,
    give_back_space,
    read_policy,
    sweep_blobs,
    used_bytes,
    write_policy,
)
from car_rpc.eventlog.times import bound_to_text, to_text
from car_rpc.wire.log import EventlogPurgeParams, EventlogRetentionResult, RetentionPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from car_rpc.eventlog.writer import EventLog

#: How long after the start, and how often then, the log is looked at, in seconds.
FIRST_LOOK_S = 60.0
LOOK_S = 600.0
# A pause between transactions, in which other writers get the database.
_PAUSE_S = 0.005

_logger = logging.getLogger("car_rpc.eventlog")


class Upkeep:
    """Deletes events. Everything belongs to one event loop, and nothing blocks it.

    Args:
        path: The database.
        log: The log, whose waiting events are written first.
        configured: What holds as long as no client says otherwise.
        now: The clock, with a time zone.
    """

    def __init__(
        self,
        path: Path,
        log: EventLog,
        configured: RetentionPolicy,
        now: Callable[[], datetime],
    ) -> None:
        self._path = path
        self._log = log
        self._configured = configured
        self._now = now
        self._policy_changed = asyncio.Event()

    async def purge(self, params: EventlogPurgeParams) -> int:
        """Delete the events of a time, a request or a conversation; returns how many.

        Raises:
            CarError: ``invalid_params`` that names a malformed time, or unless exactly one thing is
                named; ``io_error``.
        """
        chosen = _chosen(params)
        await self._log.commit()
        count = await self._delete(chosen)
        await asyncio.to_thread(empty_write_ahead_log, self._path)
        return count

    async def set_policy(self, policy: RetentionPolicy | None) -> None:
        """Change how long events are kept; ``None`` returns to the configuration.

        Raises:
            CarError: ``io_error``.
        """
        await asyncio.to_thread(write_policy, self._path, policy)
        self._policy_changed.set()

    async def retention(self) -> EventlogRetentionResult:
        """How long events are kept.

        Raises:
            CarError: ``io_error``.
        """
        used = await asyncio.to_thread(used_bytes, self._path)
        return EventlogRetentionResult(policy=await self._policy(), used_bytes=used)

    async def run(self) -> None:
        """Apply the policy now and then, without end. What fails is tried again later."""
        wait_s = FIRST_LOOK_S
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._policy_changed.wait(), wait_s)
            self._policy_changed.clear()
            wait_s = LOOK_S
            try:
                await self.enforce()
            except CarError as error:
                _logger.warning("old events could not be deleted: %s", error)

    async def enforce(self) -> int:
        """Delete what is older or more than the policy allows; returns how many events.

        Raises:
            CarError: ``io_error``.
        """
        await asyncio.to_thread(sweep_blobs, self._path)
        policy = await self._policy()
        count = 0
        if policy.max_age_ms:
            count += await self._delete(_older_than(self._now(), policy.max_age_ms))
        if policy.max_bytes:
            while await asyncio.to_thread(used_bytes, self._path) > policy.max_bytes:
                deleted = await asyncio.to_thread(delete_batch, self._path, OLDEST)
                if not deleted:  # what is left are other rows
                    break
                count += deleted
                await asyncio.sleep(_PAUSE_S)
        if count:
            await self._shrink()
        return count

    async def _shrink(self) -> None:
        while True:
            if not await asyncio.to_thread(give_back_space, self._path):
                break
            await asyncio.sleep(_PAUSE_S)
        await asyncio.to_thread(empty_write_ahead_log, self._path)

    async def _policy(self) -> RetentionPolicy:
        return await asyncio.to_thread(read_policy, self._path) or self._configured

    async def _delete(self, chosen: Chosen) -> int:
        count = 0
        while deleted := await asyncio.to_thread(delete_batch, self._path, chosen):
            count += deleted
            if deleted < BATCH_EVENTS:
                break
            await asyncio.sleep(_PAUSE_S)
        return count


def _chosen(params: EventlogPurgeParams) -> Chosen:
    chosen = [
        Chosen(condition, (value,))
        for condition, value in (
            ("trace_id = ?", params.trace_id),
            ("conversation_id = ?", params.conversation_id),
        )
        if value is not UNSET
    ]
    if params.before is not UNSET:
        chosen.append(Chosen("ts < ?", (bound_to_text(params.before, "$.before"),)))
    if len(chosen) != 1:
        raise invalid_params(
            "give exactly one of `before`, `trace_id` and `conversation_id`", "$.before"
        )
    return chosen[0]


def _older_than(now: datetime, age_ms: int) -> Chosen:
    try:
        oldest = to_text(now - timedelta(milliseconds=age_ms))
    except OverflowError:  # longer than there are years
        oldest = ""
    return Chosen("ts < ?", (oldest,))
