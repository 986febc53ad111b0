"""What a row of the method table says."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Direction = Literal["client_to_core", "core_to_client", "both"]
Stability = Literal["experimental", "stable", "deprecated"]


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        summary: What it is for, in a sentence.
        params: Type of the parameters.
        result: Type of the result, or ``None`` when it is null or there is none.
        kind: Whether it is a request, a notification or either.
        direction: Who sends it.
        inline: Handled in order of arrival, without a task.
        logged: Whether the event log holds it.
        stream: Notification that carries the events before its response.
        error_data: Type of what is read of ``error.data`` where the client answers.
        since: Version of the specification that brought it.
        stability: Whether it may still change.
    """

    summary: str
    params: Any
    result: Any = None
    kind: Literal["request", "notification", "either"] = "request"
    direction: Direction = "client_to_core"
    inline: bool = False
    logged: bool = False
    stream: str | None = None
    error_data: Any = None
    since: str = "1.0"
    stability: Stability = "stable"
