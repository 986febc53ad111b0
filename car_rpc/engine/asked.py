"""What a client asked, and the same with something added. Pure.

The client's own JSON is patched, so that whoever forwards it (a runner, a server) gets all that
the client had put there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

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
        others_wait: Whether whoever asks has other models to ask when this fails.
    """

    request: GenerateRequest
    raw: bytes
    request_id: RequestId
    deadline_ms: float | None
    task: str = "generate"
    others_wait: bool = False

    def is_late(self, now_ms: float) -> bool:
        """Whether its time is up."""
        return self.deadline_ms is not None and now_ms >= self.deadline_ms

    def time_left_ms(self, now_ms: float) -> int | None:
        """Milliseconds until its time is up, at least 1; ``None`` for no limit."""
        return None if self.deadline_ms is None else max(1, round(self.deadline_ms - now_ms))

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
