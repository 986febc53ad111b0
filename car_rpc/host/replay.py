"""``replay.run``: what a request got, from the log; or once more, and what is otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from car_rpc.engine.checkpoint import checkpoint_of
from car_rpc.engine.premises import Own, Snapshot
from car_rpc.engine.redriven import Story, first_divergence
from car_rpc.errors import CarError, invalid_params
from car_rpc.eventlog.differences import differences
from car_rpc.eventlog.recorded import Answer, JsonObject, Recorded, recorded
from car_rpc.host import policies
from car_rpc.host.params import decode_params
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.log import EventlogQueryParams, LogEvent
from car_rpc.wire.methods import METHODS, RUNS_MODELS
from car_rpc.wire.replay import ReplayRunParams, ReplayRunResult

#: How many of what decisions rest on are read at a time.
SNAPSHOTS = 20

#: What belongs to the request of then and not to what it asked.
_NOT_ASKED = ("client_ref", "progress_token", "stream")


async def replay_run(
    handlers: Mapping[str, Handler], services: Services, scope: Scope, params: ReplayRunParams
) -> ReplayRunResult:
    """Show a request again, run it again, or decide again what was decided for it."""
    story = await services.log.story(params.trace_id)
    found = recorded(params.trace_id, story)
    match params.mode:
        case "recorded":
            return await _shown(services, scope, params, found)
        case "rerun":
            return await _run_again(handlers, services, scope, params, found)
        case "verify":
            return await _verified(services, found, story)


async def _shown(
    services: Services, scope: Scope, params: ReplayRunParams, found: Recorded
) -> ReplayRunResult:
    """What a request got then. Nothing but the log is asked."""
    answer, events = found.answered(), _events(found)
    clock = services.engine.clock
    begun_ms = clock.now_ms()

    async def wait_for(at_ms: float) -> None:
        left_ms = begun_ms + at_ms - clock.now_ms()
        if params.speed == "timed" and left_ms > 0:
            await clock.sleep_ms(left_ms)

    if params.stream:
        stream = scope.open_stream(params.client_ref)
        for at_ms, event in events:
            await stream.room()
            await wait_for(at_ms)
            stream.send(event)
    await wait_for(found.answered_ms)
    if answer.error is not None:
        raise _error_of(found.trace_id, answer.error)
    return ReplayRunResult(method=found.method, result=answer.result, redacted=found.redacted)


def _events(found: Recorded) -> list[tuple[float, StreamEvent]]:
    try:
        return [(at_ms, msgspec.convert(event, StreamEvent)) for at_ms, event in found.events]
    except msgspec.ValidationError as error:
        detail = f"{found.trace_id}: this version does not know an event of its stream ({error})"
        raise CarError("not_replayable", detail, trace_id=found.trace_id) from None


async def _run_again(
    handlers: Mapping[str, Handler],
    services: Services,
    scope: Scope,
    params: ReplayRunParams,
    found: Recorded,
) -> ReplayRunResult:
    """What a request gets now, and how that differs from what it got then."""
    if found.method not in RUNS_MODELS:
        detail = f"{params.trace_id} is a {found.method!r}; only what runs a model can run again"
        raise invalid_params(detail, "$.mode")
    then = found.answered()
    if found.lacks_media:
        detail = f"{found.trace_id}: files of the log that it sent are missing"
        raise CarError("not_replayable", detail, trace_id=found.trace_id)
    raw = msgspec.json.encode(_asked_again(found, params))
    origin = scope.origin._replace(
        method=found.method, raw_params=raw, replayed_trace_id=found.trace_id
    )
    asked = decode_params(raw, METHODS[found.method].params)
    scope = scope._replace(origin=origin)
    admitted = policies.gate(services, scope, found.method, asked)
    if admitted is not None:
        await admitted
    try:
        result = await handlers[found.method](services, scope, asked)
    except CarError as error:
        diff = [*_differences(then, Answer(error=error.told))]
        raise error.with_data(diff=diff) from error
    return ReplayRunResult(
        method=found.method,
        result=result,
        redacted=found.redacted,
        diff=[*_differences(then, Answer(result=result))],
    )


async def _verified(services: Services, found: Recorded, events: list[LogEvent]) -> ReplayRunResult:
    """Whether what was decided for a request is what would be decided now."""
    if found.method != "generate":
        detail = f"{found.trace_id} is a {found.method!r}; only for `generate` much is decided"
        raise invalid_params(detail, "$.mode")
    if found.lacks_media or events[0].data.get("redacted") is True:
        detail = f"{found.trace_id}: what it asked is not in the log as it was"
        raise CarError("not_replayable", detail, trace_id=found.trace_id)
    try:
        own = await _premises(services, found.trace_id, events)
        checkpoint = None
        if found.resumed_trace_id is not None:
            earlier = await services.log.story(found.resumed_trace_id)
            checkpoint = checkpoint_of(found.resumed_trace_id, earlier)
        asked = msgspec.json.encode(found.params)
        diverged = await first_divergence(asked, Story(events), *own, checkpoint)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        detail = f"{found.trace_id}: this version cannot read all of it ({error})"
        raise CarError("not_replayable", detail, trace_id=found.trace_id) from error
    answer = found.answer or Answer()
    return ReplayRunResult(
        method=found.method, result=answer.result, redacted=found.redacted, diverged=diverged
    )


async def _premises(
    services: Services, trace_id: str, events: list[LogEvent]
) -> tuple[Own, Snapshot]:
    """What the choice of a model rested on.

    Raises:
        CarError: ``not_replayable``: there was none, or the log has not kept it.
    """
    route = next((event for event in events if event.type == "route"), None)
    if route is None:
        raise CarError(
            "not_replayable", f"{trace_id}: no model was chosen for it", trace_id=trace_id
        )
    own = msgspec.convert(route.data["premises"], Own)
    page = EventlogQueryParams(
        types=["routing_inputs"], order="desc", after_seq=route.seq, limit=SNAPSHOTS
    )
    while (found := await services.log.query(page)).events:
        for event in found.events:
            if event.data.get("hash") == own.inputs:
                return own, msgspec.convert(event.data, Snapshot)
        page = msgspec.structs.replace(page, after_seq=found.next_seq)
    detail = f"{trace_id}: what the choice of its model rested on is not in this log"
    raise CarError("not_replayable", detail, trace_id=trace_id)


def _asked_again(found: Recorded, params: ReplayRunParams) -> JsonObject:
    asked = {name: value for name, value in found.params.items() if name not in _NOT_ASKED}
    if found.method == "generate":
        asked["stream"] = params.stream
        if params.client_ref is not UNSET:
            asked["client_ref"] = params.client_ref
        if found.resumed_trace_id is not None:
            asked["resume_trace_id"] = found.resumed_trace_id
    return asked


def _differences(then: Answer, now: Answer) -> Any:
    return differences(*(_plain(answer.error or answer.result) for answer in (then, now)))


def _plain(value: object) -> Any:
    """As JSON: types that stand for the same are equal."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _error_of(trace_id: str, error: JsonObject) -> CarError:
    """A recorded error as it was, whatever this version would say."""
    try:
        return CarError.restored(error)
    except KeyError as unknown:
        detail = f"{trace_id}: this version does not know errors of the kind {unknown}"
        raise CarError("not_replayable", detail, trace_id=trace_id) from None
