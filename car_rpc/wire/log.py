"""Events of the log, and the parameters and results of ``eventlog.*``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import MAX_SAFE_INTEGER, NonNegative, Positive, RequestId, WireStruct

Order: TypeAlias = Literal["asc", "desc"]
Cursor: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
PageSize: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
ExportFormat: TypeAlias = Literal["jsonl", "otlp_json"]
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
        conversation_id: The client's name of the conversation, where the request had one.
        attempt: The attempt within the request, where one had begun.
        type: What happened, for example ``request``.
        data: What belongs to the type, with secrets replaced by ``***`` or ``[redacted:…]``;
            ``redacted`` is true where that was done. The text of deltas is searched as one: the
            replacement stands in the delta where the secret began, and later ones lack their
            part. Base64 of images, recordings and documents is in files, which ``blobs`` names with
            their places. At the privacy level ``metadata``, content is ``{bytes, hash}``: its size
            as JSON, and a hash that tells the same content within one session only.
    """

    seq: Positive
    ts: str
    session_id: str
    trace_id: str | None
    conversation_id: str | UnsetType = UNSET
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


class EventlogSubscribeParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``eventlog.subscribe``.

    Attributes:
        from_seq: The first event that is wanted, whenever it was or will be written; 0 and 1 are
            the oldest. Without it those that are written from now on.
    """

    from_seq: Cursor | UnsetType = UNSET


class EventlogEventParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of the notification ``eventlog.event``.

    Attributes:
        request_id: The ``eventlog.subscribe`` that it belongs to.
        event: The event.
    """

    request_id: RequestId
    event: LogEvent


class EventlogVerifyResult(WireStruct, frozen=True, kw_only=True):
    """Whether the log is as it was written.

    Attributes:
        ok: Whether it is.
        checked: Events that were looked at, including what is left of deleted ones.
        first_bad_seq: The first event that was changed, removed or added by something else than
            car-rpc, or that names a file of which this is true; where the end of the log is
            missing, the first one that is.
    """

    ok: bool
    checked: NonNegative
    first_bad_seq: Positive | UnsetType = UNSET


class EventlogPurgeParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``eventlog.purge``: exactly one of them.

    Attributes:
        before: Delete all events before this time, ISO 8601 with ``Z`` or an offset.
        trace_id: Delete the events of this request. What it writes after that stays, if it still
            runs.
        conversation_id: Delete the events of this conversation.
    """

    before: str | UnsetType = UNSET
    trace_id: str | UnsetType = UNSET
    conversation_id: str | UnsetType = UNSET


class EventlogPurgeResult(WireStruct, frozen=True, kw_only=True):
    """Result of ``eventlog.purge``.

    Attributes:
        purged: How many events are gone.
    """

    purged: NonNegative


class RetentionPolicy(WireStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long events are kept. What goes beyond it is deleted in the background, oldest first.

    Attributes:
        max_age_ms: Longest time that an event is kept, in milliseconds; 0 is without end.
        max_bytes: Most space that the database and the files beside it may take, in bytes; 0 is
            without end.
    """

    max_age_ms: NonNegative = 0
    max_bytes: NonNegative = 4 * 1024**3


class EventlogRetentionParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``eventlog.retention``.

    Attributes:
        policy: Holds from now on, for every process on the state directory, and goes before the
            configuration; null returns to the configuration. Without it nothing changes.
    """

    policy: RetentionPolicy | UnsetType | None = UNSET


class EventlogRetentionResult(WireStruct, frozen=True, kw_only=True):
    """How long events are kept.

    Attributes:
        policy: What holds.
        used_bytes: Space that the database takes, without what is free in it, and the files
            beside it, in bytes.
    """

    policy: RetentionPolicy
    used_bytes: NonNegative


class EventlogExportParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``eventlog.export``. Filters that are given must all hold.

    Attributes:
        format: ``jsonl``: one event per line, with the files of requests in it as base64, to be
            kept or imported. ``otlp_json``: one span per request for OpenTelemetry, with the
            attributes of its conventions for generative AI.
        content: Whether spans tell what was said, as the log has it; lines always do.
        path: The file to write, absolute; one that is there is replaced. Without it the result
            holds the text, if it is not too long.
        trace_id: Only this request.
        conversation_id: Only this conversation.
        since: Only events at or after this time, ISO 8601 with ``Z`` or an offset; for
            ``otlp_json`` requests that began then.
        until: Only events before this time, in the same form.
    """

    format: ExportFormat
    content: bool = False
    path: str | UnsetType = UNSET
    trace_id: str | UnsetType = UNSET
    conversation_id: str | UnsetType = UNSET
    since: str | UnsetType = UNSET
    until: str | UnsetType = UNSET


class EventlogExportResult(WireStruct, frozen=True, kw_only=True):
    """What was exported.

    Attributes:
        count: Events, or spans.
        bytes: Length of the text in UTF-8, in bytes.
        path: The file.
        content: The text, where no file was named.
    """

    count: NonNegative
    bytes: NonNegative
    path: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
