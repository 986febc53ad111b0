"""What of an answer is told: policies about its content and its tool calls, on the way out.

The screen stands behind the accumulator, whose text is one over all attempts, and before the log
and the client. What it holds back, or refuses, neither of them ever sees.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import UNSET

from car_rpc.engine.arguments import parsed_arguments
from car_rpc.engine.interruption import InterruptSnapshot, PartialCall
from car_rpc.engine.policing import Guard
from car_rpc.errors import CarError
from car_rpc.policy.content import ContentFilter, filtered
from car_rpc.policy.rules import ContentRule, Verdict
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import (
    ContentBlockStop,
    ProviderOutputItem,
    ReasoningDelta,
    Stop,
    StreamEvent,
    StreamReset,
    TextDelta,
    ToolCallCancel,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
)
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.policy import ContentPart, PolicyRule
from car_rpc.wire.speech import Word

T = TypeVar("T")

_Delta: TypeAlias = TextDelta | ReasoningDelta
_PARTS: dict[type[_Delta], Literal["text", "reasoning"]] = {
    TextDelta: "text",
    ReasoningDelta: "reasoning",
}


class _Text:
    """The text or the reasoning: what was told, and a filter of what comes."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.filter: ContentFilter | None = None


class _Call:
    """A tool call, some of whose events may not be told yet."""

    def __init__(self, start: ToolCallStart, *, is_judged: bool) -> None:
        self.start = start
        self.is_judged = is_judged
        self.held: list[StreamEvent] = [start]
        self.arguments = ""
        #: Whether its beginning was told, and its end has come since it was last told of.
        self.is_begun = self.is_whole = False
        #: What the app has to be asked, with the arguments that it is about; those it approved.
        self.question: tuple[Verdict, dict[str, Any]] | None = None
        self.approved: dict[str, Any] | None = None
        #: The call as it was told, once it was as a whole.
        self.told: ToolCall | None = None


class Screen:
    """Screens the events of one request, over all its attempts.

    Args:
        guard: The rules over it.
    """

    def __init__(self, guard: Guard) -> None:
        #: What a rule refused; nothing is told from then on.
        self.refusal: CarError | None = None
        self._guard = guard
        self._model: ModelSchema | None = None
        self._rules: list[ContentRule] = []
        self._known: dict[str, PolicyRule] = {}
        self._replaced: dict[ContentPart, Counter[str]] = {}
        self._texts: dict[type[_Delta], _Text] = {}
        self._calls: dict[int, _Call] = {}
        self._stops: list[StreamEvent] = []
        #: A provider's items as they came, which keeps their ids, and as they were told.
        self._items: dict[int, tuple[Any, Any]] = {}
        self._drop()

    @property
    def text(self) -> str:
        """The answer as it was told."""
        return "".join(self._texts[TextDelta].told)

    @property
    def reasoning(self) -> str:
        """The reasoning as it was told."""
        return "".join(self._texts[ReasoningDelta].told)

    def tool_calls(self) -> list[ToolCall]:
        """The tool calls that were told as a whole, in order."""
        return [call.told for call in self._calls.values() if call.told is not None]

    def items(self, given: list[Any]) -> list[Any]:
        """A provider's own items as they were told."""
        return [self._items[id(item)][1] for item in given]

    def snapshot(self) -> InterruptSnapshot:
        """What was told, when a stream broke."""
        calls = [
            PartialCall(call.id, call.name, msgspec.json.encode(call.arguments).decode())
            for call in self.tool_calls()
        ]
        return InterruptSnapshot.from_partials(self.text, self.reasoning, calls)

    def begin_attempt(self, model: ModelSchema) -> list[StreamEvent]:
        """A model is asked, which other rules may be about; returns what is to be told before."""
        self._model = model
        rules = self._guard.content(model)
        if rules != self._rules:
            self._rules = rules
            self._known.update({each.rule.id: each.rule for each in rules})
            for text in self._texts.values():
                text.filter = self._filter(text)
        return self.end()

    def take(self, event: StreamEvent) -> list[StreamEvent]:
        """Take the next event of the accumulator; returns those to tell now."""
        if self.refusal is not None:
            return []
        told: list[StreamEvent] = [event]
        match event:
            case TextDelta() | ReasoningDelta():
                told = self._push(type(event), event.text)
            case ToolCallStart() | ToolCallDelta() | ToolCallCancel() | ContentBlockStop():
                told = self._take_call(event)
            case ToolParseError():
                raw = self.cleaned(event.raw, "tool_arguments")
                told = self._unless_refused(msgspec.structs.replace(event, raw=raw))
            case ProviderOutputItem():
                item = self.cleaned(event.item)
                self._items[id(event.item)] = event.item, item
                told = self._unless_refused(ProviderOutputItem(item=item))
            case Stop() if any(text.filter and text.filter.held for text in self._texts.values()):
                self._stops.append(event)
                told = []
            case StreamReset():
                self._drop()
            case _:
                pass
        return told

    def close(self) -> list[StreamEvent]:
        """The answer is complete; returns what is still to be told of it."""
        told: list[StreamEvent] = []
        for kind in self._texts:
            told += self._push(kind, "", is_last=True)
        for call in self._calls.values():
            call.is_whole = True
        return told + self._release()

    def end(self) -> list[StreamEvent]:
        """The answer was told; returns what comes after it."""
        stops, self._stops = self._stops, []
        return stops

    @property
    def asks(self) -> bool:
        """Whether nothing more of calls is told before :meth:`answered`."""
        return self._asked_about() is not None

    async def answered(self) -> list[StreamEvent]:
        """Ask the app about the next call that needs that; returns what may be told then."""
        call = self._asked_about()
        if call is None or call.question is None:
            return []
        (verdict, arguments), call.question = call.question, None
        try:
            await self._guard.approve_call(self._model, call.start.name, arguments, verdict)
        except CarError as refusal:
            self.refusal = refusal
            return [_withdrawn(call, refusal)]
        call.approved, call.is_whole = arguments, True
        return self._release()

    def cleaned(self, value: Any, part: ContentPart = "text") -> Any:
        """A JSON value with its texts as they may be told."""
        if isinstance(value, list):
            items = cast("list[Any]", value)  # type: ignore[redundant-cast]  # pyright needs it
            return [self.cleaned(item, part) for item in items]
        if isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            return {self.cleaned(n, part): self.cleaned(v, part) for n, v in members.items()}
        if isinstance(value, bool) or value is None or not self._rules:
            return value
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        told, content = filtered(text, self._rules, self._count(part))
        self._refuse(content, part)
        return value if told == text else told

    def conclude(self) -> None:
        """Note how often something was replaced."""
        for part, counts in self._replaced.items():
            for rule_id, count in counts.items():
                self._guard.note_replaced(self._model, self._known[rule_id], part, count)
        self._replaced.clear()

    # Texts

    def _push(self, kind: type[_Delta], piece: str, *, is_last: bool = False) -> list[StreamEvent]:
        text = self._texts[kind]
        if text.filter is not None:
            piece = text.filter.push(piece) + (text.filter.end() if is_last else "")
        told: list[StreamEvent] = []
        if piece:
            text.told.append(piece)
            told.append(kind(text=piece))
        if text.filter is not None:
            self._refuse(text.filter, _PARTS[kind])
        return told

    def _filter(self, text: _Text) -> ContentFilter | None:
        """A filter by the rules at hand, which goes on with what the one before held back."""
        kind = next(kind for kind, each in self._texts.items() if each is text)
        held = "" if text.filter is None else text.filter.held
        if not (self._rules or held):
            return None
        return ContentFilter(self._rules, self._count(_PARTS[kind]), held)

    def _unless_refused(self, event: StreamEvent) -> list[StreamEvent]:
        return [event] if self.refusal is None else []

    def _refuse(self, content: ContentFilter, part: ContentPart) -> None:
        rule = content.refused_by
        if rule is not None and self.refusal is None:
            self.refusal = self._guard.refused_content(self._model, rule, part)

    def _count(self, part: ContentPart) -> Counter[str]:
        return self._replaced.setdefault(part, Counter())

    def _drop(self) -> None:
        """Begin anew."""
        self._texts = {kind: _Text() for kind in _PARTS}
        for text in self._texts.values():
            text.filter = self._filter(text)
        self._calls.clear()
        self._stops.clear()
        self._items.clear()

    # Tool calls

    def _take_call(
        self, event: ToolCallStart | ToolCallDelta | ToolCallCancel | ContentBlockStop
    ) -> list[StreamEvent]:
        if isinstance(event, ToolCallStart):
            is_judged = bool(self._rules) or self._guard.judges_calls(self._model, event.name)
            self._calls[event.index] = _Call(event, is_judged=is_judged)
            return self._release()
        call = self._calls.get(event.index)
        if call is None:
            return [event]
        if isinstance(event, ToolCallCancel):
            del self._calls[event.index]
            return [*([event] if call.is_begun else []), *self._release()]
        call.held.append(event)
        if isinstance(event, ToolCallDelta):
            call.arguments += event.arguments_delta
        else:
            call.is_whole = True
        return self._release()

    def _release(self) -> list[StreamEvent]:
        """Tell of calls, in their order, up to one that has to be judged and is not whole yet."""
        told: list[StreamEvent] = []
        for call in self._calls.values():
            if call.is_judged and not call.is_whole and call.held:
                break
            if call.is_whole and (call.held or call.told is None):
                told += self._judged(call)
                if self.refusal is not None or call.question is not None:
                    break
            else:
                told += self._tell(call)
        return told

    def _judged(self, call: _Call) -> list[StreamEvent]:
        """A call that is whole, as it may be told. One that is none after all is withdrawn soon."""
        call.is_whole = False
        arguments = parsed_arguments(call.arguments)
        if arguments is None:
            call.told = None
            return [] if call.is_judged else self._tell(call)
        if call.is_judged and call.approved != arguments:
            try:
                verdict = self._guard.judged_call(self._model, call.start.name, arguments)
                call.question = None if verdict is None else (verdict, arguments)
            except CarError as refusal:
                self.refusal = refusal
            if call.question is not None:
                return []
        cleaned = self.cleaned(arguments, "tool_arguments")
        if self.refusal is not None:
            return [_withdrawn(call, self.refusal)]
        call.told = ToolCall(id=call.start.id, name=call.start.name, arguments=cleaned)
        return self._tell(call, UNSET if cleaned == arguments else cleaned)

    def _asked_about(self) -> _Call | None:
        return next((each for each in self._calls.values() if each.question is not None), None)

    def _tell(self, call: _Call, instead: Any = UNSET) -> list[StreamEvent]:
        """The events of a call that were held, maybe with other arguments."""
        held, call.held = call.held, []
        call.is_begun = call.is_begun or bool(held)
        if instead is UNSET:
            return held
        text = msgspec.json.encode(instead).decode()
        delta = ToolCallDelta(index=call.start.index, id=call.start.id, arguments_delta=text)
        others = [event for event in held if not isinstance(event, ToolCallDelta)]
        ends = [event for event in others if isinstance(event, ContentBlockStop)]
        return [*(e for e in others if e not in ends), delta, *ends]


def _withdrawn(call: _Call, refusal: CarError) -> ToolCallCancel:
    return ToolCallCancel(index=call.start.index, id=call.start.id, reason=refusal.detail)


def screened(guard: Guard, model: ModelSchema, value: T) -> T:
    """A part of an answer that comes as a whole, with its texts as they may be told.

    Raises:
        CarError: ``policy_denied``.
    """
    if not guard.screens:
        return value
    screen = Screen(guard)
    screen.begin_attempt(model)
    told = cast("T", screen.cleaned(value))
    screen.conclude()
    if screen.refusal is not None:
        raise screen.refusal
    return told


def screened_words(guard: Guard, model: ModelSchema, words: list[Word]) -> list[Word]:
    """The words of a transcript as they may be told: all, or none where that cannot be said.

    Raises:
        CarError: ``policy_denied``.
    """
    text = " ".join(word.word for word in words)
    return words if screened(guard, model, text) == text else []
