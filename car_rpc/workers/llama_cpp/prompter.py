"""From a Generate frame to the tokens of its prompt."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from car_rpc.errors import unsupported_mode
from car_rpc.workers.chat.messages import template_messages
from car_rpc.workers.chat.prompt import Guard
from car_rpc.workers.chat.template import CHATML, ChatTemplate
from car_rpc.workers.text.segment import THINK_OPEN

if TYPE_CHECKING:
    from car_rpc.wire.worker import Generate
    from car_rpc.workers.chat.messages import TemplateMessage
    from car_rpc.workers.llama_cpp.vocab import Vocab

#: Name of this engine in error texts.
BACKEND = "llama_cpp"


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        tokens: Its tokens.
        in_reasoning: Whether it ends inside a reasoning block that the template opened.
    """

    tokens: list[int]
    in_reasoning: bool


class Prompter:
    """Renders and tokenizes conversations.

    Args:
        vocab: The model's vocabulary.
        source: The model's chat template, if it has one.
    """

    def __init__(self, vocab: Vocab, source: str | None) -> None:
        self._vocab = vocab
        self._source = source
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
            render, template_messages(request.messages, BACKEND), request.tools
        )
        ending = parts[-1].text.rstrip() if parts else ""
        return Prompt(self._vocab.tokenize_prompt(parts), ending.endswith(THINK_OPEN))

    @cached_property
    def _template(self) -> ChatTemplate:
        source = self._source
        if source is None:
            if not self._vocab.has_token("<|im_start|>"):
                raise unsupported_mode("generate", BACKEND, "model has no chat template")
            source = CHATML
        vocab = self._vocab
        return ChatTemplate(source, {"bos_token": vocab.bos_text, "eos_token": vocab.eos_text})
