"""The floor: what asyncio and msgspec alone make of the same wire, with nothing kept or checked.

No framing but lines, no bound, no cancel, no event log. Whatever a server built on the same two
libraries does for its users costs time on top of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import msgspec

READ_BYTES = 64 * 1024
#: Events written between two looks at the input.
EVENTS_PER_TURN = 64


class Envelope(msgspec.Struct):
    """A request whose parameters stay raw."""

    id: int | str
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class StreamParams(msgspec.Struct):
    """Parameters of ``stream``."""

    count: int
    text: str


class Delta(msgspec.Struct, tag_field="type", tag="text_delta"):
    """An event of a stream."""

    text: str


class EventParams(msgspec.Struct):
    """Parameters of ``event``."""

    request_id: int | str
    seq: int
    event: Delta


decode = msgspec.json.Decoder(Envelope).decode
decode_stream = msgspec.json.Decoder(StreamParams).decode
encode = msgspec.json.Encoder().encode


class Floor:
    """Answers ``ping``, ``echo`` and ``stream``."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended = self.loop.create_future()
        self.buffer = bytearray()
        self.output: list[bytes] = []
        self.unwritten = memoryview(b"")
        self.tasks: set[asyncio.Task[None]] = set()
        for fd in (0, 1):
            os.set_blocking(fd, False)
        self.loop.add_reader(0, self.read)

    def read(self) -> None:
        """Answer what has come."""
        data = os.read(0, READ_BYTES)
        if not data:
            self.loop.remove_reader(0)
            self.ended.set_result(None)
            return
        self.buffer += data
        if b"\n" in data:
            *lines, self.buffer = self.buffer.split(b"\n")
            for line in lines:
                self.handle(decode(line))

    def handle(self, request: Envelope) -> None:
        """Answer a request, a stream by a task."""
        if request.method == "stream":
            task = asyncio.ensure_future(self.stream(request.id, decode_stream(request.params)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self.answer(request.id, request.params if request.method == "echo" else b"{}")

    def answer(self, request_id: int | str, result: Any) -> None:
        """Queue a response."""
        self.put(b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (encode(request_id), bytes(result)))

    async def stream(self, request_id: int | str, params: StreamParams) -> None:
        """Send as many events as were asked for."""
        for seq in range(params.count):
            event = encode(EventParams(request_id, seq, Delta(params.text)))
            self.put(b'{"jsonrpc":"2.0","method":"event","params":%b}\n' % event)
            if seq % EVENTS_PER_TURN == 0:
                await asyncio.sleep(0)
        self.answer(request_id, b"{}")

    def put(self, message: bytes) -> None:
        """Write at the end of this turn, together with the rest of it."""
        if not self.output and not self.unwritten:
            self.loop.call_soon(self.write)
        self.output.append(message)

    def write(self) -> None:
        """Write what waits, or as much of it as fits."""
        if not self.unwritten:
            self.unwritten = memoryview(b"".join(self.output))
            self.output.clear()
        with contextlib.suppress(BlockingIOError):
            while self.unwritten:
                self.unwritten = self.unwritten[os.write(1, self.unwritten) :]
        if self.unwritten:
            self.loop.add_writer(1, self.write)
        else:
            self.loop.remove_writer(1)
            if self.output:
                self.loop.call_soon(self.write)


async def main() -> None:
    """Serve until the input ends."""
    await Floor().ended


asyncio.run(main())
