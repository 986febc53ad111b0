"""What the players of both sides share: the wire, and the way through a dialogue.

A fake core has to start at once, so this module imports nothing that takes time.
"""

from __future__ import annotations

import json
import os
import select
import time

from dialogue import STEP_S, Dialogue, Step, Variables, as_bytes

TYPE_CHECKING = False  # as in dialogue.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

#: Most bytes that are read or written at once.
CHUNK_BYTES = 65536

#: Pause between the parts of `client_bytes` and `core_bytes`, in seconds, so that they arrive as
#: several reads.
PART_S = 0.005

_BOM = b"\xef\xbb\xbf"


class Mismatch(Exception):
    """The other side did not say what the dialogue says."""


class Ended(Exception):
    """The other side closed its end."""


class Channel:
    """Framed messages over two descriptors, whose calls all take a time by which they end.

    Args:
        read_fd: Where the other side's messages come from.
        write_fd: Where ours go.
        framing: ``None`` lets the first byte decide.
        patient: Whether it may take until something is read before the other side reads on.
    """

    def __init__(
        self, read_fd: int, write_fd: int, framing: str | None = None, *, patient: bool = True
    ) -> None:
        self.framing = framing
        self._patient = patient
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._buffer = bytearray()
        self._fresh = True
        self._ended = False
        os.set_blocking(write_fd, False)

    def wrap(self, payload: bytes) -> bytes:
        """A message as it goes on the wire."""
        if self.framing == "lsp":
            return b"Content-Length: %d\r\n\r\n%b" % (len(payload), payload)
        return payload + b"\n"

    def write(self, data: bytes, deadline: float) -> None:
        """Write all of it.

        Raises:
            Ended: The other side reads no more.
            TimeoutError: The other side did not read it in time.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.write_fd, view[:CHUNK_BYTES]) :]
            except BlockingIOError:
                self._wait(deadline, writing=True)
            except BrokenPipeError:
                raise Ended from None

    def read_message(self, deadline: float) -> bytes:
        """The payload of the next message.

        Raises:
            Ended: There is none.
            TimeoutError: It did not come in time.
            ValueError: What came is not framed.
        """
        while time.monotonic() < deadline:
            payload = self._take_message()
            if payload is not None:
                return payload
            self._fill(deadline)
        raise TimeoutError

    def read_exactly(self, count: int, deadline: float) -> bytes:
        """The next bytes, whatever they are; raises like :meth:`read_message`."""
        while len(self._buffer) < count:
            self._fill(deadline)
        return self._cut(count)

    def _fill(self, deadline: float) -> None:
        if self._ended:
            raise Ended
        self._wait(deadline, writing=False)

    def _wait(self, deadline: float, *, writing: bool) -> None:
        reading = [] if self._ended or (writing and not self._patient) else [self.read_fd]
        left = max(0.0, deadline - time.monotonic())
        readable, writable, _ = select.select(reading, [self.write_fd] if writing else [], [], left)
        if not (readable or writable):
            raise TimeoutError
        if readable:
            data = os.read(self.read_fd, CHUNK_BYTES)
            self._ended = not data
            self._buffer += data
            self._detect()

    def _detect(self) -> None:
        """The first byte tells the framing."""
        start = self._buffer[:4].removeprefix(_BOM)
        if self.framing is None and start:
            self.framing = "lsp" if start[0] in b"Cc" else "ndjson"

    def _take_message(self) -> bytes | None:
        if self._fresh and self._buffer.startswith(_BOM):
            self._cut(len(_BOM))
        if self.framing == "lsp":
            return self._take_body()
        while (end := self._buffer.find(b"\n")) >= 0:
            line = self._cut(end + 1).strip()
            if line:
                return line
        return None

    def _take_body(self) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        lengths = [
            int(value)
            for name, _, value in (
                line.partition(b":") for line in bytes(self._buffer[:end]).split(b"\r\n")
            )
            if name.strip().lower() == b"content-length"
        ]
        if len(lengths) != 1:
            raise ValueError(f"not a header: {bytes(self._buffer[:end])!r}")
        if len(self._buffer) < end + 4 + lengths[0]:
            return None
        return self._cut(end + 4 + lengths[0])[end + 4 :]

    def _cut(self, count: int) -> bytes:
        self._fresh = False
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


class Player:
    """Plays one side of a dialogue over a channel.

    Attributes:
        side: Which one.
        patience: What the time of a step is multiplied with.
    """

    side = ""
    other = ""
    patience = 1.0

    def __init__(self, dialogue: Dialogue, channel: Channel) -> None:
        self.dialogue = dialogue
        self.channel = channel
        self.variables = Variables(dialogue.examples)
        self._unsent = b""

    def play(self) -> None:
        """Play it from the handshake to the end.

        Raises:
            Mismatch: The other side did not say what the dialogue says.
        """
        if self.dialogue.handshake:
            self.open()
        for step in self.dialogue.steps:
            self._perform(step)
        self.flush()
        if not any(step.kind == "exit" for step in self.dialogue.steps):
            self.end()

    # What the two sides do differently

    def open(self) -> None:
        """The handshake that is not written down."""
        raise NotImplementedError

    def end(self) -> None:
        """The end that is not written down."""
        raise NotImplementedError

    def act(self, step: Step) -> None:
        """A step that is no message."""
        raise NotImplementedError

    def aside(self, message: Any) -> bool:
        """Deal with a message that is not the next step; tells whether that is allowed."""
        raise NotImplementedError

    # What they share

    def encode(self, message: Any) -> bytes:
        """A message as JSON, with its ``jsonrpc`` members."""
        entries = message if isinstance(message, list) else [message]
        whole = [{"jsonrpc": "2.0", **each} if isinstance(each, dict) else each for each in entries]
        text = json.dumps(whole if isinstance(message, list) else whole[0], ensure_ascii=False)
        return text.encode()

    def say(self, message: Any) -> None:
        """Say a message, together with those behind it."""
        self._unsent += self.channel.wrap(self.encode(message))

    def flush(self, within_s: float = STEP_S) -> None:
        """Write what was said."""
        data, self._unsent = self._unsent, b""
        self._write(data, within_s)

    def expect(self, steps: list[list[Step]], within_s: float) -> None:
        """Wait until all steps were said, each list in its order."""
        self.flush()
        lanes = [[step for step in lane for _ in range(step.times)] for lane in steps if lane]
        deadline = self.deadline(within_s)
        while lanes:
            message = self.hear(deadline, lanes[0][0])
            differences: list[str] = []
            for lane in lanes:
                found = self.difference(lane[0].value, message)
                if found is None:
                    del lane[0]
                    break
                differences.append(found)
            else:
                if not self.aside(message):
                    # Of several, the one that fits best is the one that was meant.
                    nearest = max(differences, key=_depth)
                    step = lanes[differences.index(nearest)][0]
                    self.fail(step, json.dumps(message), nearest)
            lanes = [lane for lane in lanes if lane]

    def difference(self, pattern: Any, message: Any) -> str | None:
        """How a message differs from what is expected; ``None`` if it does not."""
        return self.variables.difference(pattern, message)

    def hear(self, deadline: float, step: Step | None = None) -> Any:
        """The next message, without its ``jsonrpc`` members.

        Raises:
            Ended: There is none, and no step waits for one.
        """
        payload = self._read(lambda: self.channel.read_message(deadline), step)
        return self.read(payload, step)

    def read(self, payload: bytes, step: Step | None) -> Any:
        """A message, without its ``jsonrpc`` members."""
        try:
            return _decode(payload)
        except (ValueError, RecursionError) as error:
            self.fail(step, repr(payload[:1000]), f"no message: {error}")

    def fail(self, step: Step | None, got: str, why: str = "") -> NoReturn:
        """End with a report in one line."""
        line = f" line {step.line}" if step and step.line else ""
        wanted = f"{step.kind} {json.dumps(step.value)}" if step else "its end"
        reason = f" ({why})" if why else ""
        raise Mismatch(
            f"{self.dialogue.name}{line}: expected {wanted[:4000]} and got {got[:4000]}{reason}"
        )

    def deadline(self, within_s: float) -> float:
        """When a step that begins now has to be over."""
        return time.monotonic() + within_s * self.patience

    def _perform(self, step: Step) -> None:
        if step.side is None:
            self.flush()
            self.act(step)
        elif step.side == self.side:
            for each in step.steps():
                self._say_step(each)
        elif step.kind in ("client", "core", "unordered"):
            lanes = step.value if step.kind == "unordered" else [[step]]
            self.expect(lanes, step.within_s)
        else:
            self.flush()
            self._expect_bytes(step)

    def _say_step(self, step: Step) -> None:
        if step.kind.endswith("_bytes"):
            for part in step.value if isinstance(step.value, list) else [step.value]:
                self.flush()
                self._write(as_bytes(part), step.within_s)
                select.select([], [], [], PART_S)
        elif step.kind.endswith("_frame"):
            self._unsent += self.channel.wrap(as_bytes(step.value))
        else:
            message = self.channel.wrap(self.encode(self.variables.fill(step.value)))
            self._unsent += message * step.times

    def _expect_bytes(self, step: Step) -> None:
        deadline = self.deadline(step.within_s)
        parts = step.value if isinstance(step.value, list) else [step.value]
        expected = b"".join(map(as_bytes, parts))
        if step.kind.endswith("_frame"):
            got = self._read(lambda: self.channel.read_message(deadline), step)
        else:
            got = self._read(lambda: self.channel.read_exactly(len(expected), deadline), step)
        if got != expected:
            self.fail(step, repr(got))

    def _write(self, data: bytes, within_s: float) -> None:
        try:
            self.channel.write(data, self.deadline(within_s))
        except (Ended, TimeoutError) as problem:
            how = "reads no more" if isinstance(problem, Ended) else "did not read in time"
            raise Mismatch(f"{self.dialogue.name}: the {self.other} {how}") from None

    def _read(self, read: Callable[[], bytes], step: Step | None) -> bytes:
        try:
            return read()
        except Ended:
            if step is None:
                raise
            self.fail(step, f"the end of what the {self.other} says")
        except TimeoutError:
            self.fail(step, "nothing in time")
        except ValueError as error:
            self.fail(step, str(error))


def _depth(difference: str) -> int:
    return difference.partition(":")[0].count(".")


def _decode(payload: bytes) -> Any:
    message = _parse(payload.decode())
    for each in message if isinstance(message, list) else [message]:
        if isinstance(each, dict) and each.pop("jsonrpc", None) != "2.0":
            raise ValueError("`jsonrpc` is not 2.0")
    return message


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_parse = json.JSONDecoder(parse_constant=_refuse).decode
