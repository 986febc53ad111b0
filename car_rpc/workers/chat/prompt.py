"""Prompts in which nobody but the template can place control tokens.

A control token such as ``<|im_start|>`` is text to whoever writes it, and a turn of its own to
the model. So a text of the conversation that spells one must reach the tokenizer as text:

- No text spells one (nearly always): the prompt is tokenized as a whole, exactly as the model
  was trained.
- Otherwise such a text is replaced by a mark while the template runs, and tokenized as plain
  text where the mark stands afterwards. White space at its ends stays outside of the mark, so
  templates that trim still do.
- Where a text has no place for a mark (tools, arguments of calls), or where the template
  changed a mark, the control tokens are removed from the text.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from car_rpc.workers.chat.messages import TemplateMessage

    Render = Callable[[list[TemplateMessage], list[dict[str, Any]]], str]

#: Members of a message that hold text written outside of the template.
_TEXTS = ("content", "reasoning_content")


class Part(NamedTuple):
    """A piece of the prompt; only the template's own text may become control tokens.

    Attributes:
        text: Its text.
        is_content: Whether it is what somebody wrote, not the template's own.
        medium: Number of the image or recording that it is instead of a text, if it is one.
    """

    text: str
    is_content: bool
    medium: int | None = None


class Guard:
    """Builds prompts, given the spellings of a vocabulary's control tokens."""

    def __init__(self, control_tokens: Iterable[str]) -> None:
        spellings = sorted({token for token in control_tokens if token}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def render(
        self,
        render: Render,
        messages: Sequence[TemplateMessage],
        tools: Sequence[dict[str, Any]],
    ) -> list[Part]:
        """Render a conversation to parts of a prompt, in order."""
        marks = _Marks()
        marked = [self._marked(message, marks) for message in messages]
        clean_tools = [self._clean(tool) for tool in tools]
        parts = marks.split(render(marked, clean_tools))
        if parts is None:
            cleaned = [self._clean(message) for message in messages]
            return [Part(render(cleaned, clean_tools), is_content=False)]
        return parts

    def _spells_control(self, text: str) -> bool:
        return self._control is not None and self._control.search(text) is not None

    def _marked(self, message: TemplateMessage, marks: _Marks) -> TemplateMessage:
        turn = {
            name: value if name in _TEXTS else self._clean(value) for name, value in message.items()
        }
        for name in _TEXTS:
            if self._spells_control(turn.get(name, "")):
                turn[name] = marks.put(turn[name])
        return turn

    def _clean(self, value: Any) -> Any:
        """The value without control tokens in any of its texts."""
        if isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            return {self._clean(name): self._clean(member) for name, member in members.items()}
        if isinstance(value, list):
            return [self._clean(item) for item in cast("Sequence[Any]", value)]
        if not isinstance(value, str) or self._control is None:
            return value
        while self._control.search(value):  # removing one may spell another
            value = self._control.sub("", value)
        return value


class _Marks:
    """Marks that stand for texts while a template runs.

    A mark cannot be guessed, and it holds both quotes, so that a template which escapes its
    content (as JSON, HTML or source text) is seen to change it.
    """

    def __init__(self) -> None:
        self._key = secrets.token_hex(8)
        self._texts: list[str] = []

    def put(self, text: str) -> str:
        core = text.strip()
        start = text.index(core)
        self._texts.append(core)
        return f"{text[:start]}{self._mark(len(self._texts) - 1)}{text[start + len(core) :]}"

    def split(self, prompt: str) -> list[Part] | None:
        """Cut a prompt at its marks; ``None`` when a mark was changed."""
        parts: list[Part] = []
        for index, piece in enumerate(re.split(self._mark(r"(\d+)"), prompt)):
            if index % 2 == 0:  # the template's own text; re.split puts the groups in between
                parts.append(Part(piece, is_content=False))
            elif int(piece) < len(self._texts):
                parts.append(Part(self._texts[int(piece)], is_content=True))
            else:
                return None
        if any(self._key in part.text for part in parts if not part.is_content):
            return None
        return [part for part in parts if part.text]

    def _mark(self, index: int | str) -> str:
        return f"\"'{self._key}:{index}:'\""
