import asyncio
import base64
import json
import logging
import math
from array import array
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.testing import check_backend, scripted_call
from car_rpc.wire.events import (
    ReasoningDelta,
    Stop,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    UsageEvent,
)
from tests.servers.scripted import CLOSE, RESET, STALL, Reply, ScriptedServer, delta, said, sse

HELLO = said("hel", "lo", prompt_tokens=7, completion_tokens=3)
KEY = "sk-verysecretverysecret"

#: For limits that are meant to run out.
SHORT_S = 0.2

TOOL = {"type": "function", "function": {"name": "f"}}


async def outcome_of(
    upstream: Any, model: Any, **request: Any
) -> tuple[CarError | None, list[Any]]:
    """How a request failed, if it did, and its events."""
    events: list[Any] = []
    try:
        async for event in upstream.backend.generate(scripted_call(model, **request)):
            events.append(event)  # noqa: PERF401 - what came before the failure counts
    except CarError as error:
        return error, events
    return None, events


async def failure_of(upstream: Any, model: Any, **request: Any) -> tuple[CarError, list[Any]]:
    """How a request failed, and the events before that."""
    failure, events = await outcome_of(upstream, model, **request)
    assert failure is not None
    return failure, events


async def test_it_does_what_the_engine_relies_on(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    async with ScriptedServer().running() as stalling:
        stalling.reply(Reply([sse(delta(content="x"), done=False), STALL]))
        endless = upstream.model(stalling.url)
        await check_backend(upstream.backend, upstream.model(server.url), endless)
        async with asyncio.timeout(5):
            await stalling.no_connection()


async def test_an_answer_comes_as_events_with_its_usage(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    assert await upstream.events(upstream.model(server.url)) == [
        TextDelta(text="hel"),
        TextDelta(text="lo"),
        UsageEvent(prompt_tokens=7, completion_tokens=3),
        Stop(reason="end_turn"),
    ]
    (asked,) = server.asked
    assert (asked.path, asked.body["model"]) == ("/v1/chat/completions", "gpt")


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_endpoint_may_end_in_slashes_and_v1(
    upstream: Any, server: Any, suffix: str
) -> None:
    server.reply(HELLO)
    await upstream.events(upstream.model(server.url + suffix))
    assert server.asked[0].path == "/v1/chat/completions"


async def test_a_connection_serves_one_request_after_the_other(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    for _ in range(5):
        await upstream.events(upstream.model(server.url))
    assert (len(server.asked), server.connections) == (5, 1)


async def test_the_connection_is_dropped_at_once_when_nobody_listens_any_more(
    upstream: Any, server: Any
) -> None:
    server.reply(Reply([sse(delta(content="x"), done=False), STALL]))
    events = upstream.backend.generate(scripted_call(upstream.model(server.url)))
    await anext(events)
    await events.aclose()
    async with asyncio.timeout(5):
        await server.no_connection()


async def test_a_cancel_before_the_answer_drops_the_connection(upstream: Any, server: Any) -> None:
    server.reply(Reply(stall=True))
    work = asyncio.create_task(upstream.events(upstream.model(server.url)))
    async with asyncio.timeout(5):
        await server.wait_asked(1)
        work.cancel()
        await asyncio.wait([work])
        await server.no_connection()
    assert work.cancelled()


async def test_a_proxy_of_the_environment_is_used(
    upstream: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    server.reply(HELLO)
    assert await upstream.events(upstream.model("http://models.invalid/x"))
    assert server.asked[0].path == "http://models.invalid/x/v1/chat/completions"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_this_machine_is_asked_without_a_proxy(
    upstream: Any, server: Any, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    server.reply(HELLO)
    async with ScriptedServer().running() as proxy:
        for name in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert await upstream.events(upstream.model(server.url.replace("127.0.0.1", host)))
        assert proxy.asked == []
    assert server.asked[0].path == "/v1/chat/completions"


async def test_a_setting_of_the_environment_that_cannot_be_used_is_named(
    upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"gopher://user:{KEY}@models.invalid")
    for _ in range(2):
        failure, _ = await failure_of(upstream, upstream.model("http://models.invalid"))
        assert (failure.kind, "HTTP_PROXY" in failure.message) == ("io_error", True)
        assert KEY not in failure.message


# -- keys and headers


async def test_the_key_is_read_at_each_call(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    model = upstream.model(server.url, api_key_env="MY_KEY")
    assert not upstream.backend.availability(model).available
    failure, _ = await failure_of(upstream, model)
    assert (failure.kind, "MY_KEY" in failure.message) == ("unauthorized", True)
    for key in ("first", " second , third ", "", " "):
        upstream.environ["MY_KEY"] = key
        assert upstream.backend.availability(model).available
        await upstream.events(model)
    sent = [asked.headers.get("authorization") for asked in server.asked]
    assert sent == ["Bearer first", "Bearer second", None, None]


async def test_the_first_key_that_is_found_is_used(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    model = upstream.model(server.url, api_key_env="A", api_key_envs=["B", "C"])
    upstream.environ |= {"A": "", "C": "c"}
    await upstream.events(model)
    assert server.asked[0].headers["authorization"] == "Bearer c"


async def test_without_a_key_none_is_sent(upstream: Any, server: Any) -> None:
    server.reply(HELLO)
    await upstream.events(upstream.model(server.url))
    assert "authorization" not in server.asked[0].headers


async def test_headers_are_sent_as_they_are_or_from_the_environment(
    upstream: Any, server: Any
) -> None:
    server.reply(HELLO)
    headers = {"X-Title": "my app", "api-key": {"env": "AZURE"}, "Authorization": "Basic eA=="}
    model = upstream.model(server.url, headers=headers, api_key_env="KEY")
    upstream.environ |= {"AZURE": KEY, "KEY": "other"}
    await upstream.events(model)
    sent = server.asked[0].headers
    assert (sent["x-title"], sent["api-key"]) == ("my app", KEY)
    assert sent["authorization"] == "Basic eA=="


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"x": {"env": "UNSET"}}, "unauthorized"),
        ({"x": f"{KEY}\r\nevil: 1"}, "invalid_request"),
        ({"x": f"{KEY}é"}, "invalid_request"),
        ({"x y": KEY}, "invalid_request"),
        ({"": KEY}, "invalid_request"),
    ],
)
async def test_a_header_that_cannot_be_sent_is_refused_without_its_value(
    upstream: Any, server: Any, headers: Any, kind: str
) -> None:
    failure, _ = await failure_of(upstream, upstream.model(server.url, headers=headers))
    assert failure.kind == kind
    assert KEY not in failure.message
    assert server.asked == []


async def test_a_key_comes_out_neither_in_errors_nor_in_the_log(
    upstream: Any, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    upstream.environ |= {"KEY": KEY, "OTHER": "x-token-value"}
    model = upstream.model(server.url, api_key_env="KEY", headers={"x-other": {"env": "OTHER"}})
    echo = json.dumps({"error": {"message": f"bad key {KEY} or x-token-value", "code": 401}})
    server.reply(
        Reply([echo], status=401, media_type="application/json"),
        Reply([f"data: {echo}\n\n"]),
        Reply([f"data: {KEY}\n\ndata: {echo}\n\n"]),
        Reply([f"<html>{KEY}</html>"], media_type="text/html"),
    )
    for kind in ("unauthorized", "unauthorized", "unauthorized", "provider_error"):
        failure, _ = await failure_of(upstream, model)
        assert failure.kind == kind
        assert "***" in failure.message
        assert KEY not in f"{failure.message}{failure.data}{failure.__cause__}{caplog.text}"
        assert "x-token-value" not in f"{failure.message}{caplog.text}"


# -- what servers send


async def test_reasoning_and_calls_come_as_their_events(upstream: Any, server: Any) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    server.reply(Reply([sse(delta(reasoning="hm"), delta(tool_calls=[call]), delta("tool_calls"))]))
    events = await upstream.events(upstream.model(server.url), tools=[TOOL])
    assert events[:3] == [
        ReasoningDelta(text="hm"),
        ToolCallStart(index=0, id="c", name="f"),
        ToolCallDelta(index=0, id="c", arguments_delta="{}"),
    ]
    assert events[-1] == Stop(reason="tool_use")


@pytest.mark.parametrize("size", [1, 7])
async def test_it_does_not_matter_how_the_network_splits_an_answer(
    upstream: Any, server: Any, size: int
) -> None:
    text = sse(delta(content="é"), delta(content="\U0001f600"), delta("stop")).replace("\n", "\r\n")
    data = b": hi\r\n" + text.encode()
    server.reply(Reply([data[start : start + size] for start in range(0, len(data), size)]))
    events = await upstream.events(upstream.model(server.url))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "é\U0001f600"


async def test_a_chunk_that_is_none_is_left_out_and_told_to_the_log(
    upstream: Any, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = "data: {broken " + "x" * 1000 + "\n\ndata: [1]\n\n"
    server.reply(Reply([broken, sse(delta(content="a"), delta("stop"))]))
    events = await upstream.events(upstream.model(server.url))
    assert events == [TextDelta(text="a"), Stop(reason="end_turn")]
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "chunk 1 of a server was not understood: {broken " + "x" * 248
    assert second == "chunk 2 of a server was not understood: [1]"


async def test_of_many_chunks_that_are_none_only_the_first_are_told_to_the_log(
    upstream: Any, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply(Reply(["data: nonsense\n\n" * 1000, sse(delta(content="a"), delta("stop"))]))
    assert (await upstream.events(upstream.model(server.url)))[0] == TextDelta(text="a")
    *_, last = (record.getMessage() for record in caplog.records)
    assert (len(caplog.records), last[:9]) == (10, "chunk 10 ")


async def test_an_answer_that_is_not_streamed_becomes_events(upstream: Any, server: Any) -> None:
    message = {"role": "assistant", "content": "whole", "reasoning_content": "hm"}
    whole = {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    server.reply(Reply([json.dumps(whole)], media_type="application/json"))
    assert await upstream.events(upstream.model(server.url)) == [
        ReasoningDelta(text="hm"),
        TextDelta(text="whole"),
        UsageEvent(prompt_tokens=1, completion_tokens=2),
        Stop(reason="end_turn"),
    ]


@pytest.mark.parametrize(
    "parts",
    [
        [sse(delta(content="a"), delta("stop"))],
        [sse(delta(content="a"), delta("stop"), done=False)],
        [sse(delta(content="a"), delta("stop"), done=False), RESET],
        [sse(delta(content="a"), delta("stop"), done=False), CLOSE],
        [sse(delta(content="a"), delta("stop"), done=False).rstrip()],
        [sse(delta(content="a"), delta("stop")), STALL],
        [sse(delta(content="a"), delta("stop"), done=False), STALL],
        [sse(delta(content="a"), delta("stop")), "data: {}\n\n" * 3],
    ],
)
async def test_an_answer_is_whole_once_its_end_was_told(
    make_upstream: Any, server: Any, parts: list[Any]
) -> None:
    upstream = make_upstream(**({"idle": SHORT_S} if STALL in parts else {}))
    server.reply(Reply(parts))
    async with asyncio.timeout(5):
        events = await upstream.events(upstream.model(server.url))
    assert events[0] == TextDelta(text="a")
    assert events[1:] == [Stop(reason="end_turn")]


BROKEN = {
    "reset": ([sse(delta(content="a"), done=False), RESET], "connection_reset"),
    "cut": ([sse(delta(content="a"), done=False), CLOSE], "connection_reset"),
    "clean end": ([sse(delta(content="a"), done=False)], "connection_reset"),
    "done without a reason": ([sse(delta(content="a"))], "connection_reset"),
    "cut within an event": ([sse(delta(content="a"), delta("stop"))[:-40], CLOSE],
                            "connection_reset"),
    "stall": ([sse(delta(content="a"), done=False), STALL], "idle_stall"),
    "comments only": ([sse(delta(content="a"), done=False), *[": ping\n\n"] * 3, STALL],
                      "idle_stall"),
    "gateway": ([sse(delta(content="a"), {"error": {"code": 502}}, done=False)],
                "provider_502"),
    "given up": ([sse(delta(content="a"), delta("error"))], "connection_reset"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BROKEN))
async def test_an_answer_that_breaks_is_interrupted_with_its_cause(
    make_upstream: Any, server: Any, name: str
) -> None:
    parts, cause = BROKEN[name]
    upstream = make_upstream(**({"idle": SHORT_S} if STALL in parts else {}))
    server.reply(Reply(parts))
    failure, events = await failure_of(upstream, upstream.model(server.url))
    assert events == [TextDelta(text="a")]
    assert (failure.kind, failure.data["cause"]) == ("stream_interrupted", cause)
    await upstream.backend.close()
    async with asyncio.timeout(5):
        await server.no_connection()


@pytest.mark.parametrize("end", [RESET, CLOSE])
async def test_wherever_an_answer_is_cut_it_is_whole_or_interrupted(
    upstream: Any, server: Any, proof_count: Any, end: Any
) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": "é"}'}}
    chunks = [delta(content="aé"), delta(reasoning="hm"), delta(tool_calls=[call])]
    raw = sse(*chunks, delta("tool_calls")).encode()
    model = upstream.model(server.url)
    server.reply(Reply([raw]))
    whole = await upstream.events(model)
    for cut in range(0, len(raw), proof_count(7, 1)):  # every one, or every seventh
        server.reply(Reply([raw[:cut], end] if cut else [end]))
        failure, events = await outcome_of(upstream, model)
        if failure is None:
            assert cut >= raw.index(b"[DONE]") - len("\n\ndata: ")
            assert events == whole
        else:
            assert (failure.kind, failure.data["cause"]) == (
                "stream_interrupted",
                "connection_reset",
            )
            assert events == whole[: len(events)]


async def test_an_error_event_is_an_error_whatever_it_says(upstream: Any, server: Any) -> None:
    model = upstream.model(server.url)
    server.reply(
        Reply(["event: error\ndata: it broke\n\n"]),
        Reply([sse(delta(content="a"), {"error": {"code": 403, "message": "no"}})]),
    )
    failure, _ = await failure_of(upstream, model)
    assert (failure.kind, "it broke" in failure.message) == ("provider_error", True)
    failure, events = await failure_of(upstream, model)
    assert (failure.kind, failure.data["status"]) == ("unauthorized", 403)
    assert events == [TextDelta(text="a")]


async def test_an_event_without_an_end_fills_no_memory(upstream: Any, server: Any) -> None:
    server.reply(Reply(["data: ", *["x" * 65536] * 320]))
    failure, _ = await failure_of(upstream, upstream.model(server.url))
    assert (failure.kind, "16777216 bytes" in failure.message) == ("provider_error", True)


async def test_a_line_of_ten_megabytes_is_read(upstream: Any, server: Any) -> None:
    text = "x" * 10_000_000
    server.reply(said(text))
    events = await upstream.events(upstream.model(server.url))
    assert events == [TextDelta(text=text), Stop(reason="end_turn")]


async def test_a_refusal_is_told_with_its_wait(upstream: Any, server: Any) -> None:
    server.reply(Reply(["slow down"], status=429, headers={"retry-after": "7"}))
    failure, events = await failure_of(upstream, upstream.model(server.url))
    assert events == []
    assert failure.message == "rate limited: upstream HTTP 429: slow down"
    assert (failure.data["retry_after_ms"], failure.data["status"]) == (7000, 429)


async def test_a_redirect_is_not_followed(upstream: Any, server: Any) -> None:
    server.reply(Reply(status=302, headers={"location": f"{server.url}/elsewhere"}))
    failure, _ = await failure_of(upstream, upstream.model(server.url))
    assert (failure.kind, len(server.asked)) == ("provider_error", 1)


async def test_a_refusal_whose_body_does_not_come_is_a_refusal(
    make_upstream: Any, server: Any
) -> None:
    upstream = make_upstream(first_token=1.0)
    server.reply(Reply([STALL], status=500))
    failure, _ = await failure_of(upstream, upstream.model(server.url))
    assert failure.detail == "upstream HTTP 500: <failed to read body>"


# -- time


@pytest.mark.parametrize(
    "reply", [Reply(stall=True), Reply([STALL]), Reply([": ping\n\n", sse(delta(), done=False),
              STALL])], ids=["no headers", "no body", "nothing said"],
)  # fmt: skip
async def test_an_answer_that_does_not_begin_is_a_timeout(
    make_upstream: Any, server: Any, reply: Reply
) -> None:
    upstream = make_upstream(first_token=SHORT_S)
    server.reply(reply)
    failure, _ = await failure_of(upstream, upstream.model(server.url))
    assert failure.message == "timeout: no answer began within 0.2 s"
    async with asyncio.timeout(5):
        await server.no_connection()


async def test_the_clients_own_limit_is_that_of_the_whole_answer(
    upstream: Any, server: Any
) -> None:
    server.reply(Reply([sse(delta(content="a"), done=False), STALL]))
    call = scripted_call(upstream.model(server.url))._replace(deadline_ms=150)
    with pytest.raises(CarError, match=r"no complete answer within 0\.15 s"):
        [event async for event in upstream.backend.generate(call)]


async def test_a_consumer_that_is_slow_uses_up_none_of_the_servers_time(
    upstream: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = asyncio.Event()
    ending = sse(delta(content="b"), delta("stop"))
    server.reply(Reply([sse(delta(content="a"), done=False), more, ending]))
    events = upstream.backend.generate(scripted_call(upstream.model(server.url)))
    assert await anext(events) == TextDelta(text="a")
    now = asyncio.get_running_loop().time
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now() + 3600)
    ended = asyncio.create_task(anext(events))
    for _ in range(10):  # a limit that an hour has used up would end it here
        await asyncio.sleep(0)
    more.set()
    assert await ended == TextDelta(text="b")
    assert [event async for event in events] == [Stop(reason="end_turn")]


@pytest.mark.parametrize(
    ("upstream_model", "params", "idle_s"),
    [
        ("gpt", {}, 60),
        ("gpt", {"reasoning_effort": "low"}, 120),
        ("o3-mini", {}, 120),
        ("openai/o1", {}, 120),
        ("qwen3-Thinking", {}, 120),
        ("foo3", {}, 60),
    ],
)
def test_models_that_think_long_may_pause_longer(
    upstream: Any, upstream_model: str, params: Any, idle_s: float
) -> None:
    call = scripted_call(upstream.model("http://x"), params=params)
    assert upstream.backend._timeouts_of(call, upstream_model).idle == idle_s


async def test_a_server_that_is_not_there_is_named_as_the_reason(upstream: Any) -> None:
    failure, _ = await failure_of(upstream, upstream.model("http://127.0.0.1:1"))
    assert failure.kind == "provider_error"
    assert failure.detail.startswith("transport: ")


async def test_a_server_that_hangs_up_is_a_failure_of_transport(upstream: Any, server: Any) -> None:
    server.reply(Reply([CLOSE]), Reply([RESET]))
    for _ in range(2):
        failure, _ = await failure_of(upstream, upstream.model(server.url))
        assert failure.kind in ("stream_interrupted", "provider_error")
        assert failure.retryable


# -- promises


@pytest.mark.parametrize(
    ("reply", "request_members", "kept"),
    [
        (said("no call"), {"tools": [TOOL], "params": {"tool_choice": "required"}}, False),
        (Reply([sse(delta(content="x"), delta("length"))]),
         {"tools": [TOOL], "params": {"tool_choice": "f"}}, True),
        (Reply([sse(delta(tool_calls=[{"id": "c", "function": {"name": "f"}}]), delta("stop"))]),
         {"tools": [TOOL], "params": {"tool_choice": "required"}}, True),
        (said("no json"), {"response_format": {"type": "json_object"}}, False),
        (said('{"a":', "1}"), {"response_format": {"type": "json_object"}}, True),
        (Reply([sse(delta(content='{"a"'), delta("length"))]),
         {"response_format": {"type": "json_schema", "schema": {}}}, True),
    ],
)  # fmt: skip
async def test_an_answer_in_another_form_than_promised_does_not_pass_for_one(
    upstream: Any, server: Any, reply: Reply, request_members: Any, kept: bool
) -> None:
    server.reply(reply)
    model = upstream.model(server.url)
    if kept:
        assert await upstream.events(model, **request_members)
        return
    failure, _ = await failure_of(upstream, model, **request_members)
    assert (failure.kind, "ignored" in failure.message) == ("unsupported_mode", True)


# -- embeddings


def vectors(*rows: Any, **usage: int) -> Reply:
    data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
    body = json.dumps({"data": data[::-1], "usage": usage})
    return Reply([body], media_type="application/json")


async def test_embeddings_are_of_unit_length_and_in_order(upstream: Any, server: Any) -> None:
    packed = base64.b64encode(array("f", [0, -2]).tobytes()).decode()
    server.reply(vectors([3, 4], packed, [0, 0], prompt_tokens=5))
    batch = await upstream.backend.embed(upstream.model(server.url), ["a", "b", "c"])
    assert (batch.dimensions, batch.prompt_tokens) == (2, 5)
    expected = [0.6, 0.8, 0, -1, 0, 0]
    assert all(map(math.isclose, array("f", batch.data), array("f", expected)))
    (asked,) = server.asked
    assert (asked.path, asked.body) == (
        "/v1/embeddings",
        {"model": "gpt", "input": ["a", "b", "c"]},
    )


async def test_many_texts_are_embedded_in_batches(upstream: Any, server: Any) -> None:
    server.reply(vectors(*[[1]] * 256, prompt_tokens=2), vectors(*[[-1]] * 3, prompt_tokens=1))
    batch = await upstream.backend.embed(upstream.model(server.url), ["x"] * 259)
    assert array("f", batch.data).tolist() == [1] * 256 + [-1] * 3
    assert batch.prompt_tokens == 3
    assert (await upstream.backend.embed(upstream.model(server.url), [])).data == b""
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "reply",
    [
        vectors([1]),
        vectors([1], [1, 2]),
        vectors([], []),
        vectors([[1]], [[1]]),
        vectors("not base64!", "x"),
        vectors([1e308, 1e308], [1, 1]),
        Reply(["{}"], media_type="application/json"),
        Reply(["nonsense"], media_type="application/json"),
    ],
)
async def test_vectors_that_do_not_fit_the_texts_are_refused(
    upstream: Any, server: Any, reply: Reply
) -> None:
    server.reply(reply)
    with pytest.raises(CarError) as caught:
        await upstream.backend.embed(upstream.model(server.url), ["a", "b"])
    assert caught.value.kind == "provider_error"


async def test_tokens_are_refused_by_name(upstream: Any) -> None:
    refusal = "tokenize/detokenize not implemented on backend remote"
    with pytest.raises(CarError, match=refusal):
        await upstream.backend.tokenize(upstream.model("http://x"), "a")
    with pytest.raises(CarError, match=refusal):
        await upstream.backend.detokenize(upstream.model("http://x"), [1])
