"""Requests that were recorded, made without a process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from car_rpc.cassette.interaction import Asked, Interaction
from car_rpc.cassette.lines import Captured, interaction
from car_rpc.cassette.requests import normalised
from car_rpc.errors import CarError
from car_rpc.eventlog.shapes import KNOWN
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.methods import METHODS

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def result(text: str = "") -> dict[str, Any]:
    """What `generate` answers."""
    return {"text": text, "tool_calls": [], "trace_id": "tr_1", "model_used": "a/b:1"}


class Recorder:
    """Records requests; each has a trace of its own."""

    def __init__(self) -> None:
        self.count = 0

    def asked(self, method: str, params: object) -> Asked:
        raw = msgspec.json.encode(params)
        return Asked(method, normalised(raw, METHODS[method].params, lambda _: None))

    def __call__(
        self,
        method: str,
        params: object,
        answer: object = None,
        events: Sequence[tuple[float, StreamEvent]] = (),
        answered_ms: float = 5.0,
    ) -> Interaction:
        self.count += 1
        captured = Captured(
            request_id=self.count,
            asked=self.asked(method, params),
            started=NOON,
            events=events,
            answer=answer if isinstance(answer, CarError) else msgspec.json.encode(answer),
            answered_ms=answered_ms,
        )
        return interaction(captured, "ses_1", f"tr_{self.count}", KNOWN)


@pytest.fixture
def record() -> Any:
    return Recorder()
