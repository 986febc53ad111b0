"""What the steps of a scripted model mean, for whoever plays them.

:func:`expand` turns a script into the plain actions of one request. It is shared by the fake
backend inside the core and by the fake worker, so both play a script alike.
"""

from __future__ import annotations

import re
from itertools import repeat
from typing import TYPE_CHECKING, TypeAlias

from msgspec import UNSET, Struct

from car_rpc.wire.content import Message, TextBlock
from car_rpc.wire.events import (
    Done,
    ErrorEvent,
    Heartbeat,
    Stop,
    StreamEvent,
    TextDelta,
)
from car_rpc.wire.models import ScriptedFailure, ScriptStep

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WORD = re.compile(r"\s*\S+|\s+")


class Emit(Struct, frozen=True):
    """Send this event."""

    event: StreamEvent


class Sleep(Struct, frozen=True):
    """Wait, in milliseconds; a cancelled request stops waiting."""

    ms: int


class Print(Struct, frozen=True):
    """Write to file descriptor 1, as careless native code does."""

    text: str


class Fail(Struct, frozen=True):
    """Fail the request."""

    failure: ScriptedFailure


class Crash(Struct, frozen=True):
    """Kill the process that plays the script."""


class Stall(Struct, frozen=True):
    """Say nothing more until the request is cancelled."""


Action: TypeAlias = Emit | Sleep | Print | Fail | Crash | Stall

_ACTIONS = ("emit", "echo", "sleep_ms", "print", "fail", "crash", "stall")


def check(script: Sequence[ScriptStep]) -> None:
    """Check that every step has exactly one action.

    Raises:
        ValueError: A step has none or several; the text names its index.
    """
    for index, step in enumerate(script):
        named = [name for name in _ACTIONS if getattr(step, name) is not UNSET]
        if len(named) != 1:
            found = " and ".join(named) or "none"
            raise ValueError(f"step {index} needs exactly one action, found {found}")


def last_user_text(messages: Sequence[Message]) -> str:
    """Text of the last user turn, blocks joined; empty when there is none."""
    for message in reversed(messages):
        if message.role == "user":
            if isinstance(message.content, str):
                return message.content
            return "".join(block.text for block in message.content if isinstance(block, TextBlock))
    return ""


def expand(script: Sequence[ScriptStep], user_text: str) -> Iterator[Action]:
    """Actions of one request, lazily.

    A script that sends no ``stop`` ends with ``stop: end_turn``; nothing else is invented.
    ``done`` ends the script, ``error`` is a failure, and
    ``heartbeat`` says nothing.

    Args:
        script: Steps, each with exactly one action (see :func:`check`).
        user_text: What ``echo`` repeats.
    """
    stopped = False
    for step in script:
        if step.echo is not UNSET:
            for word in _WORD.findall(user_text):
                yield Emit(TextDelta(text=word))
        elif step.emit is UNSET or isinstance(step.emit, ErrorEvent):
            action = _action(step)
            yield action
            if isinstance(action, Fail | Crash | Stall):
                return
        elif step.repeat and not isinstance(step.emit, Heartbeat):
            if isinstance(step.emit, Done):
                yield Emit(step.emit)
                break
            stopped = stopped or isinstance(step.emit, Stop)
            yield from repeat(Emit(step.emit), step.repeat)
    if not stopped:
        yield Emit(Stop(reason="end_turn"))


def _action(step: ScriptStep) -> Action:
    if isinstance(step.emit, ErrorEvent):
        return Fail(ScriptedFailure(kind=step.emit.kind, message=step.emit.message))
    if step.sleep_ms is not UNSET:
        return Sleep(step.sleep_ms)
    if step.print is not UNSET:
        return Print(step.print)
    if step.fail is not UNSET:
        return Fail(step.fail)
    return Crash() if step.crash is not UNSET else Stall()
