"""Frames over a pipe: 4-byte big-endian length, then one msgpack value."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import msgspec

from car_rpc.errors import CarError
from car_rpc.wire.worker import MAX_WORKER_FRAME_BYTES, ToWorker

if TYPE_CHECKING:
    from car_rpc.wire.worker import FromWorker

_LENGTH_BYTES = 4

#: Bytes asked of the pipe at once: the usual capacity of a pipe on Linux.
_READ_BYTES = 64 * 1024


class FrameReader:
    """Reads the core's frames from a descriptor. Used by one thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)

    def read(self) -> ToWorker:
        """Wait for the next frame.

        Raises:
            EOFError: The core closed the pipe.
            ValueError: The frame is too large or none of the vocabulary.
        """
        length = int.from_bytes(self._exactly(_LENGTH_BYTES), "big")
        if length > MAX_WORKER_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes exceeds {MAX_WORKER_FRAME_BYTES}")
        body = self._exactly(length)
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def _exactly(self, count: int) -> bytearray:
        data = bytearray()
        while len(data) < count:
            chunk = os.read(self._fd, min(count - len(data), _READ_BYTES))
            if not chunk:
                raise EOFError
            data += chunk
        return data


class FrameWriter:
    """Writes whole frames to a descriptor. Any thread may call it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def write(self, frame: FromWorker) -> None:
        """Write one frame; waits while the pipe is full.

        Raises:
            CarError: The frame is too large (``message_too_large``); nothing was written.
            OSError: The core is gone.
        """
        body = msgspec.msgpack.encode(frame)
        if len(body) > MAX_WORKER_FRAME_BYTES:
            raise CarError(
                "message_too_large",
                f"the answer has {len(body)} bytes, at most {MAX_WORKER_FRAME_BYTES} can be"
                " passed on; ask for less at once",
            )
        data = memoryview(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]
