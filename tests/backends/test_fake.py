import asyncio
from typing import Any

import pytest

from car_rpc.backends.fake import EVENTS_PER_TURN, FakeBackend, needs_worker
from car_rpc.errors import CarError
from car_rpc.testing import scripted_call, scripted_model
from car_rpc.wire.events import Stop, TextDelta
from car_rpc.wire.models import FakeSource

MESSAGES = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]


async def played(*steps: dict[str, Any], **request: Any) -> list[Any]:
    call = scripted_call(scripted_model("a/b:c", steps), **request)
    return [event async for event in FakeBackend().generate(call)]


@pytest.mark.parametrize(
    ("request_fields", "text"),
    [({"prompt": "hi"}, "hi"), ({"prompt": "hi", "messages": MESSAGES}, "hi")],
)
async def test_an_echo_repeats_the_prompt(request_fields: dict[str, Any], text: str) -> None:
    assert await played({"echo": True}, **request_fields) == [
        TextDelta(text=text),
        Stop(reason="end_turn"),
    ]


async def test_a_failure_of_a_script_is_the_error_it_names() -> None:
    for kind, expected in (("rate_limited", "rate_limited"), ("invented", "inference_failed")):
        fail = {"fail": {"kind": kind, "message": "m", "retry_after_ms": 5}}
        with pytest.raises(CarError) as caught:
            await played(fail)
        assert (caught.value.kind, caught.value.extra) == (expected, {"retry_after_ms": 5})


async def test_a_flood_of_events_lets_others_have_their_turn() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    flood = {"emit": {"type": "text_delta", "text": "x"}, "repeat": 10 * EVENTS_PER_TURN}
    await played({"sleep_ms": 0}, flood)
    counting.cancel()
    assert turns >= 10


def test_scripts_that_print_or_crash_belong_into_a_process_of_their_own() -> None:
    def wants_worker(step: dict[str, Any]) -> bool:
        source = scripted_model("a/b:c", [{"echo": True}, step]).source
        assert isinstance(source, FakeSource)
        return needs_worker(source.script)

    assert wants_worker({"print": "x"})
    assert wants_worker({"crash": True})
    assert not wants_worker({"stall": True})


async def test_a_scripted_model_has_no_tokens_and_no_vectors() -> None:
    backend, model = FakeBackend(), scripted_model("a/b:c", [])
    for work in (backend.tokenize(model, "x"), backend.detokenize(model, [1])):
        with pytest.raises(CarError, match="a scripted model only generates"):
            await work
    with pytest.raises(CarError, match="mode embed not implemented on backend fake"):
        await backend.embed(model, ["x"])
