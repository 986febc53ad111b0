"""Tool calls out of the fragments that servers stream. Pure.

Only what is peculiar to this form of a stream is put right here; all else is left to the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from car_rpc.backends.openai_compat import loose
from car_rpc.engine.tool_calls import MAX_CALLS
from car_rpc.errors import CarError
from car_rpc.wire.events import StreamEvent, ToolCallDelta, ToolCallStart


class _Call:
    """A call whose fragments are still coming."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.started = False
        self.has_arguments = False


class CallReader:
    """Tells which call a fragment belongs to, and starts each one when its name is whole.

    Servers differ: some leave out ``index`` or ``id``, some send the same ``index`` for every
    call, some repeat the name with each fragment, some split it. A name is whole when arguments
    follow. Indexes are counted anew from 0.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def read(self, fragments: Sequence[Any]) -> list[StreamEvent]:
        """The events of a chunk's ``tool_calls``; what is not a fragment is skipped.

        Raises:
            CarError: ``provider_error`` for more calls than any answer has.
        """
        events: list[StreamEvent] = []
        for fragment in fragments:
            if isinstance(fragment, dict):
                events += self._read(loose.members(fragment))
        return events

    def finish(self) -> list[StreamEvent]:
        """The events that the end of the answer completes: of calls without arguments."""
        return [event for call in self._calls for event in _start(call)]

    def _read(self, fragment: dict[str, Any]) -> list[StreamEvent]:
        function = loose.members(fragment.get("function"))
        call_id, name = loose.text(fragment.get("id")), loose.text(function.get("name"))
        call = self._find(fragment.get("index"), call_id, name)
        if not call.started:
            call.id = call_id or call.id
            call.name = _joined(call.name, name)
        arguments = _arguments(function.get("arguments"))
        call.has_arguments = call.has_arguments or bool(arguments)
        events = _start(call) if call.has_arguments else []
        if arguments:
            delta = ToolCallDelta(index=call.index, id=call.id, arguments_delta=arguments)
            events.append(delta)
        return events

    def _find(self, index: Any, call_id: str, name: str) -> _Call:
        call = self._by_id.get(call_id) if call_id else None
        if call is None and isinstance(index, int):
            call = self._by_index.get(index)
        elif call is None and not call_id and not name and self._calls:
            call = self._calls[-1]  # a fragment that names nothing goes on with the last call
        if call is not None and name and call_id and call.id and call.id != call_id:
            call = None  # another call under an index that is in use
        if call is None:
            call = self._add()
        if isinstance(index, int):
            self._by_index[index] = call
        if call_id:
            self._by_id[call_id] = call
        return call

    def _add(self) -> _Call:
        if len(self._calls) >= MAX_CALLS:
            raise CarError("provider_error", f"the server sent more than {MAX_CALLS} tool calls")
        call = _Call(len(self._calls))
        self._calls.append(call)
        return call


def _start(call: _Call) -> list[StreamEvent]:
    if call.started or not call.name:
        return []
    call.started = True
    return [ToolCallStart(index=call.index, id=call.id, name=call.name)]


def _joined(known: str, more: str) -> str:
    """A name and what may be its next part, the same again, or the whole of it so far."""
    return more if more.startswith(known) else known + more if more else known


def _arguments(value: Any) -> str:
    # Some servers send the object itself instead of its text.
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else loose.text(value)
