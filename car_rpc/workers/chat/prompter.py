"""From a Generate frame to the tokens of its prompt."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from car_rpc.errors import unsupported_mode
from car_rpc.workers.chat.messages import template_messages
from car_rpc.workers.chat.prompt import Guard, Part
from car_rpc.workers.chat.template import CHATML, ChatTemplate
from car_rpc.workers.text.segment import THINK_CLOSE, THINK_OPEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from car_rpc.wire.worker import AnswerPrefix, Generate
    from car_rpc.workers.chat.messages import TemplateMessage


class Vocabulary(Protocol):
    """What a prompt needs of a model's vocabulary."""

    @property
    def bos_text(self) -> str:
        """Spelling of the token that begins a text; empty when there is none."""
        ...

    @property
    def eos_text(self) -> str:
        """Spelling of the token that ends a text; empty when there is none."""
        ...

    def control_spellings(self) -> list[str]:
        """Spellings that become control tokens where special tokens are parsed."""
        ...

    def has_token(self, text: str) -> bool:
        """Whether the text is one token of its own."""
        ...

    def tokenize_prompt(self, parts: Iterable[Part]) -> list[int]:
        """Tokens of a rendered prompt; a missing first token is added, a second never."""
        ...


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        tokens: Its tokens.
        in_reasoning: Whether it ends inside a reasoning block that the template opened.
        answer_tokens: How many tokens at its end are the beginning of the answer.
    """

    tokens: list[int]
    in_reasoning: bool
    answer_tokens: int = 0


class Prompter:
    """Renders and tokenizes conversations.

    Args:
        vocab: The model's vocabulary.
        source: The model's chat template, if it has one.
        backend: Name of the engine in error texts.
    """

    def __init__(self, vocab: Vocabulary, source: str | None, backend: str) -> None:
        self._vocab = vocab
        self._source = source
        self._backend = backend
        self._guard = Guard(vocab.control_spellings())

    def prompt(self, request: Generate) -> Prompt:
        """The prompt of a request.

        Raises:
            CarError: The conversation does not suit the model (``unsupported_mode``), its
                template fails (``invalid_request``) or its text cannot be tokenized.
        """
        options: dict[str, Any] = {"add_generation_prompt": True}
        if request.params.thinking != "auto":  # undefined is the template's own default
            options["enable_thinking"] = request.params.thinking == "on"

        def render(messages: list[TemplateMessage], tools: list[dict[str, Any]]) -> str:
            return self._template.render({"messages": messages, "tools": tools or None, **options})

        parts = self._guard.render(
            render, template_messages(request.messages, self._backend), request.tools
        )
        ending = parts[-1].text.rstrip() if parts else ""
        in_reasoning = ending.endswith(THINK_OPEN)
        tokens = self._vocab.tokenize_prompt(parts)
        if request.prefix is None:
            return Prompt(tokens, in_reasoning)
        parts += _beginning(request.prefix, in_reasoning=in_reasoning)
        begun = self._vocab.tokenize_prompt(parts)
        return Prompt(begun, in_reasoning=False, answer_tokens=len(begun) - len(tokens))

    @cached_property
    def _template(self) -> ChatTemplate:
        source = self._source
        if source is None:
            if not self._vocab.has_token("<|im_start|>"):
                raise unsupported_mode("generate", self._backend, "model has no chat template")
            source = CHATML
        vocab = self._vocab
        return ChatTemplate(source, {"bos_token": vocab.bos_text, "eos_token": vocab.eos_text})


def _beginning(prefix: AnswerPrefix, *, in_reasoning: bool) -> list[Part]:
    """The beginning of an answer, in the form that Qwen and Hermes models write it.

    The markers are parts of their own and everything between them is one, because that is how
    the model's own tokens were cut.
    """
    if not (prefix.reasoning or in_reasoning):
        return [Part(prefix.text, is_content=True)]
    opening = [] if in_reasoning else [Part(THINK_OPEN, is_content=False)]
    line_end = "" if in_reasoning else "\n"
    return [
        *opening,
        Part(f"{line_end}{prefix.reasoning}\n", is_content=True),
        Part(THINK_CLOSE, is_content=False),
        Part(f"\n\n{prefix.text}", is_content=True),
    ]
