"""The conformance suite itself: a backend that breaks a rule is caught."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import msgspec
import pytest

from car_rpc.backends.fake import FakeBackend
from car_rpc.engine.ports import Availability, EmbeddingBatch, GenerateCall, LogEntry
from car_rpc.engine.tool_calls import MAX_CALLS
from car_rpc.errors import CarError
from car_rpc.testing import FakeClock, MemorySink, check_backend, scripted_call, scripted_model
from car_rpc.wire.events import Attempt, StreamEvent, ToolCallStart
from car_rpc.wire.models import FakeSource, ModelSchema

ECHO = scripted_model("a/echo:1", [{"echo": True}])


class Misbehaving(FakeBackend):
    """A backend that is well-behaved in all but one way."""

    def __init__(self, *, fault: str) -> None:
        super().__init__()
        self._fault = fault
        self._looks = 0

    def availability(self, model: ModelSchema) -> Availability:
        self._looks += 1
        if self._fault == "unavailable":
            return Availability(available=False, weights_ready=False)
        return Availability(available=True, weights_ready=self._fault != "moody" or self._looks < 2)

    async def embed(self, model: ModelSchema, texts: Sequence[str]) -> EmbeddingBatch:
        if self._fault == "silent refusal":
            raise CarError("internal")
        if self._fault == "foreign exception":
            raise LookupError("from a library")
        return await super().embed(model, texts)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        if self._fault == "attempts of its own":
            yield Attempt(attempt=1, trace_id="t", model="m")
        if self._fault == "calls without end":
            for index in range(MAX_CALLS + 1):
                yield ToolCallStart(index=index, id="", name="f")
        if self._fault == "nothing to say":
            return
        try:
            async for event in super().generate(call):
                yield event
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._fault == "cancel becomes a failure":
                raise CarError("internal", "cancelled") from None
            raise


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("unavailable", "the model must be available"),
        ("moody", "looking at a model must change nothing"),
        ("attempts of its own", "Attempt is the engine's to send"),
        ("nothing to say", "the model must answer with some text"),
        ("silent refusal", "a refusal must say why"),
        ("cancel becomes a failure", "a cancel must come out as it went in"),
    ],
)
async def test_a_broken_rule_is_named(fault: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        await check_backend(Misbehaving(fault=fault), ECHO)


@pytest.mark.parametrize(
    ("fault", "error"), [("calls without end", CarError), ("foreign exception", LookupError)]
)
async def test_what_escapes_from_a_backend_is_shown_as_it_is(
    fault: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await check_backend(Misbehaving(fault=fault), ECHO)


async def test_a_backend_without_a_fault_passes() -> None:
    await check_backend(Misbehaving(fault=""), ECHO)


async def test_the_clock_moves_only_when_it_is_told_to() -> None:
    clock = FakeClock(5)
    assert (clock.now_ms(), clock.now_ms()) == (5, 5)
    clock.advance(7)
    assert clock.now_ms() == 12


async def test_the_sink_knows_what_is_durable() -> None:
    sink = MemorySink()
    sink.append(LogEntry("a", {}, "tr_1"))
    assert (sink.types, sink.committed_types) == (["a"], [])
    await sink.commit(LogEntry("b", {}, "tr_1"))
    sink.append(LogEntry("c", {}, "tr_1"))
    await sink.room()
    assert (sink.types, sink.committed_types) == (["a", "b", "c"], ["a", "b"])
    sink.failure = CarError("io_error", "full")
    with pytest.raises(CarError):
        await sink.commit(LogEntry("d", {}, "tr_1"))


def test_a_scripted_model_is_checked_when_it_is_made() -> None:
    source = ECHO.source
    assert isinstance(source, FakeSource)
    assert source.script[0].echo is True
    for steps in ([{"dance": True}], [{"emit": {"type": "nothing"}}], [{"sleep_ms": -1}]):
        with pytest.raises(msgspec.ValidationError):
            scripted_model("a/b:c", steps)


def test_a_scripted_call_carries_the_request_typed_and_raw() -> None:
    call = scripted_call(ECHO, prompt="hi", unknown=1)
    assert call.request.prompt == "hi"
    assert msgspec.json.decode(call.raw_request) == {"prompt": "hi", "unknown": 1}
