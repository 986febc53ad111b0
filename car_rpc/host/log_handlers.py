"""The methods of the event log."""

from __future__ import annotations

from contextlib import aclosing

import msgspec
from msgspec import UNSET

from car_rpc.eventlog.export import export
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.wire.lifecycle import EmptyParams
from car_rpc.wire.log import (
    EventlogEventParams,
    EventlogExportParams,
    EventlogExportResult,
    EventlogPurgeParams,
    EventlogPurgeResult,
    EventlogQueryParams,
    EventlogQueryResult,
    EventlogRetentionParams,
    EventlogRetentionResult,
    EventlogSubscribeParams,
    EventlogVerifyResult,
)


async def eventlog_query(
    services: Services, _: Scope, params: EventlogQueryParams
) -> EventlogQueryResult:
    """A page of the event log."""
    return await services.log.query(params)


async def eventlog_subscribe(
    services: Services, scope: Scope, params: EventlogSubscribeParams
) -> None:
    """Send events until the request is cancelled."""
    from_seq = None if params.from_seq is UNSET else params.from_seq
    async with aclosing(services.log.watch(from_seq)) as events:
        async for event in events:
            await scope.room()
            sent = EventlogEventParams(request_id=scope.origin.request_id, event=event)
            scope.notify("eventlog.event", msgspec.json.encode(sent))


async def eventlog_export(
    services: Services, _: Scope, params: EventlogExportParams
) -> EventlogExportResult:
    """Write events in a format of others."""
    return await export(services.log, params)


async def eventlog_verify(
    services: Services, _: Scope, _params: EmptyParams
) -> EventlogVerifyResult:
    """Whether the log is as it was written."""
    return await services.log.verify()


async def eventlog_purge(
    services: Services, _: Scope, params: EventlogPurgeParams
) -> EventlogPurgeResult:
    """Delete events for good."""
    return EventlogPurgeResult(purged=await services.upkeep.purge(params))


async def eventlog_retention(
    services: Services, _: Scope, params: EventlogRetentionParams
) -> EventlogRetentionResult:
    """How long events are kept, after it was changed if that was asked for."""
    if params.policy is not UNSET:
        await services.upkeep.set_policy(params.policy)
    return await services.upkeep.retention()


HANDLERS: dict[str, Handler] = {
    "eventlog.query": eventlog_query,
    "eventlog.subscribe": eventlog_subscribe,
    "eventlog.export": eventlog_export,
    "eventlog.verify": eventlog_verify,
    "eventlog.purge": eventlog_purge,
    "eventlog.retention": eventlog_retention,
}
