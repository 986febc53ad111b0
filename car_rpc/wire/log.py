"""Events of the log, and the parameters and result of ``eventlog.query``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import MAX_SAFE_INTEGER, NonNegative, Positive, WireStruct

Order: TypeAlias = Literal["asc", "desc"]
Cursor: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
PageSize: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
EventTypes: TypeAlias = Annotated[list[str], Meta(min_length=1, max_length=64)]


class LogEvent(WireStruct, frozen=True, kw_only=True):
    """One event of the log. It never changes after it was written.

    Attributes:
        seq: Place in the one order over all sessions of a state directory; starts at 1 and
            has no gap.
        ts: When it happened, ISO 8601 in UTC with milliseconds: ``2026-01-31T08:30:00.000Z``.
            Clocks may be set back, so only ``seq`` orders events.
        session_id: The session that wrote it.
        trace_id: The request that it belongs to; null for events of the session itself.
        attempt: The attempt within the request, where one had begun.
        type: What happened, for example ``request``.
        data: What belongs to the type, with secrets replaced by ``***`` or ``[redacted:…]``;
            ``redacted`` is true where that was done. The text of deltas is searched as one: the
            replacement stands in the delta where the secret began, and later ones lack their
            part. At the privacy level ``metadata``, content is ``{bytes, hash}``: its size as
            JSON, and a hash that tells the same content within one session only.
    """

    seq: Positive
    ts: str
    session_id: str
    trace_id: str | None
    attempt: NonNegative | UnsetType = UNSET
    type: str
    data: dict[str, Any]


class EventlogQueryParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``eventlog.query``. Filters that are given must all hold.

    Attributes:
        after_seq: Where the page begins, exclusive, in the direction of ``order``: ``asc``
            returns events with a larger ``seq``, ``desc`` with a smaller one. 0 begins at
            the oldest or, for ``desc``, at the newest event.
        limit: Most events to return. A page of large events may hold fewer.
        order: Oldest or newest first.
        trace_id: Only events of this request.
        conversation_id: Only events of this conversation.
        types: Only events of these types.
        since: Only events at or after this time, ISO 8601 with ``Z`` or an offset.
        until: Only events before this time, in the same form.
    """

    after_seq: Cursor = 0
    limit: PageSize = 100
    order: Order = "asc"
    trace_id: str | UnsetType = UNSET
    conversation_id: str | UnsetType = UNSET
    types: EventTypes | UnsetType = UNSET
    since: str | UnsetType = UNSET
    until: str | UnsetType = UNSET


class EventlogQueryResult(WireStruct, frozen=True, kw_only=True):
    """A page of events.

    Attributes:
        events: The page, in the order asked for.
        next_seq: The ``after_seq`` that continues with the same filters and order. A page
            without events is the end. With ``asc`` the same ``next_seq`` later returns what
            was written in between, so it may be polled; with ``desc`` it is 1 at the end,
            because nothing is older than event 1.
    """

    events: list[LogEvent]
    next_seq: Cursor
