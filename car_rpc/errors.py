"""The one error table and the one exception that crosses layers.

Every failure that a client can see is a :class:`CarError` of a kind listed in :data:`KINDS`.
The kind is the contract; its JSON-RPC code, whether a retry may help and whether it counts
toward a circuit breaker follow from the table. Display texts follow the executor contract
that the protocol fixes, so they are stable and may be shown to users.

Codes outside -32768..-32000 are ours; the rest are JSON-RPC 2.0's own (section 5.1) and the
two that LSP 3.17 adds (-32002 server not initialized, -32800 request cancelled).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class ErrorKind(NamedTuple):
    """One row of the error table.

    Attributes:
        code: JSON-RPC error code.
        display: Message template; ``{}`` is replaced by the detail.
        retryable: Whether the same request may succeed when it is sent again.
        counts_toward_breaker: Whether the failure counts against the model's circuit breaker.
        meaning: What happened, for the generated documentation.
    """

    code: int
    display: str
    retryable: bool
    counts_toward_breaker: bool
    meaning: str


def _permanent(code: int, display: str, meaning: str) -> ErrorKind:
    return ErrorKind(code, display, retryable=False, counts_toward_breaker=False, meaning=meaning)


def _transient(code: int, display: str, meaning: str) -> ErrorKind:
    return ErrorKind(code, display, retryable=True, counts_toward_breaker=True, meaning=meaning)


KINDS: dict[str, ErrorKind] = {
    "parse_error": _permanent(-32700, "parse error: {}", "The bytes are not a JSON message."),
    "malformed_message": _permanent(
        -32600, "malformed message: {}", "Valid JSON that is not a JSON-RPC 2.0 message."
    ),
    "duplicate_id": _permanent(
        -32600, "duplicate id: {}", "A request with this id is still in flight."
    ),
    "method_not_found": _permanent(-32601, "method not found: {}", "No such method here."),
    "invalid_params": _permanent(
        -32602, "invalid params: {}", "A parameter is missing or wrong; `path` names it."
    ),
    "internal": _permanent(-32603, "internal error: {}", "A defect in car-rpc; see its log."),
    "not_initialized": _permanent(
        -32002, "not initialized: {}", "`initialize` must come before this method."
    ),
    "cancelled": _permanent(-32800, "cancelled", "The request was cancelled."),
    "provider_error": _transient(1001, "provider error: {}", "The upstream provider failed."),
    "rate_limited": _transient(1002, "rate limited: {}", "The provider asked to slow down."),
    "overloaded": _transient(1003, "provider overloaded: {}", "Too much work at once."),
    "timeout": _transient(1004, "timeout: {}", "A time limit ran out."),
    "stream_interrupted": _transient(
        1005, "stream interrupted ({})", "A stream broke before its end."
    ),
    "context_overflow": _permanent(
        1006, "context overflow: {}", "The prompt leaves no room for one token."
    ),
    "invalid_request": _permanent(
        1007, "invalid request: {}", "The model or upstream refused the request as malformed."
    ),
    "unauthorized": _permanent(1008, "unauthorized: {}", "Credentials are missing or refused."),
    "model_not_found": _permanent(1009, "model not found: {}", "No such model is registered."),
    "content_filtered": _permanent(1010, "content filtered: {}", "The provider refused."),
    "all_models_unavailable": _permanent(
        1011, "all models unavailable (circuit breakers open)", "Every candidate is shut off."
    ),
    "worker_crashed": _transient(1012, "worker crashed: {}", "The model's process died."),
    "unsupported_mode": _permanent(
        1013, "{}", "The chosen model or backend cannot do what was asked."
    ),
    "tokenization_error": _permanent(
        1014, "tokenization error: {}", "Text and tokens could not be converted."
    ),
    "device_error": _permanent(1015, "device error: {}", "The accelerator or CPU failed."),
    "io_error": _permanent(1016, "io error: {}", "A file could not be read or written."),
    "download_failed": _transient(
        1017, "model download failed: {}", "Model files could not be fetched."
    ),
    "inference_failed": _permanent(1018, "inference failed: {}", "The model failed to run."),
    "spend_limit_exceeded": _permanent(
        1019, "spend limit exceeded: {}", "The request would exceed a spend limit."
    ),
    "policy_denied": _permanent(1020, "policy denied: {}", "A policy forbids this."),
    "no_runner": _permanent(
        1021, "no runner: {}", "A delegated model was asked for and no runner is registered."
    ),
    "runner_declined": _permanent(
        1022, "runner declined: {}", "The runner knows no provider for the hint."
    ),
    "runner_failed": _transient(1023, "runner failed: {}", "The app's runner failed."),
    "protocol_version_unsupported": _permanent(
        1024, "protocol version unsupported: {}", "See `data.supported`."
    ),
    "message_too_large": _permanent(
        1025, "message too large: {}", "The message exceeds `limits.max_message_bytes`."
    ),
    "shutting_down": _permanent(1026, "shutting down: {}", "The process takes no new work."),
    "not_found": _permanent(1027, "not found: {}", "The named thing does not exist."),
    "conflict": _permanent(1028, "conflict: {}", "The named thing is in another state."),
    "not_replayable": _permanent(1029, "not replayable: {}", "Too little was recorded."),
    "model_load_failed": _permanent(1030, "model load failed: {}", "The model did not load."),
    "out_of_memory": _permanent(1031, "out of memory: {}", "The model does not fit."),
}


#: What a provider's HTTP status means, unless its words say more. Any other one that is no
#: success is a ``provider_error``. 529 is Anthropic's, for a provider that is overloaded.
HTTP_STATUS_KINDS: dict[int, str] = {
    400: "invalid_request",
    401: "unauthorized",
    403: "unauthorized",
    404: "model_not_found",
    408: "timeout",
    413: "context_overflow",
    422: "invalid_request",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}


class CarError(Exception):
    """A failure of a kind that the protocol names.

    Args:
        kind: A key of :data:`KINDS`.
        detail: What happened and what to do next, for people. Never a secret, a traceback or
            a path of the source tree.
        data: Kind-specific members of ``error.data``, such as ``path`` or ``model``. A
            ``retryable`` among them is what is known of this failure and goes before the table.

    Raises:
        KeyError: The kind is not in the table (a programming error).
    """

    def __init__(self, kind: str, detail: str = "", /, **data: Any) -> None:
        row = KINDS[kind]
        self.kind = kind
        self.detail = detail
        self.code = row.code
        self.retryable: bool = data.get("retryable", row.retryable)
        self.message = row.display.replace("{}", detail)
        self.extra = data
        super().__init__(self.message)

    @property
    def data(self) -> dict[str, Any]:
        """``error.data`` as it goes on the wire."""
        return {"kind": self.kind, "retryable": self.retryable, **self.extra}

    @property
    def told(self) -> dict[str, Any]:
        """The error object as it goes on the wire."""
        return {"code": self.code, "message": self.message, "data": self.data}

    @classmethod
    def restored(cls, told: Mapping[str, Any]) -> CarError:
        """An error from what was told of it, which stays as it was whatever this version says.

        Raises:
            KeyError: Its kind is none of this version.
        """
        data = dict(told["data"])
        kind, message = data.pop("kind"), told["message"]
        prefix, _, suffix = KINDS[kind].display.partition("{}")
        error = cls(kind, message.removeprefix(prefix).removesuffix(suffix), **data)
        error.code, error.message = told["code"], message
        return error

    def with_data(self, **data: Any) -> CarError:
        """The same error with members added that it does not have yet."""
        new = {name: value for name, value in data.items() if name not in self.extra}
        return CarError(self.kind, self.detail, **self.extra, **new)


def invalid_params(detail: str, path: str) -> CarError:
    """An ``invalid_params`` error for the field at ``path`` (JSONPath, ``$.a.b[0]``)."""
    return CarError("invalid_params", f"{detail} - at `{path}`", path=path)


def unsupported_mode(mode: str, backend: str, reason: str, **data: Any) -> CarError:
    """An ``unsupported_mode`` error with the executor contract's display text."""
    return CarError(
        "unsupported_mode",
        f"mode {mode} not implemented on backend {backend}: {reason}",
        mode=mode,
        backend=backend,
        **data,
    )
