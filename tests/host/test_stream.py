"""The notifications of a stream are put together in parts, and are what their type says."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.host.stream import Stream
from car_rpc.wire.events import Done, ErrorEvent, StreamEvent, TextDelta
from car_rpc.wire.inference import GenerateEventParams


class Client:
    """Takes what a stream sends, and has room for as much as a test says."""

    def __init__(self, request_id: int | str, client_ref: Any = UNSET) -> None:
        self.sent: list[bytes] = []
        self.has_room = True
        self.stream = Stream(request_id, self.put, self.room, client_ref)

    def put(self, payload: bytes) -> bool:
        self.sent.append(payload)
        return self.has_room

    async def room(self) -> None:
        self.has_room = True


@given(st.integers(-(2**53), 2**53) | st.text(), st.text() | st.just(UNSET), st.text())
def test_each_event_is_a_numbered_notification(
    request_id: int | str, client_ref: Any, text: str
) -> None:
    client = Client(request_id, client_ref)
    events: list[StreamEvent] = [TextDelta(text=text), Done(text=text, tool_calls=[])]
    for event in events:
        client.stream.send(event)
    for seq, (event, payload) in enumerate(zip(events, client.sent, strict=True)):
        params = GenerateEventParams(
            request_id=request_id, client_ref=client_ref, seq=seq, event=event
        )
        message = {"jsonrpc": "2.0", "method": "generate.event", "params": params}
        assert payload == msgspec.json.encode(message)


async def test_an_event_is_sent_also_where_there_is_no_room_for_another() -> None:
    client = Client(1)
    assert client.stream.send(TextDelta(text="a"))
    client.has_room = False
    assert not client.stream.send(TextDelta(text="b"))
    await client.stream.room()
    assert client.stream.send(TextDelta(text="c"))
    assert len(client.sent) == 3


def test_a_stream_fails_once_and_not_after_its_end() -> None:
    for last in (Done(text="", tool_calls=[]), ErrorEvent(kind="timeout", message="late")):
        client = Client(1)
        client.stream.send(last)
        client.stream.fail(CarError("cancelled"))
        assert len(client.sent) == 1
