"""Our backend and the official client, side by side against real servers."""

import asyncio
import json
import math
from array import array
from typing import Any

import msgspec
import openai
import pytest
from msgspec import UNSET

from car_rpc.backends.openai_compat.backend import OpenAICompatBackend
from car_rpc.backends.openai_compat.discovery import Discovery, DiscoveryPolicy
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.testing import check_backend, scripted_call
from car_rpc.wire.events import Recovery, TextDelta
from car_rpc.wire.models import ModelsDiscoverParams
from tests.backends.openai_compat.conftest import Stream
from tests.servers.proxy import Fault, FaultProxy, Plan
from tests.servers.real import RealServer

pytestmark = [pytest.mark.llama, pytest.mark.process, pytest.mark.timeout(180)]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]

#: Requests in OpenAI's form, with what our own form calls the same.
REQUESTS: dict[str, dict[str, Any]] = {
    "greeting": {"messages": [{"role": "user", "content": "Hello!"}]},
    "conversation": {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": "Hello! How can I help you?"},
            {"role": "user", "content": "What is the capital of France?"},
        ]
    },
    "cut": {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 7},
    "stop string": {"messages": [{"role": "user", "content": "Hello!"}], "stop": ["help"]},
    "tool": {"messages": ASK_WEATHER, "tools": [WEATHER]},
    "result of a tool": {
        "messages": [
            *ASK_WEATHER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "c1", "type": "function",
                     "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": '{"weather": "sunny"}'},
        ],
        "tools": [WEATHER],
    },
}  # fmt: skip
REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


def our_request(request: dict[str, Any]) -> dict[str, Any]:
    """A request in our form."""
    ours = {name: value for name, value in request.items() if name in ("messages", "tools")}
    params = {name: value for name, value in request.items() if name not in ours}
    messages = [dict(message) for message in request["messages"]]
    for message in messages:
        if "tool_calls" in message:
            message["tool_calls"] = [
                {"id": "c1", "name": "get_weather", "arguments": {"city": "Paris"}}
            ]
    return {**ours, "messages": messages, "params": {"temperature": 0, **params}}


def call_of(model: Any, request: dict[str, Any]) -> Any:
    call = scripted_call(model, **our_request(request))
    return call._replace(request=msgspec.structs.replace(call.request, prompt=UNSET))


async def ask_us(backend: OpenAICompatBackend, model: Any, request: Any) -> dict[str, Any]:
    accumulator = Accumulator()
    async for event in backend.generate(call_of(model, request)):
        accumulator.push(event)
    accumulator.close()
    usage = accumulator.usage
    return {
        "text": accumulator.text,
        "reasoning": accumulator.reasoning,
        "calls": [(call.name, call.arguments) for call in accumulator.tool_calls()],
        "stop": accumulator.stop_reason,
        "usage": usage and (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
    }


async def ask_them(url: str, model: str, request: Any, *, stream: bool) -> dict[str, Any]:
    """The official client's answer, in the same terms."""
    ask: dict[str, Any] = {"model": model, "temperature": 0, **request}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        if not stream:
            whole = await client.chat.completions.create(**ask)
            parts, usage = [(whole.choices[0].message, whole.choices[0].finish_reason)], whole.usage
        else:
            parts, usage = [], None
            ask |= {"stream": True, "stream_options": {"include_usage": True}}
            async for chunk in await client.chat.completions.create(**ask):
                parts += [(choice.delta, choice.finish_reason) for choice in chunk.choices]
                usage = chunk.usage or usage
    calls: dict[int, list[str]] = {}
    for part, _ in parts:
        for number, call in enumerate(part.tool_calls or []):
            known = calls.setdefault(getattr(call, "index", number), ["", ""])
            known[0] = call.function.name or known[0]
            known[1] += call.function.arguments or ""
    reasons = [reason for _, reason in parts if reason]
    text = "".join(part.content or "" for part, _ in parts)
    reasoning = "".join(getattr(part, "reasoning", None) or "" for part, _ in parts)
    stop = "tool_use" if calls else REASONS[reasons[-1]]
    return {
        "text": text,
        "reasoning": reasoning,
        "calls": [(name, json.loads(arguments)) for name, arguments in calls.values()],
        "stop": "thinking_truncated" if reasoning and not text and stop == "max_tokens" else stop,
        "usage": usage and (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
    }


@pytest.mark.parametrize("name", list(REQUESTS))
async def test_we_get_what_the_official_client_gets(
    upstream: Any, real: RealServer, name: str
) -> None:
    ours = await ask_us(upstream.backend, upstream.model(real.url, real.model), REQUESTS[name])
    streamed = await ask_them(real.url, real.model, REQUESTS[name], stream=True)
    assert ours == streamed
    assert ours["text"] or ours["reasoning"] or ours["calls"]
    whole = await ask_them(real.url, real.model, REQUESTS[name], stream=False)
    assert (ours["text"], ours["calls"]) == (whole["text"], whole["calls"])
    if ours["usage"] is not None:  # llama-cpp-python's server tells none in streams
        assert ours["usage"] == whole["usage"]


async def test_a_call_that_is_demanded_is_made(upstream: Any, llama_server: RealServer) -> None:
    request = {"messages": ASK_WEATHER, "tools": [WEATHER], "tool_choice": FORCED}
    model = upstream.model(llama_server.url, llama_server.model)
    ours = await ask_us(upstream.backend, model, {**request, "max_tokens": 60})
    assert ours["calls"] == [("get_weather", {"city": "Paris"})]
    assert ours == await ask_them(
        llama_server.url, llama_server.model, {**request, "max_tokens": 60}, stream=True
    )


async def test_a_call_that_the_server_does_not_enforce_is_not_pretended(
    upstream: Any, mlx_server: RealServer
) -> None:
    hello = [{"role": "user", "content": "Hello!"}]
    request = {"messages": hello, "tools": [WEATHER], "tool_choice": FORCED}
    with pytest.raises(CarError) as caught:
        await ask_us(upstream.backend, upstream.model(mlx_server.url, mlx_server.model), request)
    assert caught.value.kind == "unsupported_mode"


async def test_thinking_can_be_switched_off_where_the_server_can(
    upstream: Any, mlx_server: RealServer
) -> None:
    model = upstream.model(mlx_server.url, mlx_server.model)
    request = {"messages": [{"role": "user", "content": "Hello!"}], "thinking": "off"}
    ours = await ask_us(upstream.backend, model, request)
    assert (ours["text"].strip(), ours["reasoning"]) == ("Hello! How can I help you?", "")


async def test_a_real_server_serves_everything_that_the_engine_relies_on(
    upstream: Any, real: RealServer
) -> None:
    model = upstream.model(real.url, real.model)
    await check_backend(upstream.backend, model, params={"max_tokens": 24, "temperature": 0})


async def test_a_real_refusal_is_typed(upstream: Any, mlx_server: RealServer) -> None:
    missing = upstream.model(mlx_server.url, "no/such-model")
    request = {"messages": [{"role": "user", "content": "Hello!"}]}
    with pytest.raises(CarError) as caught:
        await ask_us(upstream.backend, missing, request)
    assert (caught.value.kind, caught.value.data["status"]) == ("model_not_found", 404)


async def test_we_get_the_vectors_that_the_official_client_gets(
    upstream: Any, open_server: RealServer
) -> None:
    texts = ["Hello!", "The cat sleeps.", "What is the capital of France?"]
    model = upstream.model(open_server.url, open_server.model)
    ours = await upstream.backend.embed(model, texts)
    async with openai.AsyncOpenAI(base_url=f"{open_server.url}/v1", api_key="none") as client:
        theirs = await client.embeddings.create(model=open_server.model, input=texts)
    assert ours.prompt_tokens == theirs.usage.prompt_tokens > 0
    rows = array("f", ours.data)
    for position, each in enumerate(theirs.data):
        length = math.hypot(*each.embedding)
        row = rows[position * ours.dimensions : (position + 1) * ours.dimensions]
        assert row.tolist() == pytest.approx([x / length for x in each.embedding], abs=1e-6)


# -- faults in front of a real server

FAULTS = {
    "reset before the headers": (Plan(Fault.RESET), "provider_error", None),
    "reset within the headers": (Plan(Fault.RESET, 20), "provider_error", None),
    "reset within the answer": (Plan(Fault.RESET, 2000), "stream_interrupted", "connection_reset"),
    "end before the headers": (Plan(Fault.TRUNCATE), "provider_error", None),
    "end within the answer": (Plan(Fault.TRUNCATE, 2000), "stream_interrupted", "connection_reset"),
    "no headers": (Plan(Fault.STALL), "timeout", None),
    "slow headers": (Plan(Fault.SLOW_HEADERS), None, None),
    "stall within the answer": (Plan(Fault.STALL, 2000), "stream_interrupted", "idle_stall"),
    "rate limit": (Plan(Fault.RATE_LIMIT), "rate_limited", None),
    "bad gateway within the answer": (
        Plan(Fault.BAD_GATEWAY, 2000), "stream_interrupted", "provider_502"),
    "farewell within the answer": (Plan(Fault.GOAWAY, 2000), "stream_interrupted", "goaway"),
    "refusal within the answer": (Plan(Fault.FORBIDDEN, 2000), "unauthorized", None),
}  # fmt: skip
#: Its answer is longer than any fault leaves of it.
STORY = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 20}


@pytest.mark.parametrize("name", list(FAULTS))
async def test_a_fault_in_front_of_a_real_server_is_one_typed_error_or_none(
    make_upstream: Any, real: RealServer, name: str
) -> None:
    plan, kind, cause = FAULTS[name]
    limits = {"first_token": 0.3} if kind == "timeout" else {}
    upstream = make_upstream(**limits, **({"idle": 0.3} if cause == "idle_stall" else {}))
    tasks = asyncio.all_tasks()
    async with asyncio.timeout(60), FaultProxy("127.0.0.1", real.port).running() as proxy:
        model = upstream.model(proxy.url, real.model)
        proxy.plan(plan)
        if kind is None:
            assert (await ask_us(upstream.backend, model, STORY))["text"]
            await upstream.backend.close()
        else:
            with pytest.raises(CarError) as caught:
                await ask_us(upstream.backend, model, STORY)
            assert (caught.value.kind, caught.value.data.get("cause")) == (kind, cause)
            if kind == "rate_limited":
                assert caught.value.data["retry_after_ms"] == 7000
        await proxy.no_connection()
        patient = make_upstream().backend
        assert (await ask_us(patient, model, STORY))["stop"] in ("max_tokens", "end_turn")
        await patient.close()
        await upstream.backend.close()
    assert asyncio.all_tasks() == tasks


# -- recovery, by the engine


async def test_a_server_that_continues_turns_goes_on_from_the_exact_beginning(
    upstream: Any, open_server: RealServer, make_world: Any
) -> None:
    request = {"prompt": "What is the capital of France?", "params": {"temperature": 0}}
    async with FaultProxy("127.0.0.1", open_server.port).running() as proxy:
        model = upstream.model(proxy.url, open_server.model, prefill="assistant_turn")
        uncut = await make_world(upstream.backend, model).generate(Stream(), **request)
        continued = 0
        for after_bytes in range(4000, 5200, 200):
            proxy.plan(Plan(Fault.RESET, after_bytes))
            stream = Stream()
            result = await make_world(upstream.backend, model).generate(stream, **request)
            assert result.text == stream.text == uncut.text
            continued += [event.plan for event in stream.of_type(Recovery)] == ["continue_text"]
        await upstream.backend.close()
    assert continued >= 4


async def test_a_server_is_found_and_its_model_answers(upstream: Any, real: RealServer) -> None:
    finder = Discovery(upstream.backend.presence, DiscoveryPolicy(), {})
    asked = ModelsDiscoverParams(endpoints=[real.url], timeout_ms=30_000)
    (found,) = (await finder.run(asked)).servers
    is_llama = real.model == "tiny"
    assert found.reason is UNSET
    assert found.kind == ("llama_cpp_python" if is_llama else "mlx_lm")
    name = "llama-cpp-python/tiny" if is_llama else "mlx-lm/mlx"
    (model,) = (each for each in finder.models() if each.id == f"{name}:{real.port}")
    events = await upstream.events(model, prompt="Hello!", params={"temperature": 0})
    assert any(isinstance(event, TextDelta) for event in events)
