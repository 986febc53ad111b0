"""Requests as spans of OpenTelemetry, in OTLP/JSON. Pure.

The attributes are those of the semantic conventions for generative AI. What was said is among them
only where that is asked for: the conventions make it opt-in, and spans usually leave the machine.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from car_rpc import __version__
from car_rpc.eventlog.otlp_content import content

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from car_rpc.wire.log import LogEvent

#: Version of OpenTelemetry's semantic conventions whose names are used. From 1.43 on those for
#: generative AI live in a repository of their own and have no version yet.
SEMCONV_VERSION = "1.42.0"

#: The operations that the conventions name, by method; others go by their method.
OPERATIONS = {
    "generate": "chat",
    "embed": "embeddings",
    "classify": "classify",
    "rerank": "rerank",
    "ground": "ground",
    "transcribe": "transcribe",
}

# opentelemetry/proto/trace/v1/trace.proto: SpanKind and StatusCode; OTLP/JSON wants numbers.
_KIND_CLIENT, _STATUS_OK, _STATUS_ERROR = 3, 1, 2

_REQUEST_ATTRIBUTES = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
_USAGE_ATTRIBUTES = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_creation_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "thinking_tokens": "gen_ai.usage.reasoning.output_tokens",
}

# What happened on the way, with the members that are words and numbers of ours.
_NOTED = {
    "route": ("model", "reason"),
    "attempt": ("model", "reason"),
    "breaker": ("model", "state"),
    "fallback": ("model", "kind"),
    "interruption": ("cause", "bytes_received"),
    "recovery": ("cause", "plan"),
    "resumed": ("resumed_trace_id",),
}

_Json: TypeAlias = dict[str, Any]

_SCHEMA_URL = f"https://opentelemetry.io/schemas/{SEMCONV_VERSION}"


def span(story: Sequence[LogEvent], *, with_content: bool = False) -> _Json | None:
    """The span of one request; ``None`` for one that runs no model.

    A trace of OpenTelemetry is a request of ours: its ids are made from our trace id, so that
    the same request always has the same.

    Args:
        story: All events of the request, in order.
        with_content: Whether to tell what was said.
    """
    if not story or story[0].type != "request":
        return None
    request, last = story[0], story[-1]
    method = str(request.data.get("method"))
    if method not in OPERATIONS:
        return None
    params = _object(request.data, "params")
    completion = last.data if last.type == "completion" else {}
    attributes = {
        "gen_ai.operation.name": OPERATIONS[method],
        "gen_ai.provider.name": "car_rpc",
        "car_rpc.trace_id": request.trace_id,
        "car_rpc.session_id": request.session_id,
        **_conversation(request),
        **_asked(params),
        **_answered(story, completion),
        **(content(params, _object(completion, "result")) if with_content else {}),
    }
    model = attributes.get("gen_ai.request.model") or attributes.get("gen_ai.response.model")
    seed = str(request.trace_id).encode()
    return {
        "traceId": sha256(b"trace " + seed).hexdigest()[:32],
        "spanId": sha256(b"span " + seed).hexdigest()[:16],
        "name": f"{OPERATIONS[method]} {model}" if model else OPERATIONS[method],
        "kind": _KIND_CLIENT,
        "startTimeUnixNano": _unix_ns(request.ts),
        "endTimeUnixNano": _unix_ns(max(request.ts, last.ts)),
        "attributes": _attributes(attributes),
        "events": [*_noted(story)],
        "status": _status(completion),
    }


def _conversation(request: LogEvent) -> _Json:
    conversation_id = request.conversation_id
    return {"gen_ai.conversation.id": conversation_id} if isinstance(conversation_id, str) else {}


def _asked(params: Mapping[str, Any]) -> _Json:
    given = _object(params, "params")
    attributes = {name: given[key] for key, name in _REQUEST_ATTRIBUTES.items() if key in given}
    if isinstance(params.get("model"), str):
        attributes["gen_ai.request.model"] = params["model"]
    if isinstance(params.get("stream"), bool):
        attributes["gen_ai.request.stream"] = params["stream"]
    if isinstance(params.get("encoding"), str):
        attributes["gen_ai.request.encoding_formats"] = [params["encoding"]]
    if str(_object(params, "response_format").get("type")).startswith("json"):
        attributes["gen_ai.output.type"] = "json"
    return attributes


def _answered(story: Sequence[LogEvent], completion: Mapping[str, Any]) -> _Json:
    result = _object(completion, "result")
    usage = _usage(story)
    attributes: _Json = {
        name: usage[key] for key, name in _USAGE_ATTRIBUTES.items() if key in usage
    }
    chosen = [event.data.get("model") for event in story if event.type in ("route", "attempt")]
    model = result.get("model_used") or (chosen[-1] if chosen else None)
    if model is not None:
        attributes["gen_ai.response.model"] = model
    if isinstance(result.get("stop_reason"), str):
        attributes["gen_ai.response.finish_reasons"] = [result["stop_reason"]]
    if isinstance(result.get("dimensions"), int):
        attributes["gen_ai.embeddings.dimension.count"] = result["dimensions"]
    for event in story:
        if event.type == "first_token":
            attributes["gen_ai.response.time_to_first_chunk"] = event.data["after_ms"] / 1000
    if isinstance(completion.get("kind"), str):
        attributes["error.type"] = completion["kind"]
    return attributes


def _usage(story: Sequence[LogEvent]) -> Counter[str]:
    """What all attempts took."""
    usage: Counter[str] = Counter()
    for event in story:
        if event.type == "usage":
            counts = {name: n for name, n in event.data.items() if isinstance(n, int)}
            usage.update(counts)
    return usage


def _noted(story: Sequence[LogEvent]) -> Iterator[_Json]:
    for event in story:
        if event.type in _NOTED:
            members = {name: event.data.get(name) for name in _NOTED[event.type]}
            yield {
                "timeUnixNano": _unix_ns(event.ts),
                "name": f"car_rpc.{event.type}",
                "attributes": _attributes({f"car_rpc.{n}": v for n, v in members.items()}),
            }


def _status(completion: Mapping[str, Any]) -> _Json:
    match completion.get("outcome"):
        case "success":
            return {"code": _STATUS_OK}
        case "failed":
            # The kind and not the text, which may quote what was said.
            return {"code": _STATUS_ERROR, "message": str(completion.get("kind"))}
        case _:
            return {}


def _attributes(values: Mapping[str, Any]) -> list[_Json]:
    return [
        {"key": key, "value": value}
        for key, each in values.items()
        if (value := _value(each)) is not None
    ]


def _value(value: object) -> _Json | None:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float() | msgspec.Raw():  # the latter is a number that is kept to the digit
            return {"doubleValue": float(value if isinstance(value, float) else bytes(value))}
        case str():
            return {"stringValue": value}
        case list():
            items = [_value(item) for item in cast("list[object]", value)]
            return {"arrayValue": {"values": [item for item in items if item is not None]}}
        case _:
            return None


def _object(values: Mapping[str, Any], name: str) -> _Json:
    value = values.get(name)
    return cast("_Json", value) if isinstance(value, dict) else {}


def _unix_ns(ts: str) -> str:
    return f"{round(datetime.fromisoformat(ts).timestamp() * 1000)}000000"


_EMPTY = msgspec.json.encode(
    {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes({"service.name": "car-rpc"})},
                "scopeSpans": [
                    {
                        "scope": {"name": "car_rpc", "version": __version__},
                        "schemaUrl": _SCHEMA_URL,
                        "spans": [],
                    }
                ],
            }
        ]
    }
)
#: What stands around the spans of an ``ExportTraceServiceRequest``, which are parted by commas.
BEFORE_SPANS, AFTER_SPANS = _EMPTY[: _EMPTY.rindex(b"[") + 1], _EMPTY[_EMPTY.rindex(b"[") + 1 :]
