"""Exports: lines that come back as they were, and spans that OpenTelemetry's own decoder takes."""

import base64
import hashlib
import json
import stat
from datetime import datetime

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from car_rpc.errors import CarError
from car_rpc.eventlog import export as export_module
from car_rpc.eventlog import otlp
from car_rpc.eventlog.export import export
from car_rpc.eventlog.imported import import_lines
from car_rpc.eventlog.store import Store
from car_rpc.eventlog.writer import EventLog, NewEvent
from car_rpc.wire.log import EventlogExportParams, EventlogQueryParams, EventlogQueryResult

#: All names that the installed version of the conventions knows.
KNOWN = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}


def story(trace_id, method="generate", outcome="success", conversation_id=None):
    request = {
        "request_id": 1,
        "method": method,
        "params": {
            "prompt": "tell me a secret",
            "model": "a/b:1",
            "params": {"temperature": 0.5, "max_tokens": 9, "stop": ["x"], "seed": 2**53 - 1},
        },
    }
    result = {
        "text": "the secret",
        "model_used": "a/b:1",
        "stop_reason": "end_turn",
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "context_window": None},
    }
    ends = {
        "success": {"outcome": "success", "result": result},
        "failed": {"outcome": "failed", "kind": "timeout", "error": {"message": "the secret"}},
    }
    events = [
        ("request", request),
        ("route", {"model": "a/b:1", "reason": "explicit model", "fallbacks": []}),
        ("attempt", {"model": "a/b:1"}),
        ("first_token", {"after_ms": 250.0}),
        ("interruption", {"cause": "idle_stall", "bytes_received": 7}),
        ("usage", {"prompt_tokens": 3, "completion_tokens": 2, "thinking_tokens": 1}),
        ("attempt", {"model": "a/b:1", "reason": "recovery: idle_stall"}),
        ("usage", {"prompt_tokens": 3, "completion_tokens": 3}),
        ("deltas", {"events": [{"type": "text_delta", "text": "the secret"}]}),
        *([("completion", ends[outcome])] if outcome in ends else []),
    ]
    return [
        NewEvent(type=kind, data=data, trace_id=trace_id, conversation_id=conversation_id)
        for kind, data in events
    ]


async def decoded(log, **params):
    """The export as OpenTelemetry's generated code reads it."""
    result = await export(log, EventlogExportParams(format="otlp_json", **params))
    content = json.loads(str(result.content))
    # The one place where OTLP's JSON is not that of Protocol Buffers: ids are in hexadecimal
    # (OpenTelemetry Protocol Specification, "JSON Protobuf Encoding").
    for scope in content["resourceSpans"][0]["scopeSpans"]:
        for each in scope["spans"]:
            for name in ("traceId", "spanId"):
                each[name] = base64.b64encode(bytes.fromhex(each[name])).decode()
    request = json_format.ParseDict(content, ExportTraceServiceRequest())
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    assert result.count == len(scope.spans)
    return resource.resource, scope


def attributes(holder):
    found = {}
    for each in holder.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = (
            [item.string_value for item in value.values] if kind == "array_value" else value
        )
    return found


async def test_a_request_is_a_span_that_opentelemetry_takes(log):
    await log.commit(*story("tr_1", conversation_id="talk"))
    resource, scope = await decoded(log)

    assert attributes(resource) == {"service.name": "car-rpc"}
    assert scope.schema_url.endswith(otlp.SEMCONV_VERSION)
    (span,) = scope.spans
    assert (span.name, span.kind) == ("chat a/b:1", Span.SPAN_KIND_CLIENT)
    assert (len(span.trace_id), len(span.span_id)) == (16, 8)
    start = datetime.fromisoformat("2026-01-31T08:30:00Z").timestamp()
    assert span.start_time_unix_nano == start * 10**9
    assert span.end_time_unix_nano == start * 10**9, "events of one commit have one time"
    assert span.status.code == Status.STATUS_CODE_OK
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "car_rpc",
        "gen_ai.conversation.id": "talk",
        "gen_ai.request.model": "a/b:1",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 2**53 - 1,
        "gen_ai.request.stop_sequences": ["x"],
        "gen_ai.response.model": "a/b:1",
        "gen_ai.response.finish_reasons": ["end_turn"],
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 6,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 1,
        "car_rpc.trace_id": "tr_1",
        "car_rpc.session_id": "session-1",
    }
    assert [each.name for each in span.events] == [
        "car_rpc.route",
        "car_rpc.attempt",
        "car_rpc.interruption",
        "car_rpc.attempt",
    ]
    assert attributes(span.events[3])["car_rpc.reason"] == "recovery: idle_stall"
    assert attributes(span.events[2]) == {
        "car_rpc.cause": "idle_stall",
        "car_rpc.bytes_received": 7,
    }


async def test_every_name_is_one_of_the_conventions(log):
    await log.commit(*story("tr_1"), *story("tr_2", outcome="failed"))
    _, scope = await decoded(log)
    names = {name for span in scope.spans for name in attributes(span)}
    used = {name for name in names if name.startswith("gen_ai.")}
    written = {*otlp._REQUEST_ATTRIBUTES.values(), *otlp._USAGE_ATTRIBUTES.values()}
    assert len(used) > 8
    assert used | written <= KNOWN


async def test_failures_and_unfinished_requests_are_told_apart(log):
    await log.commit(*story("tr_1", outcome="failed"), *story("tr_2", outcome="none"))
    _, scope = await decoded(log)
    failed, unfinished = scope.spans
    assert (failed.status.code, failed.status.message) == (Status.STATUS_CODE_ERROR, "timeout")
    assert attributes(failed)["error.type"] == "timeout"
    assert unfinished.status.code == Status.STATUS_CODE_UNSET


async def test_nothing_that_was_said_is_in_a_span(log):
    await log.commit(*story("tr_1"), *story("tr_2", outcome="failed"))
    result = await export(log, EventlogExportParams(format="otlp_json"))
    assert "secret" not in str(result.content)


async def test_what_was_said_is_told_when_it_is_asked_for(log):
    call = {"id": "c1", "name": "look", "arguments": {"at": "sky"}}
    blocks = [
        {"type": "text", "text": "what is it"},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "AAEC"},
        },
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "tool_result", "tool_use_id": "c0", "content": "seen"},
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    params = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "blue"},
            {"role": "user", "content": blocks},
        ],
        "tools": tools,
        "stream": True,
        "response_format": {"type": "json_object"},
    }
    result = {
        "text": "a secret",
        "reasoning": "hm",
        "tool_calls": [call],
        "stop_reason": "end_turn",
    }
    await log.commit(
        NewEvent(
            type="request",
            data={"request_id": 1, "method": "generate", "params": params},
            trace_id="tr_1",
        ),
        NewEvent(type="completion", data={"outcome": "success", "result": result}, trace_id="tr_1"),
    )
    _, scope = await decoded(log, content=True)
    told = attributes(scope.spans[0])
    assert (told["gen_ai.request.stream"], told["gen_ai.output.type"]) == (True, "json")
    assert {name for name in told if name.startswith("gen_ai.")} <= KNOWN
    said = {
        name: json.loads(told[f"gen_ai.{name}"]) for name in ("input.messages", "output.messages")
    }
    call_part = {"type": "tool_call", **call}
    digest = hashlib.sha256(b"\0\1\2").hexdigest()
    assert json.loads(told["gen_ai.system_instructions"]) == [
        {"type": "text", "content": "be brief"}
    ]
    assert json.loads(told["gen_ai.tool.definitions"]) == tools
    assert said["input.messages"] == [
        {"role": "assistant", "parts": [{"type": "text", "content": ""}, call_part]},
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "c1", "response": "blue"}],
        },
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "what is it"},
                {
                    "type": "file",
                    "modality": "image",
                    "mime_type": "image/png",
                    "file_id": digest,
                },
                {"type": "uri", "modality": "image", "uri": "https://x/y.png"},
                {"type": "tool_call_response", "id": "c0", "response": "seen"},
            ],
        },
    ]
    assert said["output.messages"] == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "hm"},
                {"type": "text", "content": "a secret"},
                call_part,
            ],
            "finish_reason": "end_turn",
        }
    ]
    _, scope = await decoded(log)
    assert (
        not {"gen_ai.input.messages", "gen_ai.tool.definitions"} & attributes(scope.spans[0]).keys()
    )


async def test_an_embedding_is_a_span_with_its_size(log):
    params = {"texts": ["a"], "encoding": "base64"}
    await log.commit(
        NewEvent(
            type="request",
            data={"request_id": 1, "method": "embed", "params": params},
            trace_id="tr_1",
        ),
        NewEvent(type="usage", data={"prompt_tokens": 4, "completion_tokens": 0}, trace_id="tr_1"),
        NewEvent(
            type="completion",
            data={"outcome": "success", "result": {"dimensions": 64, "model_used": "e/m:1"}},
            trace_id="tr_1",
        ),
    )
    _, scope = await decoded(log, content=True)
    told = attributes(scope.spans[0])
    assert scope.spans[0].name == "embeddings e/m:1"
    assert told["gen_ai.embeddings.dimension.count"] == 64
    assert told["gen_ai.request.encoding_formats"] == ["base64"]
    assert told["gen_ai.usage.input_tokens"] == 4
    assert {name for name in told if name.startswith("gen_ai.")} <= KNOWN


async def test_what_runs_no_model_is_no_span(log):
    await log.commit(*story("tr_1", method="models.register"), NewEvent(type="t", data={}))
    _, scope = await decoded(log)
    assert not scope.spans


async def test_content_that_was_not_kept_is_no_trouble(log):
    size = {"bytes": 10}
    await log.commit(
        NewEvent(
            type="request",
            data={"request_id": 1, "method": "generate", "params": size},
            trace_id="tr_1",
        ),
        NewEvent(type="completion", data={"outcome": "success", "result": size}, trace_id="tr_1"),
    )
    _, scope = await decoded(log)
    assert [span.name for span in scope.spans] == ["chat"]


async def test_only_what_was_asked_for_is_exported(log):
    await log.commit(*story("tr_1", conversation_id="a"))
    await log.commit(*story("tr_2", conversation_id="b"))

    async def count(**params):
        return (await export(log, EventlogExportParams(**params))).count

    assert await count(format="otlp_json") == 2
    assert await count(format="otlp_json", trace_id="tr_1") == 1
    assert await count(format="otlp_json", since="2026-01-31T08:30:01Z") == 1
    assert await count(format="jsonl", conversation_id="b") == 10
    assert await count(format="jsonl", until="2026-01-31T08:30:01Z") == 10


async def everything(log) -> EventlogQueryResult:
    await log.commit()
    return await log.query(EventlogQueryParams(limit=1000))


async def test_lines_that_are_imported_are_the_same_events_again(path, log, clock, monkeypatch):
    monkeypatch.setattr(export_module, "_PAGE", 5)
    await log.commit(*story("tr_1", conversation_id="talk"), NewEvent(type="t", data={"π": 1e400}))
    log.append(NewEvent(type="attempted", data={"n": 12345678901234567890}, attempt=3))
    file = path.parent / "log.jsonl"
    result = await export(log, EventlogExportParams(format="jsonl", path=str(file)))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (result.count, result.bytes) == (12, file.stat().st_size)
    assert [*path.parent.glob(".*partial")] == []
    other_path = path.with_name("other.db")
    with file.open("rb") as lines:
        assert import_lines(Store.open(other_path), lines) == 12
    other = EventLog.open(other_path, "session-2", clock)
    again = await export(other, EventlogExportParams(format="jsonl"))
    assert again.content == file.read_text(encoding="utf-8")
    assert (await other.verify()).checked == 12
    with file.open("rb") as lines:
        assert import_lines(Store.open(other_path), lines) == 0, "what is there is not doubled"
    await other.close()


async def test_an_import_keeps_no_secrets_and_takes_all_or_nothing(path):
    good = (
        b'{"seq":1,"ts":"2026-01-31T08:30:00.000Z","session_id":"s","trace_id":null,"type":"t",'
        b'"data":{"api_key":"shh"}}\n'
    )
    store = Store.open(path)
    with pytest.raises(CarError) as raised:
        import_lines(store, [good, b'{"seq":2}\n'])
    assert raised.value.kind == "invalid_params"
    assert "line 2" in raised.value.detail
    assert import_lines(store, [good, b"\n"]) == 1
    store.close()
    assert b"shh" not in path.read_bytes()


async def test_a_text_that_is_too_long_for_an_answer_needs_a_file(path, log, monkeypatch):
    monkeypatch.setattr(export_module, "MAX_CONTENT_BYTES", 100)
    await log.commit(*story("tr_1"))
    with pytest.raises(CarError) as raised:
        await export(log, EventlogExportParams(format="jsonl"))
    assert (raised.value.kind, raised.value.data["path"]) == ("invalid_params", "$.path")


@pytest.mark.parametrize(
    ("name", "kind"), [("relative.jsonl", "invalid_params"), ("/proc/none/log.jsonl", "io_error")]
)
async def test_a_file_that_cannot_be_written_is_refused(log, name, kind):
    with pytest.raises(CarError) as raised:
        await export(log, EventlogExportParams(format="jsonl", path=name))
    assert raised.value.kind == kind


async def test_an_export_that_fails_leaves_the_file_that_was_there(path, log):
    file = path.parent / "kept.jsonl"
    await log.commit(*story("tr_1"))
    file.write_text("before")
    with pytest.raises(CarError):
        await export(log, EventlogExportParams(format="jsonl", path=str(file), since="yesterday"))
    assert file.read_text() == "before"
    assert [*path.parent.glob(".*partial")] == []
