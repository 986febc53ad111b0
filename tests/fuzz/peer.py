"""A host of the protocol's state machine alone, and the proof that it answers a dialogue right."""

import json
from typing import Any

from car_rpc.errors import CarError
from car_rpc.protocol.connection import CancelRequested, Connection
from car_rpc.protocol.framing import Framing, wrap
from car_rpc.protocol.messages import Request
from tests.fuzz.oracle import Judge, flatten
from tests.fuzz.strategies import LIMIT, chunks, on_wire


class Peer:
    """A host of a connection that answers all but `generate` at once, and that when cancelled."""

    def __init__(self, framing: Framing) -> None:
        self.connection: Connection[None] = Connection(LIMIT, framing)
        self.framing: Framing = framing
        self.connection.step("initialize")
        self.ping("first")  # behind it a byte order mark is garbage

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive(data):
            if isinstance(event, CancelRequested):
                self.connection.respond(event.id, CarError("cancelled"))
            elif isinstance(event, Request) and event.method != "generate":
                self.connection.respond(event.id, b"{}")

    def send(self, **message: Any) -> None:
        self.receive(wrap(json.dumps({"jsonrpc": "2.0", **message}).encode(), self.framing))

    def ping(self, request_id: str) -> None:
        """Show that the connection lives, with nothing else to say."""
        self.send(id=request_id, method="ping")
        assert [m["id"] for m in self.messages()] == [request_id]

    def messages(self) -> list[Any]:
        """Everything that was written."""
        data = self.connection.take_output(1 << 30)
        if self.framing == "ndjson":
            return [json.loads(line) for line in data.split(b"\n")[:-1]]
        messages = []
        while data:
            header, _, rest = data.partition(b"\r\n\r\n")
            length = int(header.removeprefix(b"Content-Length: "))
            messages.append(json.loads(rest[:length]))
            data = rest[length:]
        return messages


def judge_dialogue(framing: Framing, dialogue: list[bytes], places: list[int]) -> None:
    peer = Peer(framing)
    judge = Judge(LIMIT, framing, exact=True)
    for payload in dialogue:
        judge.take(payload)
    for chunk in chunks(b"".join(on_wire(each, framing) for each in dialogue), places):
        peer.receive(chunk)
    for request_id in judge.end():
        peer.send(method="$/cancelRequest", params={"id": request_id})
    messages = peer.messages()
    judge.check([*flatten(messages)])
    assert [m for m in messages if isinstance(m, list) and not m] == []
    assert len(peer.connection.in_flight) == 0
    peer.ping("last")
