"""How calls of the client fail."""

from __future__ import annotations

from typing import Any


class RemoteError(Exception):
    """A request failed.

    Attributes:
        kind: What happened, from the protocol's error table; this is the contract.
        code: JSON-RPC error code.
        message: Text for people.
        data: The rest of ``error.data``.
    """

    def __init__(self, code: int, message: str, data: dict[str, Any]) -> None:
        self.kind = str(data.get("kind", "internal"))
        self.code = code
        self.message = message
        self.data = data
        super().__init__(message)


class ProcessEnded(Exception):
    """The process is gone; requests in flight have no answer.

    Attributes:
        exit_code: How it ended, or ``None`` when that is not known.
        log_tail: The last of its standard error; empty unless the client was started to read it.
    """

    def __init__(self, exit_code: int | None, log_tail: str = "") -> None:
        self.exit_code = exit_code
        self.log_tail = log_tail
        reason = f":\n{log_tail}" if log_tail else "; its standard error says why"
        super().__init__(f"car-rpc ended (exit code {exit_code}){reason}")


class RunnerFailure(Exception):
    """Raised by a runner to fail a run with a kind of the protocol's error table.

    Args:
        message: Text for people.
        kind: For example ``runner_declined`` or ``rate_limited``.
        data: More members of ``error.data``: ``status``, ``retry_after_ms``, ``retryable``.
    """

    def __init__(self, message: str, kind: str = "runner_failed", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = {"kind": kind, **data}
