"""The main job, before your eyes: a program spawns car-rpc and uses everything at once.

It streams text from a real local model, lets it call a tool, embeds, answers a cloud model
itself, cancels in the middle, and leaves no process behind. After `make setup`:

    .venv/bin/python examples/python-client/main.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence

import anyio

from car_rpc.client import CarClient, GenerateStream, RemoteError, RunnerRun
from car_rpc.wire.events import Attempt, Done, ReasoningDelta, TextDelta, ToolCallDelta
from car_rpc.wire.runner import RunnerResult

#: How much of an answer is read before it is cancelled, in characters.
ENOUGH_TO_SEE = 20

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


async def main() -> None:
    with tempfile.TemporaryDirectory() as state_dir:
        started = time.monotonic()
        async with CarClient.start(arguments=["--state-dir", state_dir]) as car:
            headline(f"car-rpc is up after {since(started)}, as process {car.pid}")
            await stream_text(car)
            await call_a_tool(car)
            await embed(car)
            await cancel_in_the_middle(car)
            await answer_a_cloud_model(car)
            await show_the_log(car)
            pid = car.pid
        headline("Gone: no process is left behind" if not alive(pid) else "STILL THERE")


async def stream_text(car: CarClient) -> None:
    headline("Text and reasoning, streamed from a local model in a process of its own")
    request = {"prompt": "Tell me a short story.", "params": {"temperature": 0}}
    async with car.stream(**request) as stream:
        await show(stream)
        result = await stream.result()
    assert result.usage is not None
    print(f"  {result.usage.completion_tokens} tokens in {result.latency_ms:.0f} ms")


async def call_a_tool(car: CarClient) -> None:
    headline("A tool call, and the answer once the tool has been run")
    question = {"role": "user", "content": "What is the weather in Paris?"}
    params = {"temperature": 0, "thinking": "off"}
    first = await car.generate(messages=[question], tools=[WEATHER_TOOL], params=params)
    for call in first.tool_calls:
        print(f"  the model calls {call.name}({call.arguments})")
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments}]
        turns = [
            question,
            {"role": "assistant", "content": first.text, "tool_calls": calls},
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": '{"temperature": 18, "sky": "sunny"}',
            },
        ]
        second = await car.generate(messages=turns, tools=[WEATHER_TOOL], params=params)
        print(f"  and answers: {second.text}")


async def embed(car: CarClient) -> None:
    headline("Embeddings")
    texts = ["The cat sleeps.", "The cat sleeps.", "What is the weather in Paris?"]
    result = await car.embed(texts)
    a, b, c = result.embeddings
    print(f"  {result.model_used}: {result.dimensions} dimensions")
    print(f"  similarity of equal texts {dot(a, b):.3f}, of different ones {dot(a, c):.3f}")


async def cancel_in_the_middle(car: CarClient) -> None:
    headline("A cancel in the middle: confirmed, and the model is free again")
    # It would go on and on, so that it is the cancel that ends it.
    params = {"temperature": 0, "thinking": "off", "ignore_eos": True}
    seen = ""
    async with car.stream(prompt="Tell me a short story.", params=params) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                seen += event.text
            if len(seen) >= ENOUGH_TO_SEE:
                break
        started = time.monotonic()
    try:
        await stream.result()
    except RemoteError as error:
        print(f"  answered after {since(started)}: {error.kind}, with what was there so far:")
        partial = error.data["partial"]["text"]
        assert partial.startswith(seen)
        print(f"  {partial!r}")
    result = await car.generate(prompt="Hello!", params={"temperature": 0, "thinking": "off"})
    print(f"  next answer: {result.text}")


async def answer_a_cloud_model(car: CarClient) -> None:
    headline("A cloud model: car-rpc asks this program, which owns keys and wire formats")
    model = {
        "id": "acme/large:cloud",
        "source": {"type": "delegated", "hint": "acme-large"},
        "capabilities": ["generate"],
    }
    await car.register_model(model)

    async def runner(run: RunnerRun) -> RunnerResult:
        # Here an app calls its provider's own SDK and passes on what it streams.
        for word in ("Hello ", "from ", "the ", "cloud."):
            await run.emit(TextDelta(text=word))
        return RunnerResult(stop_reason="end_turn")

    await car.register_runner(runner, name="demo")
    async with car.stream(prompt="Hello!", model="acme/large:cloud") as stream:
        await show(stream)


async def show_the_log(car: CarClient) -> None:
    headline("All of it is in the event log")
    page = await car.query_log(limit=1000)
    kinds: dict[str, int] = {}
    for event in page.events:
        kinds[event.type] = kinds.get(event.type, 0) + 1
    print("  " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))


async def show(stream: GenerateStream) -> None:
    reasoning = False
    async for event in stream:
        match event:
            case Attempt():
                print(f"  [{event.model}] ", end="")
            case ReasoningDelta():
                print(event.text if reasoning else f"(thinks: {event.text}", end="", flush=True)
                reasoning = True
            case TextDelta():
                print(") " if reasoning else "", end="")
                reasoning = False
                print(event.text, end="", flush=True)
            case ToolCallDelta():
                print(event.arguments_delta, end="", flush=True)
            case Done():
                print()
            case _:
                pass


def headline(text: str) -> None:
    print(f"\n== {text}")


def since(started: float) -> str:
    return f"{(time.monotonic() - started) * 1000:.0f} ms"


def dot(a: Sequence[float | str], b: Sequence[float | str]) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    anyio.run(main)
