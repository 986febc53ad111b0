"""The scripted model: a deterministic double for an app's own tests and for benchmarks.

It plays its script inside the core. A script that prints or crashes has to run in a worker
process; :func:`needs_worker` tells which.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from msgspec import UNSET

from car_rpc.backends.promises import held_to
from car_rpc.backends.unsupported import GenerateOnly
from car_rpc.engine.ports import Availability, GenerateCall
from car_rpc.errors import KINDS, CarError
from car_rpc.wire import script as fake_script
from car_rpc.wire.content import Message
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import FakeSource, ModelSchema, ScriptedFailure, ScriptStep

#: Events that are sent between two turns of the event loop, so that a flood of scripted events
#: never holds up a cancel or a ping.
EVENTS_PER_TURN = 64

_THERE = Availability(available=True, weights_ready=True)


def needs_worker(script: Sequence[ScriptStep]) -> bool:
    """Whether a script does what must not happen inside the core."""
    return any(step.print is not UNSET or step.crash is not UNSET for step in script)


class FakeBackend(GenerateOnly):
    """Plays scripts inside the core."""

    def __init__(self) -> None:
        super().__init__("fake", "a scripted model only generates", remote=False)

    def availability(self, model: ModelSchema) -> Availability:
        """A script is always there."""
        return _THERE

    def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        """Play the model's script for one request."""
        return held_to(call.request, "fake", self._played(call))

    async def _played(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        source = call.model.source
        script = source.script if isinstance(source, FakeSource) else []
        sent = 0
        for action in fake_script.expand(script, last_user_text(call.request)):
            match action:
                case fake_script.Emit():
                    yield action.event
                    sent += 1
                    if sent % EVENTS_PER_TURN == 0:
                        await asyncio.sleep(0)
                case fake_script.Sleep():
                    await asyncio.sleep(action.ms / 1000)
                case fake_script.Fail():
                    raise failure_of(action.failure)
                case _:
                    await asyncio.Event().wait()


def last_user_text(request: GenerateRequest) -> str:
    """What ``echo`` repeats: the prompt, else the last user turn."""
    if isinstance(request.prompt, str):
        return request.prompt
    messages: list[Message] = request.messages if isinstance(request.messages, list) else []
    return fake_script.last_user_text(messages)


def failure_of(failure: ScriptedFailure) -> CarError:
    """The error that a script asks for; an unknown kind becomes ``inference_failed``."""
    kind = failure.kind if failure.kind in KINDS else "inference_failed"
    data = {
        name: value
        for name in ("status", "retry_after_ms")
        if (value := getattr(failure, name)) is not UNSET
    }
    return CarError(kind, failure.message, **data)
