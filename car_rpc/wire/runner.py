"""The callback into the app: parameters and results of the ``runner.*`` methods."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Raw, UnsetType

from car_rpc.wire.base import Positive, RequestId, WireStruct
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import StopReason, UsageEvent


class RunnerRegisterParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``runner.register``; ``hints`` are informative.

    Attributes:
        name: Name of the runner, for the log.
        hints: Hints that it knows.
    """

    name: str | UnsetType = UNSET
    hints: list[str] | UnsetType = UNSET


class RunnerRegisterResult(WireStruct, frozen=True, kw_only=True):
    """``replaced`` tells that a runner was registered before.

    Attributes:
        registered: Always true.
        replaced: Whether a runner was registered before.
    """

    registered: Literal[True] = True
    replaced: bool


class RunnerUnregisterResult(WireStruct, frozen=True, kw_only=True):
    """The slot is empty now.

    Attributes:
        registered: Always false.
    """

    registered: Literal[False] = False


class RunnerRunParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``runner.run``.

    Attributes:
        call_id: Names this run in ``runner.event``.
        parent_id: JSON-RPC id of the client's request that this run belongs to.
        trace_id: The request's trace in the event log.
        attempt: Which attempt of the request this is, from 1.
        operation: What to do; a runner refuses what it does not know.
        hint: Which provider or model the app registered this model for.
        model: Id of the model.
        request: The client's own parameters of ``generate``, byte for byte but for layout.
        deadline_ms: Milliseconds from receipt after which the core gives up.
    """

    call_id: str
    parent_id: RequestId
    trace_id: str
    attempt: int
    operation: Literal["generate"] = "generate"
    hint: str | None
    model: str
    request: Raw
    deadline_ms: Positive


class RunnerResult(WireStruct, frozen=True, kw_only=True):
    """The runner's answer: terminal; fills only what its events lacked.

    Attributes:
        text: The answer.
        tool_calls: Tool calls that the answer asks for.
        usage: Token counts.
        stop_reason: Why the model stopped.
    """

    text: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    usage: UsageEvent | UnsetType = UNSET
    stop_reason: StopReason | UnsetType = UNSET


class RunnerEventParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``runner.event``; ``event`` is typed once its tag is known.

    Attributes:
        call_id: The run, as ``runner.run`` named it.
        event: What happened. An unknown type is ignored.
    """

    call_id: str
    event: Raw


class RunnerEventResult(WireStruct, frozen=True, kw_only=True):
    """``closed`` tells the runner that nobody listens any more.

    Attributes:
        emitted: Whether the event was taken. As long as too many are unread there is no reply.
        closed: Whether nobody listens any more, so the runner should stop.
    """

    emitted: bool
    closed: bool


class RunnerErrorData(WireStruct, frozen=True, kw_only=True):
    """``error.data`` of a failed run, as far as the core understands it.

    Attributes:
        kind: A kind of the error table, taken over as it is; ``runner_failed`` when absent or
            unknown.
        status: HTTP status of the provider.
        retry_after_ms: How long to wait before a retry, in milliseconds.
        retryable: Whether a retry may help; goes before what the table says of the kind.
    """

    kind: str | UnsetType = UNSET
    status: int | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    retryable: bool | UnsetType = UNSET
