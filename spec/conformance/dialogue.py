"""Dialogues: how they are written, and how a message is compared with what is expected.

A fake core has to start at once, so this module imports nothing that takes time.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False  # type checkers take it for the one of typing, which takes time to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: How long one step may take, in seconds, unless `within_ms` says otherwise.
STEP_S = 10.0

SIDES = ("core", "client")
FRAMINGS = ("ndjson", "lsp")
ABSENT = "$absent"
ANYTHING = "$_"

#: Members that tell the kinds of messages apart: they are there, or they are not.
_KIND = ("id", "method", "result", "error")
_STEPS = {
    "client", "core", "client_frame", "core_frame", "client_bytes", "core_bytes",
    "unordered", "may", "never", "stall_ms", "close", "exit",
}  # fmt: skip


class FormatError(Exception):
    """A dialogue is not written as the README says."""


# The format


class Step:
    """One step.

    Attributes:
        kind: The member that names it, such as ``client``.
        value: What belongs to it; for ``unordered`` a list of lists of steps.
        line: Where it is written, for reports.
        times: How often it is said.
        within_s: How long it may take, in seconds.
        examples: Values of variables that it says first.
    """

    def __init__(self, raw: Any, line: int) -> None:
        if not isinstance(raw, dict):
            raise FormatError(f"line {line}: a step is an object")
        names = sorted(set(raw) - {"within_ms", "times", "at_ms", "examples"})
        if len(names) != 1 or names[0] not in _STEPS:
            raise FormatError(f"line {line}: not a step: {names}")
        if "times" in raw and names[0] not in SIDES:
            raise FormatError(f"line {line}: `times` belongs to `client` and `core`")
        self.kind: str = names[0]
        self.value: Any = raw[self.kind]
        self.line = line
        self.times: int = raw.get("times", 1)
        self.within_s: float = raw.get("within_ms", STEP_S * 1000) / 1000
        self.examples: dict[str, Any] = raw.get("examples", {})
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
        here = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120 - as above
        self.arguments: list[str] = [
            each.replace("$here", here) for each in head.pop("arguments", [])
        ]
        self.sides: list[str] = head.pop("sides", [*SIDES])
        self.framings: list[str] = head.pop("framings", [*FRAMINGS])
        self.steps = [Step(raw, line) for line, raw in enumerate(steps, start=2)]
        for step in self.steps:
            self.examples |= step.examples
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
            (any(step.kind == "exit" for step in self.steps[:-1]), "nothing follows an `exit`"),
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
