"""One answer: from the bytes of tokens to stream events, stop reason and token counts."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from car_rpc.wire.events import (
    ContentBlockStop,
    Stop,
    StopReason,
    StreamEvent,
    TextDelta,
    UsageEvent,
)
from car_rpc.workers.text.calls.families import HERMES
from car_rpc.workers.text.calls.harmony import HarmonySegmenter
from car_rpc.workers.text.segment import Segmenter
from car_rpc.workers.text.stop import StopMatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from car_rpc.workers.text.calls.families import Family


class Answer:
    """Collects the tokens of one answer.

    Stop strings are looked for in the answer's text only: reasoning and tool arguments may
    contain them.

    Args:
        stops: Stop strings.
        tools: The tools that the request offers.
        family: How the model writes.
        in_reasoning: Whether the prompt already opened the reasoning block.
        reasoning_budget: Most reasoning tokens; 0 means no budget.
        begun_tokens: Tokens of it that are in the prompt already and count as its own.
        begun_text: The text that it begins with.
    """

    def __init__(
        self,
        *,
        stops: Sequence[str] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        family: Family = HERMES,
        in_reasoning: bool = False,
        reasoning_budget: int = 0,
        begun_tokens: int = 0,
        begun_text: str = "",
    ) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        in_text = bool(begun_tokens or begun_text)
        self.segments: Segmenter | HarmonySegmenter = (
            HarmonySegmenter(tools=tools, in_text=in_text)
            if family.channels
            else Segmenter(tools=tools, family=family, in_reasoning=in_reasoning, in_text=in_text)
        )
        self._matcher = StopMatcher(stops)
        self._budget = reasoning_budget
        self._calls = 0
        self._has_text = in_text
        self._text_so_far = [begun_text]
        self.tokens = begun_tokens
        self.thinking_tokens = 0
        #: Tokens that were guessed before the model said them, and how many guesses were right.
        self.draft_tokens = self.accepted_draft_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the answer."""
        return self._matcher.matched is not None

    @property
    def text(self) -> str:
        """The text so far, as the client sees it."""
        return "".join(self._text_so_far)

    @property
    def out_of_budget(self) -> bool:
        """Whether the reasoning used up its budget and is still going on."""
        spent = 0 < self._budget <= self.thinking_tokens
        return spent and self.segments.in_reasoning

    def feed(self, piece: bytes) -> list[StreamEvent]:
        """Add the bytes of one token; returns the events that are certain now."""
        was_reasoning = self.segments.in_reasoning
        events = self._visible(self.segments.feed(self._decoder.decode(piece)))
        self.tokens += 1
        if was_reasoning or self.segments.in_reasoning:
            self.thinking_tokens += 1
        return events

    def finish(
        self,
        *,
        limited: bool,
        prompt_tokens: int,
        context_window: int,
        cached_tokens: int = 0,
        verdict: Callable[[str], bool | None] | None = None,
    ) -> list[StreamEvent]:
        """The last events: what was held back, ``usage`` and ``stop``.

        Args:
            limited: Whether a limit ended the answer, not the model or a stop string.
            prompt_tokens: Tokens of the prompt.
            context_window: Tokens of context that the request could use.
            cached_tokens: Tokens of the prompt that were read for an earlier request.
            verdict: Tells whether a text has the form that was asked for; ``None`` for no form.
        """
        events = self._visible(self.segments.feed(self._decoder.decode(b"", final=True)))
        cut_reasoning = self.segments.in_reasoning
        events += self._visible(self.segments.finish())
        events += self._text(self._matcher.flush())
        usage = UsageEvent(
            prompt_tokens=prompt_tokens,
            completion_tokens=self.tokens,
            total_tokens=prompt_tokens + self.tokens,
            context_window=context_window,
            cache_read_tokens=cached_tokens or UNSET,
            thinking_tokens=self.thinking_tokens or UNSET,
            draft_tokens=self.draft_tokens or UNSET,
            accepted_draft_tokens=self.accepted_draft_tokens if self.draft_tokens else UNSET,
        )
        reason = self._reason(limited=limited, cut_reasoning=cut_reasoning)
        valid = None if verdict is None or self._calls else verdict(self.text)
        return [*events, usage, Stop(reason=reason, schema_valid=UNSET if valid is None else valid)]

    def _reason(self, *, limited: bool, cut_reasoning: bool) -> StopReason:
        if self._calls:
            return "tool_use"
        if self.stopped:
            return "stop_sequence"
        if not limited:
            return "end_turn"
        return "thinking_truncated" if cut_reasoning and not self._has_text else "max_tokens"

    def _visible(self, segments: Iterable[StreamEvent]) -> list[StreamEvent]:
        """Pass text through the stop matcher; after a match nothing more is visible."""
        events: list[StreamEvent] = []
        for event in segments:
            if self.stopped:
                continue
            if isinstance(event, TextDelta):
                events += self._text(self._matcher.feed(event.text))
            else:
                # A stop string lies within one run of text, so the run ends here.
                events += [*self._text(self._matcher.flush()), event]
                self._calls += isinstance(event, ContentBlockStop)
        return events

    def _text(self, text: str) -> list[StreamEvent]:
        if not text:
            return []
        self._has_text = True
        self._text_so_far.append(text)
        return [TextDelta(text=text)]
