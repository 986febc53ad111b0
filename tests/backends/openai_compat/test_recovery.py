"""A stream that is cut anywhere, with each cause, ends as the one whole answer."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from msgspec import UNSET

from car_rpc.engine.interruption import CONTINUE_PROMPT
from car_rpc.wire.events import Recovery
from tests.backends.openai_compat.conftest import Stream
from tests.servers.scripted import CLOSE, RESET, STALL, Asked, Reply, delta

TEXT = (
    "The quick brown füx jumps over the lazy dog, \n and then sleeps \U0001f98a under the oak tree."
)
REASONING = "They want a tale."
CALL = {"id": "c1", "function": {"name": "look", "arguments": '{"at": "the tree"}'}}

#: How often a repeating server says the end of the text again, in characters.
REPEATED = 40


def raw(*chunks: Any) -> bytes:
    """Server-sent events with characters of several bytes in them, as servers send them."""
    events = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    return "".join([*events, "data: [DONE]\n\n"]).encode()


def pieces(text: str) -> Sequence[str]:
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def answer_from(said: int | None, *, with_more: bool) -> bytes:
    """The answer behind so many characters of it; with reasoning before it and a call after it."""
    chunks = [delta(content=piece) for piece in pieces(TEXT[said or 0 :])]
    if not with_more:
        return raw(*chunks, delta("stop"))
    before = [] if said is not None else [delta(reasoning=piece) for piece in pieces(REASONING)]
    name, arguments = CALL["function"]["name"], pieces(CALL["function"]["arguments"])
    begun = {"index": 0, "id": "c1", "function": {"name": name, "arguments": ""}}
    parts = [{"index": 0, "function": {"arguments": part}} for part in arguments]
    calls = [delta(tool_calls=[each]) for each in (begun, *parts)]
    return raw(*before, *chunks, *calls, delta("tool_calls"))


def said_so_far(body: Any, *, repeats: bool) -> int | None:
    """Up to where a server takes the answer as said; ``None`` when it was given no beginning."""
    *_, before, last = [{}, *body["messages"]]
    if last["role"] == "assistant":
        assert body["continue_final_message"] is True
        assert body["add_generation_prompt"] is False
        assert TEXT.startswith(last["content"])
        return len(last["content"])
    if last["content"] == CONTINUE_PROMPT:
        return max(0, len(before["content"]) - (REPEATED if repeats else 0))
    return None


CAUSES: dict[str, list[Any]] = {
    "reset": [RESET],
    "close": [CLOSE],
    "clean end": [],
    "stall": [STALL],
    "502": ['\n\ndata: {"error": {"code": 502, "message": "bad gateway"}}\n\n'],
    "goaway": ['\n\ndata: {"error": {"message": "http2: server sent GOAWAY"}}\n\n'],
}


@pytest.fixture
async def pass_over_stalls(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[None, None]:
    """Lets two minutes go by whenever the server has come to a stall."""
    now, passed_s = asyncio.get_running_loop().time, 0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now() + passed_s)

    async def watch() -> None:
        nonlocal passed_s
        while True:
            await server.stalled.wait()
            server.stalled.clear()
            # What came before the stall is read first; then it is the server that is silent.
            for _ in range(10):
                await asyncio.sleep(0)
            passed_s += 120

    watching = asyncio.create_task(watch())
    yield
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cause", list(CAUSES))
@pytest.mark.parametrize("with_more", [False, True], ids=["text", "reasoning, text and a call"])
@pytest.mark.parametrize("upstream_is", ["exact", "asked", "repeating"])
@pytest.mark.usefixtures("pass_over_stalls")
async def test_wherever_and_however_an_answer_is_cut_the_client_gets_the_whole_one(
    upstream: Any, server: Any, make_world: Any, proof_count: Callable[[int, int], int],
    cause: str, with_more: bool, upstream_is: str,
) -> None:  # fmt: skip
    prefill = {"prefill": "continue_final_message"} if upstream_is == "exact" else {}
    model = upstream.model(server.url, **prefill)
    uncut = answer_from(None, with_more=with_more)
    for cut in range(0, len(uncut) + 1, proof_count(211, 1)):
        world, stream, asked = make_world(upstream.backend, model), Stream(), 0

        def choose(request: Asked, cut: int = cut) -> Reply:
            nonlocal asked
            asked += 1
            if asked == 1:
                return Reply([part for part in (uncut[:cut], *CAUSES[cause]) if part])
            said = said_so_far(request.body, repeats=upstream_is == "repeating")
            return Reply([answer_from(said, with_more=with_more)])

        server.answer(choose)
        result = await world.generate(stream, prompt="A tale, please.", model=model.id)
        where = f"cut behind byte {cut}"
        assert result.text == stream.text == TEXT, where
        calls = [(call.id, call.name, call.arguments) for call in result.tool_calls]
        assert calls == ([("c1", "look", {"at": "the tree"})] if with_more else []), where
        assert result.stop_reason == ("tool_use" if with_more else "end_turn"), where
        assert not with_more or result.reasoning == REASONING, where
        assert len(stream.last) == 1, where
        removed = [event.overlap_removed for event in stream.of_type(Recovery)]
        assert upstream_is == "repeating" or removed in ([], [UNSET]), where
