"""Tool calls out of the fragments that servers stream. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from car_rpc.backends.openai_compat import loose
from car_rpc.errors import CarError
from car_rpc.wire.events import ContentBlockStop, StreamEvent, ToolCallDelta, ToolCallStart

#: Most calls in one answer; each one takes memory until the answer ends.
MAX_CALLS = 256


class _Call:
    """A call whose fragments are still coming."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.started = False
        self.held: list[str] = []  # arguments that came before the name

    def release(self) -> list[StreamEvent]:
        """The arguments that are held, as one delta once the call has started."""
        if not self.started or not self.held:
            return []
        arguments = "".join(self.held)
        self.held.clear()
        return [ToolCallDelta(index=self.index, id=self.id, arguments_delta=arguments)]


class CallReader:
    """Puts calls in order and starts each one when its name is whole.

    Servers differ: some leave out ``index`` or ``id``, some send the same ``index`` for every
    call, some repeat the name with each fragment, some split it. A name is whole when arguments
    follow. Indexes are counted anew from 0, so a wild one costs nothing.
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
        """The events that the end of the answer completes. A call without a name is dropped."""
        events: list[StreamEvent] = []
        for call in self._calls:
            events += self._start(call)
        events += [ContentBlockStop(index=call.index) for call in self._calls if call.started]
        return events

    def _read(self, fragment: dict[str, Any]) -> list[StreamEvent]:
        function = loose.members(fragment.get("function"))
        call_id, name = loose.text(fragment.get("id")), loose.text(function.get("name"))
        call = self._find(fragment.get("index"), call_id, name)
        if not call.started:
            call.id = call_id or call.id
            call.name = _joined(call.name, name)
        arguments = _arguments(function.get("arguments"))
        if not arguments:
            return self._start(call) if call.held else []
        call.held.append(arguments)
        return self._start(call) or call.release()

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

    def _start(self, call: _Call) -> list[StreamEvent]:
        if call.started or not call.name:
            return []
        call.started = True
        call.id = call.id or f"call_{call.index}"
        return [ToolCallStart(index=call.index, id=call.id, name=call.name), *call.release()]


def _joined(known: str, more: str) -> str:
    """A name and what may be its next part, the same again, or the whole of it so far."""
    return more if more.startswith(known) else known + more if more else known


def _arguments(value: Any) -> str:
    # Some servers send the object itself instead of its text.
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else loose.text(value)
