"""What both players share: the format of dialogues, comparing messages, and the framings.

A fake core has to start at once, so this module imports nothing that takes time.
"""

from __future__ import annotations

import json
import os
import select
import time

TYPE_CHECKING = False  # type checkers take it for the one of typing, which takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

#: How long one step may take, in seconds, unless `within_ms` says otherwise.
STEP_S = 10.0

#: Most bytes that are read or written at once.
CHUNK_BYTES = 65536

#: Pause between the parts of `client_bytes` and `core_bytes`, in seconds, so that they arrive as
#: several reads.
PART_S = 0.005

SIDES = ("core", "client")
FRAMINGS = ("ndjson", "lsp")
ABSENT = "$absent"
ANYTHING = "$_"

_BOM = b"\xef\xbb\xbf"
#: Members that tell the kinds of messages apart: they are there, or they are not.
_KIND = ("id", "method", "result", "error")
_STEPS = {
    "client", "core", "client_frame", "core_frame", "client_bytes", "core_bytes",
    "unordered", "may", "never", "stall_ms", "close", "exit",
}  # fmt: skip


class FormatError(Exception):
    """A dialogue is not written as the README says."""


class Mismatch(Exception):
    """The other side did not say what the dialogue says."""


class Ended(Exception):
    """The other side closed its end."""


# The format


class Step:
    """One step.

    Attributes:
        kind: The member that names it, such as ``client``.
        value: What belongs to it; for ``unordered`` a list of lists of steps.
        line: Where it is written, for reports.
        times: How often it is said.
        within_s: How long it may take, in seconds.
    """

    def __init__(self, raw: Any, line: int) -> None:
        if not isinstance(raw, dict):
            raise FormatError(f"line {line}: a step is an object")
        names = sorted(set(raw) - {"within_ms", "times"})
        if len(names) != 1 or names[0] not in _STEPS:
            raise FormatError(f"line {line}: not a step: {names}")
        self.kind: str = names[0]
        self.value: Any = raw[self.kind]
        self.line = line
        self.times: int = raw.get("times", 1)
        self.within_s: float = raw.get("within_ms", STEP_S * 1000) / 1000
        if self.kind == "unordered":
            entries = [entry if isinstance(entry, list) else [entry] for entry in self.value]
            self.value = [[Step(each, line) for each in lane] for lane in entries]
            if len({each.kind for each in self.steps()}) != 1 or self.side is None:
                raise FormatError(f"line {line}: `unordered` holds messages of one side")

    @property
    def side(self) -> str | None:
        """Which side says it; ``None`` where it is not said."""
        kind = self.value[0][0].kind if self.kind == "unordered" else self.kind
        side = kind.partition("_")[0]
        return side if side in SIDES else None

    def steps(self) -> Iterator[Step]:
        """Itself, or the steps inside it."""
        if self.kind != "unordered":
            yield self
            return
        for lane in self.value:
            yield from lane


class Dialogue:
    """A dialogue, as the head and the steps of its file say.

    Raises:
        FormatError: The file is not written as the README says.
    """

    def __init__(self, path: str) -> None:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes time to import
            head, *steps = [json.loads(line) for line in file]
        self.name: str = head.pop("dialogue", "")
        self.about: str = head.pop("about", "")
        self.rules: list[str] = head.pop("rules", [])
        self.examples: dict[str, Any] = head.pop("examples", {})
        self.handshake: bool = head.pop("handshake", True)
        self.arguments: list[str] = head.pop("arguments", [])
        self.sides: list[str] = head.pop("sides", [*SIDES])
        self.framings: list[str] = head.pop("framings", [*FRAMINGS])
        self.steps = [Step(raw, line) for line, raw in enumerate(steps, start=2)]
        self._check(os.path.basename(path), head)  # noqa: PTH119 - as above

    def _check(self, file_name: str, unknown: dict[str, Any]) -> None:
        used: set[str] = set()
        for step in self.steps:
            for each in step.steps():
                used |= set(variables_in(each.value))
        problems = [
            (unknown, f"unknown members {sorted(unknown)}"),
            (f"{self.name}.ndjson" != file_name, "`dialogue` is the file's name"),
            (not self.about, "`about` is missing"),
            (not self.sides or {*self.sides} - {*SIDES}, "`sides` are core and client"),
            (not self.framings or {*self.framings} - {*FRAMINGS}, "`framings` are ndjson and lsp"),
            (used != set(self.examples), f"`examples` needs {sorted(used)}"),
        ]
        for wrong, problem in problems:
            if wrong:
                raise FormatError(f"{file_name}: {problem}")


def variables_in(pattern: Any) -> Iterator[str]:
    """Names of the variables of a message or a part of it."""
    if isinstance(pattern, dict):
        pattern = [*pattern.values()]
    if isinstance(pattern, list):
        for each in pattern:
            yield from variables_in(each)
    elif (name := _variable(pattern)) is not None:
        yield name


def _variable(pattern: Any) -> str | None:
    if not isinstance(pattern, str) or pattern[:1] != "$" or pattern in (ABSENT, ANYTHING):
        return None
    name = pattern[1:]
    plain = name.replace("_", "")
    return name if plain.isascii() and plain.isalnum() and plain.lower() == plain else None


def as_bytes(text: Any) -> bytes:
    """The bytes that a TEXT of the README stands for."""
    if isinstance(text, str):
        return text.encode()
    if "join" in text:
        return b"".join(as_bytes(part) for part in text["join"])
    if "repeat" in text:
        return as_bytes(text["repeat"]) * int(text["times"])
    import binascii

    return binascii.a2b_base64(text["base64"])


# Comparing


class Variables:
    """What the variables of a dialogue stand for."""

    def __init__(self, examples: dict[str, Any]) -> None:
        self._examples = examples
        self._bound: dict[str, Any] = {}

    def fill(self, pattern: Any) -> Any:
        """A message or a part of it, as it is said."""
        if isinstance(pattern, dict):
            members = [(key, value) for key, value in pattern.items() if value != ABSENT]
            return {key: self.fill(value) for key, value in members}
        if isinstance(pattern, list):
            return [self.fill(each) for each in pattern]
        name = _variable(pattern)
        if name is not None:
            return self._bound.setdefault(name, self._examples.get(name, name))
        if pattern == ANYTHING:
            return None
        return _literal(pattern)

    def difference(self, pattern: Any, message: Any, *, keep: bool = True) -> str | None:
        """The first difference between a message and what is expected; ``None`` if it matches.

        Args:
            pattern: What is expected.
            message: What was said, without its ``jsonrpc`` members.
            keep: Whether variables that are seen for the first time are bound by a match.
        """
        bound = dict(self._bound)
        found = _message_difference(pattern, message, bound)
        if found is None and keep:
            self._bound = bound
        return found


def _message_difference(pattern: Any, message: Any, bound: dict[str, Any]) -> str | None:
    if isinstance(pattern, list) and isinstance(message, list):
        return _batch_difference(pattern, message, bound)
    if isinstance(pattern, dict) and isinstance(message, dict):
        for member in _KIND:
            if (pattern.get(member, ABSENT) != ABSENT) != (member in message):
                return f"$.{member}: {'unexpected' if member in message else 'missing'}"
    return _difference(pattern, message, bound, "$")


def _batch_difference(pattern: list[Any], message: list[Any], bound: dict[str, Any]) -> str | None:
    """The entries of a batch may come in any order (JSON-RPC 2.0, section 6)."""
    left = [*message]
    for entry in pattern:
        for candidate in left:
            attempt = dict(bound)
            if _message_difference(entry, candidate, attempt) is None:
                bound.update(attempt)
                left.remove(candidate)
                break
        else:
            return f"$: no entry matches {json.dumps(entry)}"
    return f"$: {len(left)} entries too many" if left else None


def _difference(pattern: Any, value: Any, bound: dict[str, Any], path: str) -> str | None:
    name = _variable(pattern)
    if name is not None:
        pattern = bound.setdefault(name, value)
    elif pattern == ANYTHING:
        return None
    elif isinstance(pattern, dict) and isinstance(value, dict):
        return _object_difference(pattern, value, bound, path)
    elif isinstance(pattern, list) and isinstance(value, list) and len(pattern) == len(value):
        for index, (expected, each) in enumerate(zip(pattern, value, strict=True)):
            if found := _difference(expected, each, bound, f"{path}[{index}]"):
                return found
        return None
    else:
        pattern = _literal(pattern)
    if isinstance(pattern, bool) == isinstance(value, bool) and pattern == value:
        return None
    return f"{path}: expected {json.dumps(pattern)}, got {json.dumps(value)}"


def _object_difference(
    pattern: dict[str, Any], value: dict[str, Any], bound: dict[str, Any], path: str
) -> str | None:
    for key, expected in pattern.items():
        if (key in value) != (expected != ABSENT):
            return f"{path}.{key}: {'unexpected' if key in value else 'missing'}"
        if key in value and (found := _difference(expected, value[key], bound, f"{path}.{key}")):
            return found
    return None


def _literal(pattern: Any) -> Any:
    return pattern[1:] if isinstance(pattern, str) and pattern.startswith("$$") else pattern


# The wire


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
        """
        while (payload := self._take_message()) is None:
            self._fill(deadline)
        return payload

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
            raise Mismatch(f"not a header: {bytes(self._buffer[:end])!r}")
        if len(self._buffer) < end + 4 + lengths[0]:
            return None
        return self._cut(end + 4 + lengths[0])[end + 4 :]

    def _cut(self, count: int) -> bytes:
        self._fresh = False
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


# Playing


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
            differences = [self.difference(lane[0].value, message) for lane in lanes]
            if None in differences:
                lane = lanes[differences.index(None)]
                del lane[0]
                lanes = [each for each in lanes if each]
            elif not self.aside(message):
                # Of several, the one that fits best is the one that was meant.
                nearest = max(range(len(lanes)), key=lambda lane: _depth(differences[lane]))
                self.fail(lanes[nearest][0], json.dumps(message), differences[nearest] or "")

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
        except ValueError as error:
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


def _depth(difference: str | None) -> int:
    return (difference or "").partition(":")[0].count(".")


def _decode(payload: bytes) -> Any:
    message = _parse(payload.decode())
    for each in message if isinstance(message, list) else [message]:
        if isinstance(each, dict) and each.pop("jsonrpc", None) != "2.0":
            raise ValueError("`jsonrpc` is not 2.0")
    return message


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_parse = json.JSONDecoder(parse_constant=_refuse).decode
