"""Find in the event log what a request had got before the process died. Pure.

The log is the checkpoint: it holds what was asked, and every delta within 100 ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from car_rpc.engine.interruption import InterruptSnapshot
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.log import LogEvent

#: What belongs to a request and not to what it asks.
_NOT_INHERITED = frozenset({"client_ref", "progress_token", "stream"})


class Checkpoint(NamedTuple):
    """An interrupted request.

    Attributes:
        trace_id: Its trace.
        params: What was asked, as the client's own JSON object.
        snapshot: What had arrived.
    """

    trace_id: str
    params: dict[str, Any]
    snapshot: InterruptSnapshot


def checkpoint_of(trace_id: str, story: Iterable[LogEvent]) -> Checkpoint:
    """What a request had got.

    Args:
        trace_id: Its trace.
        story: Its events in the log, in order.

    Raises:
        CarError: ``not_found`` without such a request, ``conflict`` when it has its result,
            ``not_replayable`` when only its metadata were kept, or its files are gone.
    """
    params: Any = None
    missing: object = None
    accumulator = Accumulator()
    for event in story:
        if event.type == "request" and event.data.get("method") == "generate":
            params, missing = event.data.get("params"), event.data.get("blobs")
        elif event.type == "deltas":
            for delta in _deltas(trace_id, event):
                accumulator.push(delta)
        elif event.type == "completion" and event.data.get("outcome") == "success":
            detail = f"{trace_id} has its result; `eventlog.query` shows it"
            raise CarError("conflict", detail, trace_id=trace_id)
    if params is None:
        raise CarError("not_found", f"the event log has no `generate` of trace {trace_id!r}")
    if not isinstance(params, dict) or not {"prompt", "messages"} & params.keys():
        raise _metadata_only(trace_id)
    if missing:
        detail = f"images or recordings of {trace_id} are gone, or were too long to be kept"
        raise CarError("not_replayable", detail, trace_id=trace_id)
    return Checkpoint(trace_id, params, accumulator.snapshot())


def resumed(request: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """A request that resumes another, with all that the other one asked and this one does not."""
    inherited = {n: value for n, value in checkpoint.params.items() if n not in _NOT_INHERITED}
    given = {name: value for name, value in request.items() if name != "resume_trace_id"}
    return {**inherited, **given}


def _deltas(trace_id: str, event: LogEvent) -> list[StreamEvent]:
    try:
        return msgspec.convert(event.data.get("events"), list[StreamEvent])
    except msgspec.ValidationError:
        raise _metadata_only(trace_id) from None


def _metadata_only(trace_id: str) -> CarError:
    return CarError("not_replayable", f"of {trace_id} only metadata were kept", trace_id=trace_id)
