"""The events of one request on their way to the client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from car_rpc.errors import CarError
from car_rpc.protocol.messages import write_notification
from car_rpc.wire.base import RequestId
from car_rpc.wire.events import Done, ErrorEvent, StreamEvent

#: What there is of a ``generate`` that was cancelled before it began.
NOTHING: dict[str, Any] = {"text": "", "tool_calls": [], "usage": None}

_encode = msgspec.json.Encoder().encode


class Stream:
    """Numbers events and sends them as ``generate.event``.

    Args:
        request_id: The request that they belong to.
        put: Queues a notification; tells whether there is room for another one.
        room: Waits until there is room.
        client_ref: The client's own reference to the request.
    """

    def __init__(
        self,
        request_id: RequestId,
        put: Callable[[bytes], bool],
        room: Callable[[], Awaitable[None]],
        client_ref: str | UnsetType,
    ) -> None:
        self._room = room
        self._put = put
        # What all notifications have in common, up to `seq`.
        named: dict[str, RequestId] = {"request_id": request_id}
        if client_ref is not UNSET:
            named["client_ref"] = client_ref
        common = write_notification("generate.event", _encode(named))
        self._head = common.removesuffix(b"}}") + b',"seq":'
        self._seq = 0
        self._ended = False

    def send(self, event: StreamEvent) -> bool:
        """Send an event; tells whether there is room for another one."""
        seq = _encode(self._seq)
        self._seq += 1
        self._ended = isinstance(event, Done | ErrorEvent)
        return self._put(b"".join((self._head, seq, b',"event":', _encode(event), b"}}")))

    async def room(self) -> None:
        """Wait until there is room."""
        await self._room()

    def fail(self, error: CarError) -> None:
        """End the stream with an error, unless it has ended."""
        if not self._ended:
            self.send(ErrorEvent(kind=error.kind, message=error.message))


class _Wanted(Struct, frozen=True):
    """What parameters say of a stream, whatever else is wrong with them."""

    stream: Any = False
    client_ref: Any = UNSET


def wanted_stream(raw_params: bytes) -> tuple[bool, str | UnsetType]:
    """Whether a ``generate`` that has not begun asked for events, and its ``client_ref``."""
    try:
        wanted = msgspec.json.decode(raw_params, type=_Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False, UNSET
    client_ref = wanted.client_ref
    return wanted.stream is True, client_ref if isinstance(client_ref, str) else UNSET
