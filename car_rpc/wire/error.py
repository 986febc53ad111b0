"""The data of an error response."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, WireStruct


class ErrorData(WireStruct, frozen=True, kw_only=True):
    """``error.data`` of every error that the core answers with.

    Kinds have members of their own besides.

    Attributes:
        kind: What happened. This is the contract; ``error.message`` is for people.
        retryable: Whether the same request may succeed when it is sent again.
        retry_after_ms: How long to wait before that, in milliseconds.
        trace_id: The request in the event log.
        model: Id of the model that failed.
        path: The field that is wrong, as a JSONPath, or the file.
        supported: The protocol versions spoken here (``protocol_version_unsupported``).
    """

    kind: str
    retryable: bool
    retry_after_ms: NonNegative | UnsetType = UNSET
    trace_id: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    supported: list[int] | UnsetType = UNSET
