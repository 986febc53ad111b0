"""The tool calls of one answer: whatever a backend streams of them, in one form. Pure.

Backends differ in what they know when. What is passed on does not: a call begins when its name is
known, with an id and the next number; then come its arguments in pieces; it ends once they are
whole. Calls are in the order in which they began, and none is dropped in silence.
"""

from __future__ import annotations

from typing import TypeAlias

from car_rpc.engine.arguments import Arguments
from car_rpc.engine.interruption import PartialCall
from car_rpc.errors import CarError
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import (
    ContentBlockStop,
    StreamEvent,
    TextDelta,
    ToolCallCancel,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
)

ToolEvent: TypeAlias = (
    ToolCallStart | ToolCallDelta | ToolCallCancel | ContentBlockStop | ToolParseError
)

#: Most calls of one answer; each one takes memory until the answer ends.
MAX_CALLS = 256


class _Call:
    """A call that is still coming."""

    def __init__(self) -> None:
        #: The backend's id of it; empty as long as it has told none.
        self.given_id = ""
        self.name = ""
        self.arguments = Arguments()
        #: Arguments that came before the name.
        self.untold: list[str] = []
        #: Its number and its id, once it was passed on.
        self.index = -1
        self.id = ""
        self.begun = self.cancelled = self.ended = self.end_told = False

    def is_cut(self) -> bool:
        """Whether it is not whole, by the rule of :class:`InterruptSnapshot`."""
        return not (self.name and self.arguments.text and self.arguments.parsed() is not None)


class ToolCalls:
    """Collects the calls of one request over all its attempts."""

    def __init__(self) -> None:
        self._begun: list[_Call] = []
        self.reset()

    def reset(self) -> None:
        """Drop all calls."""
        self._begun.clear()
        self.begin_attempt()

    def begin_attempt(self) -> None:
        """What comes now belongs to another attempt, whose numbers and ids are its own."""
        self._nameless: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    @property
    def called(self) -> bool:
        """Whether there is any call of this attempt."""
        return bool(self._by_index)

    def push(self, event: ToolEvent) -> list[StreamEvent]:
        """Take an event of the backend; returns the events to pass on.

        Raises:
            CarError: ``inference_failed`` for more calls than any answer has.
        """
        match event:
            case ToolCallStart():
                return self._start(event)
            case ToolCallDelta():
                call = self._find(event.index, event.id) or self._add(event.index, event.id)
                if call.cancelled:
                    return []
                return _told(call, call.arguments.push(event.arguments_delta))
            case ToolCallCancel():
                return self._cancel(event)
            case ContentBlockStop():
                ended = self._find(event.index)
                return [] if ended is None else self._end(ended)
            case ToolParseError():
                index = len(self._begun)  # the number that the call would have had
                return [ToolParseError(index=index, raw=event.raw, message=event.message)]

    def finish(self) -> list[StreamEvent]:
        """The backend says that the answer ends: so do the calls that are whole."""
        events: list[StreamEvent] = []
        for call in self._begun:
            if not call.cancelled:
                events += _told(call, call.arguments.settle())
                events += self._tell_end(call)
        return events

    def close(self) -> list[StreamEvent]:
        """The answer has ended; returns what is still to be told.

        A call without a name, or whose arguments do not parse, becomes text.
        """
        events = self.finish()
        for call in self._begun:
            if not call.cancelled and call.arguments.parsed() is None:
                call.cancelled = True
                raw, reason = call.arguments.text, "the arguments are not a JSON object"
                events += [
                    ToolParseError(index=call.index, raw=raw, message=reason),
                    ToolCallCancel(index=call.index, id=call.id, reason=reason),
                    TextDelta(text=f"{call.name}({raw})"),
                ]
        for call in self._nameless:
            raw = call.arguments.text
            if raw:
                reason = "the call has no name"
                index = len(self._begun)
                events.append(ToolParseError(index=index, raw=raw, message=reason))
                events.append(TextDelta(text=raw))
        self._nameless.clear()
        return events

    def cancel_cut(self, reason: str) -> list[StreamEvent]:
        """Withdraw the calls that a break has cut; returns the events of it."""
        events: list[StreamEvent] = []
        for call in self._begun:
            if not call.cancelled and call.is_cut():
                call.cancelled = True
                events.append(ToolCallCancel(index=call.index, id=call.id, reason=reason))
        self._nameless.clear()
        return events

    def partial(self) -> list[PartialCall]:
        """All calls as far as they have come."""
        return [
            PartialCall(call.id or call.given_id, call.name, call.arguments.text)
            for call in [*self._begun, *self._nameless]
            if not call.cancelled
        ]

    def whole(self) -> list[ToolCall]:
        """The calls that are complete, in order."""
        return [
            ToolCall(id=call.id, name=call.name, arguments=arguments)
            for call in self._begun
            if not call.cancelled and (arguments := call.arguments.parsed()) is not None
        ]

    def _find(self, index: int, call_id: str = "") -> _Call | None:
        return self._by_id.get(call_id) or self._by_index.get(index)

    def _add(self, index: int, call_id: str) -> _Call:
        call = _Call()
        self._nameless.append(call)
        self._know(call, index, call_id)
        return call

    def _know(self, call: _Call, index: int, call_id: str) -> None:
        call.given_id = call.given_id or call_id
        self._by_index[index] = call
        if call_id:
            self._by_id[call_id] = call
        calls = len(self._begun) + len(self._nameless)
        if max(calls, len(self._by_index), len(self._by_id)) > MAX_CALLS:
            raise CarError("inference_failed", f"the answer has more than {MAX_CALLS} tool calls")

    def _start(self, event: ToolCallStart) -> list[StreamEvent]:
        """A call begins, or more of it is known. The same call again changes nothing."""
        call = self._find(event.index, event.id)
        if call is None or call.cancelled or _is_another(event, call):
            call = self._add(event.index, event.id)
        else:
            self._know(call, event.index, event.id)
        if call.begun or not event.name:
            return []
        call.begun, call.name = True, event.name
        call.index = len(self._begun)
        call.id = self._free_id(call.given_id or f"call_{call.index}")
        self._nameless.remove(call)
        self._begun.append(call)
        early = "".join(call.untold)
        call.untold.clear()
        start = ToolCallStart(index=call.index, id=call.id, name=call.name)
        return [start, *_told(call, early)]

    def _cancel(self, event: ToolCallCancel) -> list[StreamEvent]:
        call = self._find(event.index, event.id)
        if call is None or call.cancelled:
            return []
        call.cancelled = True
        if not call.begun:
            self._nameless.remove(call)
            return []
        return [ToolCallCancel(index=call.index, id=call.id, reason=event.reason)]

    def _end(self, call: _Call) -> list[StreamEvent]:
        """The backend says that a call is complete. If it is not yet, the end is told later."""
        if call.ended or call.cancelled:
            return []
        call.ended = True
        held = _told(call, call.arguments.settle())
        return held if call.is_cut() else [*held, *self._tell_end(call)]

    def _tell_end(self, call: _Call) -> list[StreamEvent]:
        if call.end_told or not call.begun or call.arguments.parsed() is None:
            return []
        call.end_told = True
        return [ContentBlockStop(index=call.index)]

    def _free_id(self, call_id: str) -> str:
        """``call_id`` as no other call has it: one that was made up here may be given later."""
        taken = {call.id for call in self._begun if not call.cancelled}
        while call_id in taken:
            call_id += "_"
        return call_id


def _told(call: _Call, arguments: str) -> list[StreamEvent]:
    """More arguments, which wait for the name of their call."""
    if not arguments:
        return []
    if not call.begun:
        call.untold.append(arguments)
        return []
    return [ToolCallDelta(index=call.index, id=call.id, arguments_delta=arguments)]


def _is_another(event: ToolCallStart, call: _Call) -> bool:
    """Whether a call begins under a number that another one has: some backends know only one."""
    if not event.name:
        return False
    if event.id and call.given_id:
        return event.id != call.given_id
    return bool(call.name) and event.name != call.name
