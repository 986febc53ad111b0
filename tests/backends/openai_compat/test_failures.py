import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.backends.openai_compat import failures
from car_rpc.errors import CarError

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def refusal(status: int, body: Any = b"", **headers: str) -> CarError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return failures.of_response(status, named, data, now=NOW)


def error(message: str = "said", **members: Any) -> dict[str, Any]:
    return {"error": {"message": message, **members}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, "provider_error"),
        (400, "invalid_request"),
        (401, "unauthorized"),
        (402, "provider_error"),
        (403, "unauthorized"),
        (404, "model_not_found"),
        (405, "provider_error"),
        (408, "timeout"),
        (409, "provider_error"),
        (413, "context_overflow"),
        (422, "invalid_request"),
        (429, "rate_limited"),
        (500, "provider_error"),
        (502, "provider_error"),
        (503, "overloaded"),
        (504, "timeout"),
        (529, "overloaded"),
        (599, "provider_error"),
    ],
)
def test_each_status_has_its_kind(status: int, kind: str) -> None:
    failure = refusal(status, b"boom")
    assert (failure.kind, failure.data["status"]) == (kind, status)
    assert failure.message.endswith(f"upstream HTTP {status}: boom")


@pytest.mark.parametrize(
    "text",
    [
        "prompt is too long: 9000 tokens",
        "This model's maximum context length is 1024 tokens",
        "the request exceeds the available context size",
        "Requested tokens (2000) exceed context window of 1024",
        "Input is too long for requested model",
        "Please reduce the length of the messages",
        "TOO MANY TOKENS",
        "request too large",
    ],
)
def test_a_refusal_that_speaks_of_the_context_is_an_overflow(text: str) -> None:
    assert refusal(400, error(text)).kind == "context_overflow"
    assert refusal(400, text.encode()).kind == "context_overflow"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, error(code="context_length_exceeded"), "context_overflow"),
        (400, error(type="exceed_context_size_error", code=400), "context_overflow"),
        (400, error(code="model_not_found"), "model_not_found"),
        (400, error(code="content_filter"), "content_filtered"),
        (400, error("triggered Azure's content management policy"), "content_filtered"),
        (400, error(type="invalid_request_error", code="unsupported_value"), "invalid_request"),
        (422, {"detail": [{"msg": "field required"}]}, "invalid_request"),
        (429, error("prompt is too long", code="insufficient_quota"), "rate_limited"),
        (500, error(type="authentication_error"), "unauthorized"),
        (500, [{"error": {"status": "PERMISSION_DENIED"}}], "unauthorized"),
        (502, error("upstream failed", code=502, metadata={"raw": '{"error":{"code":403}}'}),
         "unauthorized"),
        (502, error("wrapped", cause={"status": 429}), "rate_limited"),
        (502, error(json.dumps(error(code=404))), "model_not_found"),
        (503, error(code=500), "overloaded"),
        (503, error(code="401"), "unauthorized"),
        (500, error(code=400) | {"message": "x"}, "invalid_request"),
        (500, error("maximum context length is 5", code=400), "context_overflow"),
    ],
)  # fmt: skip
def test_the_innermost_cause_that_is_known_decides(status: int, body: Any, kind: str) -> None:
    assert refusal(status, body).kind == kind


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{}", b'"text"', b"{", b"\xff\xfe", b"[" * 5000,
        json.dumps({"error": {"error": {"error": None}}}).encode(),
        b'{"error":{"code":true,"status":1e99,"message":[1]}}',
    ],
)  # fmt: skip
def test_a_body_without_sense_changes_nothing(body: bytes) -> None:
    assert refusal(500, body).kind == "provider_error"
    assert refusal(401, body).kind == "unauthorized"


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: st.dictionaries(
        st.sampled_from(["error", "message", "code", "status", "cause", "raw"]), inner
    ) | st.lists(inner, max_size=4),
).map(lambda value: json.dumps(value).encode()), st.integers(300, 599))  # fmt: skip
def test_whatever_a_server_says_is_one_error(body: bytes, status: int) -> None:
    assert failures.of_response(status, {}, body, now=NOW).detail
    assert failures.of_stream(body, started=True).detail
    assert failures.of_stream(body, started=False).detail


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7000),
        ({"retry_after": "1.5"}, 1500),
        ({"retry_after": "86400"}, 86_400_000),
        ({"retry_after": "-3"}, 0),
        ({"retry_after": "Sat, 31 Jan 2026 12:00:30 GMT"}, 30_000),
        ({"retry_after": "Sat, 31 Jan 2026 11:00:00 GMT"}, 0),
        ({"retry_after": "Saturday, 31-Jan-26 12:01:00 GMT"}, 60_000),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "1e300"}, 2**53 - 1),
        ({"retry_after": "9", "retry_after_ms": "250"}, 250),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], wait_ms: int | None) -> None:
    assert refusal(429, b"slow", **headers).data.get("retry_after_ms") == wait_ms
    assert refusal(503, b"busy", **headers).data.get("retry_after_ms") == wait_ms
    assert "retry_after_ms" not in refusal(500, b"boom", **headers).data


def test_a_long_body_is_cut_at_a_character() -> None:
    failure = refusal(500, ("é" * 5000).encode()[1:])
    text = failure.detail.removeprefix("upstream HTTP 500: ")
    assert 4092 <= len(text.encode()) <= 4096
    assert text == "\ufffd" + "é" * (len(text) - 1)


def test_a_secret_that_the_server_repeats_does_not_come_out() -> None:
    body = json.dumps(error("key sk-1 and sk-1234 are wrong", code=401)).encode()
    secrets = ("sk-1", "sk-1234")
    for failure in (
        failures.of_response(401, {}, body, now=NOW, secrets=secrets),
        failures.of_stream(body, started=False, secrets=secrets),
    ):
        assert failure.kind == "unauthorized"
        assert "key *** and *** are wrong" in failure.detail


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (error(code=403), "unauthorized"),
        (error(code="403"), "unauthorized"),
        (error(code=429), "rate_limited"),
        (error("overloaded", type="overloaded_error"), "overloaded"),
        (error("Rate limit reached"), "rate_limited"),
        (error("the request timed out"), "timeout"),
        (error("blocked by safety settings"), "content_filtered"),
        (error("maximum context length is 5"), "context_overflow"),
        (error("something", code=400), "invalid_request"),
        ({"object": "error", "message": "gone", "code": 404}, "model_not_found"),
        (error("a generator broke"), "provider_error"),
        (error("bad gateway", code=502), "provider_error"),
    ],
)
def test_an_error_inside_a_stream_is_read_like_a_response(body: Any, kind: str) -> None:
    data = json.dumps(body).encode()
    assert failures.of_stream(data, started=False).kind == kind
    during = failures.of_stream(data, started=True)
    assert during.kind == ("stream_interrupted" if kind == "provider_error" else kind)


@pytest.mark.parametrize(
    ("body", "cause", "text"),
    [
        (error("bad gateway", code=502), "provider_502", "provider 502 mid-stream"),
        (error("received GOAWAY"), "goaway", "goaway"),
        (error("http/2 going away"), "goaway", "goaway"),
        (error("who knows"), "connection_reset", "connection reset"),
    ],
)
def test_a_failure_of_the_server_within_the_answer_is_an_interruption(
    body: Any, cause: str, text: str
) -> None:
    failure = failures.of_stream(json.dumps(body).encode(), started=True)
    assert (failure.message, failure.data["cause"]) == (f"stream interrupted ({text})", cause)
