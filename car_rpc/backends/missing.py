"""What answers for models whose engine is not part of this installation."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from msgspec import UNSET

from car_rpc.backends.unsupported import GenerateOnly
from car_rpc.engine.ports import Availability, GenerateCall
from car_rpc.errors import unsupported_mode
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.models import ModelSchema


class MissingBackend(GenerateOnly):
    """Refuses everything.

    Args:
        name: Name of the engine that is missing.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "this engine is not built yet; use a GGUF model")

    def availability(self, model: ModelSchema) -> Availability:
        """Never available; the weights may be there all the same."""
        path = getattr(model.source, "path", UNSET)
        try:
            ready = isinstance(path, str) and Path(path).exists()
        except OSError:  # such as a name that is too long
            ready = False
        return Availability(available=False, weights_ready=ready)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        """Always refuses."""
        raise unsupported_mode("generate", self._name, self._reason)
        yield  # an async generator that ends before its first event
