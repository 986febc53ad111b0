"""Parameters and result of ``replay.run``."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import Positive, WireStruct

ReplayMode: TypeAlias = Literal["recorded", "rerun", "verify"]
ReplaySpeed: TypeAlias = Literal["fast", "timed"]


class ReplayRunParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``replay.run``.

    Attributes:
        trace_id: The request in the event log, of any session.
        mode: ``recorded``: what it got then, from the log alone. ``rerun``: it runs again, as a
            request of its own, and what it gets is compared; only for what runs a model.
            ``verify``: what was decided for it - which model, what after a failure - is decided
            again from what was known then, and compared; only for ``generate``.
        speed: ``timed``: with the pauses that there were; for ``recorded``.
        stream: Whether the events of a ``generate`` come as ``generate.event`` before the response.
        client_ref: Opaque to the core; echoed in these events. Those of the recorded request are
            in its result only.
    """

    trace_id: str
    mode: ReplayMode
    speed: ReplaySpeed = "fast"
    stream: bool = False
    client_ref: str | UnsetType = UNSET


class Difference(WireStruct, frozen=True, kw_only=True):
    """A value that is not what it was.

    Attributes:
        path: Where it stands in the result, or in the error: JSONPath.
        recorded: What it was; absent when it was not there.
        now: What it is; absent when it is not there.
    """

    path: str
    recorded: Any = UNSET
    now: Any = UNSET


class Divergence(WireStruct, frozen=True, kw_only=True):
    """The first decision that is not what it was.

    Attributes:
        at: The event of the log that holds it, by its ``seq``; the last one of the request when
            there was none any more.
        recorded: Its ``type`` and what was decided; null when there was none any more.
        now: The same as it is decided now; null when nothing is.
    """

    at: Positive
    recorded: dict[str, Any] | None
    now: dict[str, Any] | None


class ReplayRunResult(WireStruct, frozen=True, kw_only=True):
    """Result of ``replay.run``. A request that failed is answered with its error instead.

    Attributes:
        method: The method of the request.
        result: Its result: that of then, or of now for ``rerun``. Null for ``verify`` of a request
            that got none.
        redacted: Whether something that belongs to the request was replaced before it was written,
            and so stays replaced in what is shown, or asked again.
        diff: For ``rerun``: what is otherwise now. Ids and times are not compared.
        diverged: For ``verify``: the first decision that is otherwise now, or null.
    """

    method: str
    result: Any = None
    redacted: bool = False
    diff: list[Difference] | UnsetType = UNSET
    diverged: Divergence | UnsetType | None = UNSET
