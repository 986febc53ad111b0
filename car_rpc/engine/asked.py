"""What a client asked, and the same with something added. Pure.

The client's own JSON is patched, so that whoever forwards it (a runner, a server) gets all that
the client had put there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from car_rpc.errors import CarError
from car_rpc.wire.base import RequestId, decode_object
from car_rpc.wire.inference import GenerateRequest


class Asked(NamedTuple):
    """What was asked.

    Attributes:
        request: The typed request.
        raw: The client's own JSON of it.
        request_id: The client's id of it.
        deadline_ms: When its time is up, by the clock; ``None`` for never.
        task: What models are asked for, as their profiles call it.
    """

    request: GenerateRequest
    raw: bytes
    request_id: RequestId
    deadline_ms: float | None
    task: str = "generate"

    def time_left_ms(self, now_ms: float) -> int | None:
        """Whole milliseconds until its time is up, at least one; ``None`` for any."""
        return None if self.deadline_ms is None else max(1, round(self.deadline_ms - now_ms))

    def stopped(self, now_ms: float, *, model_is_due: bool) -> CarError:
        """What it means that an attempt was stopped from outside.

        A model that used up all the time has failed. One whose client did not read has not.

        Args:
            now_ms: When that was, by the clock.
            model_is_due: Whether the model had to say something next, and not we.
        """
        if self.deadline_ms is None or now_ms < self.deadline_ms:
            return CarError("cancelled")
        return CarError("timeout", retryable=model_is_due)

    def members(self) -> dict[str, Any]:
        """The client's own JSON, to be changed and given to :meth:`reworded`."""
        return decode_object(self.raw)

    def reworded(self, members: dict[str, Any]) -> Asked:
        """The same with another JSON object."""
        raw = msgspec.json.encode(members)
        return self._replace(request=msgspec.json.decode(raw, type=GenerateRequest), raw=raw)

    def with_params(self, **params: Any) -> Asked:
        """The same with members of ``params`` set."""
        members = self.members()
        return self.reworded({**members, "params": {**(members.get("params") or {}), **params}})
