"""One table of failures: whatever fails, and however it says so, it is one of the same kinds.

What is checked for each row is all that the engine and a client decide by: the kind, the display
text, whether to try again, whether it counts toward the breaker, and how long to wait.
"""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from car_rpc.backends.openai_compat import failures
from car_rpc.engine.breaker import Breaker, BreakerPolicy
from car_rpc.engine.interruption import interrupted
from car_rpc.errors import HTTP_STATUS_KINDS, KINDS, CarError
from car_rpc.host.runner import _error_of
from car_rpc.protocol.messages import ErrorObject

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def http(status: int, body: Any = b"said", **headers: str) -> CarError:
    """A response of a server."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return failures.of_response(status, named, data, now=NOW)


def early(body: Any) -> CarError:
    """An error in a stream that has said nothing yet."""
    return failures.of_stream(json.dumps(body).encode(), started=False)


def late(body: Any) -> CarError:
    """An error in the middle of a stream."""
    return failures.of_stream(json.dumps(body).encode(), started=True)


def runner(code: int = 1, message: str = "said", **data: Any) -> CarError:
    """An error of the app's runner."""
    return _error_of(ErrorObject(code=code, message=message, data=data))


def error(message: str = "said", **members: Any) -> dict[str, Any]:
    return {"error": {"message": message, **members}}


class Row(NamedTuple):
    """What a failure is, in the executor contract's words."""

    failure: CarError
    kind: str
    display: str
    retryable: bool
    counts: bool
    retry_after_ms: int | None = None


PERMANENT = (False, False)
TRANSIENT = (True, True)
SAID = "upstream HTTP {}: said"
ENDED = "the server ended the stream: "
RESET = "stream interrupted (connection reset)"

TABLE = [
    # The contract's own texts
    Row(CarError("provider_error", "x"), "provider_error", "provider error: x", *TRANSIENT),
    Row(CarError("rate_limited", "x"), "rate_limited", "rate limited: x", *TRANSIENT),
    Row(CarError("overloaded", "x"), "overloaded", "provider overloaded: x", *TRANSIENT),
    Row(CarError("timeout", "x"), "timeout", "timeout: x", *TRANSIENT),
    Row(CarError("context_overflow", "x"), "context_overflow", "context overflow: x", *PERMANENT),
    Row(CarError("invalid_request", "x"), "invalid_request", "invalid request: x", *PERMANENT),
    Row(CarError("unauthorized", "x"), "unauthorized", "unauthorized: x", *PERMANENT),
    Row(CarError("model_not_found", "x"), "model_not_found", "model not found: x", *PERMANENT),
    Row(CarError("content_filtered", "x"), "content_filtered", "content filtered: x", *PERMANENT),
    Row(CarError("cancelled"), "cancelled", "cancelled", *PERMANENT),
    Row(CarError("all_models_unavailable"), "all_models_unavailable",
        "all models unavailable (circuit breakers open)", *PERMANENT),
    Row(interrupted("connection_reset"), "stream_interrupted", RESET, *TRANSIENT),
    Row(interrupted("idle_stall"), "stream_interrupted", "stream interrupted (idle stall)",
        *TRANSIENT),
    Row(interrupted("goaway"), "stream_interrupted", "stream interrupted (goaway)", *TRANSIENT),
    Row(interrupted("provider_503"), "stream_interrupted",
        "stream interrupted (provider 503 mid-stream)", *TRANSIENT),
    Row(interrupted("resumed_from_checkpoint"), "stream_interrupted",
        "stream interrupted (resumed from checkpoint)", *TRANSIENT),
    Row(CarError("inference_failed", "x"), "inference_failed", "inference failed: x", *PERMANENT),
    Row(CarError("download_failed", "x"), "download_failed", "model download failed: x",
        *TRANSIENT),
    Row(CarError("tokenization_error", "x"), "tokenization_error", "tokenization error: x",
        *PERMANENT),
    Row(CarError("device_error", "x"), "device_error", "device error: x", *PERMANENT),
    Row(CarError("io_error", "x"), "io_error", "io error: x", *PERMANENT),
    Row(CarError("worker_crashed", "x"), "worker_crashed", "worker crashed: x", *TRANSIENT),
    # Responses
    Row(http(400), "invalid_request", "invalid request: " + SAID.format(400), *PERMANENT),
    Row(http(401), "unauthorized", "unauthorized: " + SAID.format(401), *PERMANENT),
    Row(http(403), "unauthorized", "unauthorized: " + SAID.format(403), *PERMANENT),
    Row(http(404), "model_not_found", "model not found: " + SAID.format(404), *PERMANENT),
    Row(http(408), "timeout", "timeout: " + SAID.format(408), *TRANSIENT),
    Row(http(413), "context_overflow", "context overflow: " + SAID.format(413), *PERMANENT),
    Row(http(422), "invalid_request", "invalid request: " + SAID.format(422), *PERMANENT),
    Row(http(429), "rate_limited", "rate limited: " + SAID.format(429), *TRANSIENT),
    Row(http(500), "provider_error", "provider error: " + SAID.format(500), *TRANSIENT),
    Row(http(502), "provider_error", "provider error: " + SAID.format(502), *TRANSIENT),
    Row(http(503), "overloaded", "provider overloaded: " + SAID.format(503), *TRANSIENT),
    Row(http(504), "timeout", "timeout: " + SAID.format(504), *TRANSIENT),
    Row(http(529), "overloaded", "provider overloaded: " + SAID.format(529), *TRANSIENT),
    Row(http(418), "provider_error", "provider error: " + SAID.format(418), *TRANSIENT),
    # How long to wait
    Row(http(429, retry_after="7"), "rate_limited", "rate limited: " + SAID.format(429),
        *TRANSIENT, 7000),
    Row(http(429, retry_after="Sat, 31 Jan 2026 12:00:30 GMT"), "rate_limited",
        "rate limited: " + SAID.format(429), *TRANSIENT, 30_000),
    Row(http(529, retry_after="3600"), "overloaded", "provider overloaded: " + SAID.format(529),
        *TRANSIENT, 3_600_000),
    Row(http(500, retry_after="7"), "provider_error", "provider error: " + SAID.format(500),
        *TRANSIENT),
    # What bodies say
    Row(http(400, error("Prompt is too long")), "context_overflow",
        "context overflow: upstream HTTP 400: Prompt is too long", *PERMANENT),
    Row(http(400, error(code="context_length_exceeded")), "context_overflow",
        "context overflow: " + SAID.format(400), *PERMANENT),
    Row(http(400, error(code="content_filter")), "content_filtered",
        "content filtered: " + SAID.format(400), *PERMANENT),
    Row(http(400, error(code="model_not_found")), "model_not_found",
        "model not found: " + SAID.format(400), *PERMANENT),
    Row(http(400, b"reduce the length"), "context_overflow",
        "context overflow: upstream HTTP 400: reduce the length", *PERMANENT),
    Row(http(400, b""), "invalid_request", "invalid request: upstream HTTP 400: <no body>",
        *PERMANENT),
    # Nested causes
    Row(http(502, error(metadata={"raw": '{"error":{"code":403}}'})), "unauthorized",
        "unauthorized: " + SAID.format(502), *PERMANENT),
    Row(http(500, error(cause={"status": 429})), "rate_limited",
        "rate limited: " + SAID.format(500), *TRANSIENT),
    Row(http(500, error(error={"type": "overloaded_error"})), "overloaded",
        "provider overloaded: " + SAID.format(500), *TRANSIENT),
    Row(http(429, error(code="invalid_api_key")), "rate_limited",
        "rate limited: " + SAID.format(429), *TRANSIENT),
    # Before a stream has said anything
    Row(early(error(code=403)), "unauthorized", f"unauthorized: {ENDED}said", *PERMANENT),
    Row(early(error("too many requests")), "rate_limited",
        f"rate limited: {ENDED}too many requests", *TRANSIENT),
    Row(early(error("overloaded")), "overloaded", f"provider overloaded: {ENDED}overloaded",
        *TRANSIENT),
    Row(early(error("timeout")), "timeout", f"timeout: {ENDED}timeout", *TRANSIENT),
    Row(early(error("blocked by safety")), "content_filtered",
        f"content filtered: {ENDED}blocked by safety", *PERMANENT),
    Row(early(error("who knows")), "provider_error", f"provider error: {ENDED}who knows",
        *TRANSIENT),
    # In its middle
    Row(late(error(code=403)), "unauthorized", f"unauthorized: {ENDED}said", *PERMANENT),
    Row(late(error("oh", cause=error(status=403))), "unauthorized", f"unauthorized: {ENDED}oh",
        *PERMANENT),
    Row(late(error(code=429)), "rate_limited", f"rate limited: {ENDED}said", *TRANSIENT),
    Row(late(error(code=502)), "stream_interrupted",
        "stream interrupted (provider 502 mid-stream)", *TRANSIENT),
    Row(late(error("HTTP/2 going away")), "stream_interrupted", "stream interrupted (goaway)",
        *TRANSIENT),
    Row(late(error("econnreset")), "stream_interrupted", RESET, *TRANSIENT),
    # The app's runner
    Row(runner(kind="rate_limited", retry_after_ms=9000), "rate_limited", "rate limited: said",
        *TRANSIENT, 9000),
    Row(runner(kind="content_filtered"), "content_filtered", "content filtered: said", *PERMANENT),
    Row(runner(kind="runner_declined"), "runner_declined", "runner declined: said", *PERMANENT),
    Row(runner(kind="cancelled"), "cancelled", "cancelled", *PERMANENT),
    Row(runner(kind="unauthorized", status=401), "unauthorized", "unauthorized: said", *PERMANENT),
    Row(runner(kind="provider_error", retryable=False), "provider_error", "provider error: said",
        *PERMANENT),
    Row(runner(), "runner_failed", "runner failed: said", *TRANSIENT),
    Row(runner(kind="invented"), "runner_failed", "runner failed: said", *TRANSIENT),
    Row(runner(status=500), "runner_failed", "runner failed: said", *TRANSIENT),
    Row(runner(status=403), "runner_failed", "runner failed: said", *PERMANENT),
    Row(runner(status=403, retryable=True), "runner_failed", "runner failed: said", *TRANSIENT),
    Row(runner(-32601), "no_runner", "no runner: said", *PERMANENT),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.kind}: {row.display[-30:]}")
def test_every_failure_has_one_place_in_the_taxonomy(row: Row) -> None:
    failure = row.failure
    assert (failure.kind, failure.message) == (row.kind, row.display)
    assert failure.retryable == failure.data["retryable"] == row.retryable
    assert failure.data.get("retry_after_ms") == row.retry_after_ms
    breaker = Breaker(BreakerPolicy(failure_threshold=1))
    breaker.admit(0).failed(failure, 0)
    assert (breaker.state == "open") == row.counts


def test_what_may_pass_counts_toward_the_breaker_and_nothing_else_does() -> None:
    for kind, row in KINDS.items():
        assert row.retryable == row.counts_toward_breaker, kind


def test_every_status_has_a_kind_of_its_own_or_is_the_providers_failure() -> None:
    for status in range(400, 600):
        assert http(status).kind == HTTP_STATUS_KINDS.get(status, "provider_error")
