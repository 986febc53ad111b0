"""From a Generate frame to the tokens of its prompt."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from car_rpc.errors import unsupported_mode
from car_rpc.workers.chat.media import MediaMarks
from car_rpc.workers.chat.messages import template_messages, template_tools
from car_rpc.workers.chat.prompt import Guard, Part
from car_rpc.workers.chat.template import CHATML, ChatTemplate
from car_rpc.workers.text.calls.families import HERMES, Family, family_of
from car_rpc.workers.text.calls.harmony import CHANNEL, ENDS, MESSAGE, START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from car_rpc.wire.worker import AnswerPrefix, Generate
    from car_rpc.workers.chat.media import Medium
    from car_rpc.workers.chat.messages import TemplateMessage

    #: Tokens, and the images and recordings among them.
    Tokens = tuple[list[int], Sequence[Medium]]
    Tokenize = Callable[[Sequence[Part]], Tokens]


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

    @property
    def end_tokens(self) -> Sequence[int]:
        """Tokens that end an answer, the one that ends a text before the others."""
        ...

    def spelling(self, token: int) -> bytes:
        """Bytes that spell a token, also one that shows nothing."""
        ...

    def tokenize_prompt(self, parts: Iterable[Part]) -> list[int]:
        """Tokens of a rendered prompt; a missing first token is added, a second never."""
        ...

    def show(self, markers: Iterable[str]) -> None:
        """Let control tokens that are spelled like these be part of what a model says."""
        ...


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        tokens: Its tokens.
        in_reasoning: Whether it ends inside a reasoning block that the template opened.
        family: How the model writes.
        answer_tokens: How many tokens at its end are the beginning of the answer.
        counted_tokens: How many of these were counted as tokens of the answer before.
        media: Its images and recordings, in order; a number below 0 stands in ``tokens`` for each
            place that one takes.
    """

    tokens: list[int]
    in_reasoning: bool
    family: Family = HERMES
    answer_tokens: int = 0
    counted_tokens: int = 0
    media: Sequence[Medium] = ()

    @property
    def size(self) -> int:
        """How many tokens of the context it takes."""
        return len(self.tokens) + sum(each.size - each.positions for each in self.media)


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
        #: How the model writes.
        self.family = family_of(source, vocab.has_token)
        vocab.show(self.family.markers)
        self._guard = Guard(vocab.control_spellings())

    def prompt(self, request: Generate, tokenize: Tokenize | None = None) -> Prompt:
        """The prompt of a request.

        Args:
            request: The request.
            tokenize: Makes tokens of parts that are images or recordings, too; ``None`` where the
                engine cannot read them.

        Raises:
            CarError: The conversation does not suit the model (``unsupported_mode``), its
                template fails (``invalid_request``) or its text cannot be tokenized.
        """
        if request.must_call and "tools" not in (self._source or ""):
            reason = "the model's chat template takes no tools; use another model"
            raise unsupported_mode("tool-choice", self._backend, reason)
        options: dict[str, Any] = {"add_generation_prompt": True}
        if request.params.thinking != "auto":  # undefined is the template's own default
            options["enable_thinking"] = request.params.thinking == "on"

        def render(messages: list[TemplateMessage], tools: list[dict[str, Any]]) -> str:
            return self._template.render({"messages": messages, "tools": tools or None, **options})

        marks = None if tokenize is None else MediaMarks(request)
        mark = None if marks is None else marks.put
        parts = self._guard.render(
            render,
            template_messages(request.messages, self._backend, mark),
            template_tools(request.tools),
        )
        if marks is not None:
            parts = marks.split(parts)
        ending = parts[-1].text.rstrip() if parts else ""
        in_reasoning = ending.endswith(self.family.think[0].rstrip())
        tokenize = tokenize or self._of_text
        tokens, media = tokenize(parts)
        if request.prefix is None:
            return Prompt(tokens, in_reasoning, self.family, media=media)
        parts += _beginning(request.prefix, self.family, in_reasoning=in_reasoning)
        begun, media = tokenize(parts)
        answer_tokens = len(begun) - len(tokens)
        return Prompt(
            begun,
            in_reasoning=False,
            family=self.family,
            answer_tokens=answer_tokens,
            counted_tokens=self._counted(request.prefix, answer_tokens),
            media=media,
        )

    def _counted(self, prefix: AnswerPrefix, answer_tokens: int) -> int:
        """How many tokens of the beginning of an answer were counted before."""
        if not prefix.counted_chars:
            return 0
        rest = Part(prefix.text[prefix.counted_chars :], is_content=True)
        # Both may have a first token that is no part of the text.
        rest_tokens = len(self._vocab.tokenize_prompt([rest])) - len(
            self._vocab.tokenize_prompt([])
        )
        return answer_tokens - rest_tokens

    def _of_text(self, parts: Sequence[Part]) -> Tokens:
        return self._vocab.tokenize_prompt(parts), ()

    @cached_property
    def end_of_turn(self) -> int:
        """The token that ends an answer: of those that end one, the first that the template writes.

        Gemma's ``eos_token``, for one, ends a text, and another token its turns.
        """
        source, vocab = self._source or CHATML, self._vocab
        for token in vocab.end_tokens:
            text = vocab.spelling(token).decode("utf-8", "replace")
            if (text and text in source) or (text == vocab.eos_text and "eos_token" in source):
                return token
        return next(iter(vocab.end_tokens), 0)

    @cached_property
    def _template(self) -> ChatTemplate:
        source = self._source
        if source is None:
            if not self._vocab.has_token("<|im_start|>"):
                raise unsupported_mode("generate", self._backend, "model has no chat template")
            source = CHATML
        vocab = self._vocab
        return ChatTemplate(source, {"bos_token": vocab.bos_text, "eos_token": vocab.eos_text})


def _beginning(prefix: AnswerPrefix, family: Family, *, in_reasoning: bool) -> list[Part]:
    """The beginning of an answer, in the form that its family writes it.

    The markers are parts of their own and everything between them is one, because that is how
    the model's own tokens were cut.
    """
    if family.channels:
        return _messages(prefix)
    if not (prefix.reasoning or in_reasoning):
        return [Part(prefix.text, is_content=True)]
    think_open, think_close = family.think
    opening = [] if in_reasoning else [Part(think_open, is_content=False)]
    line_end = "" if in_reasoning else "\n"
    return [
        *opening,
        Part(f"{line_end}{prefix.reasoning}\n", is_content=True),
        Part(think_close, is_content=False),
        Part(f"\n\n{prefix.text}", is_content=True),
    ]


def _messages(prefix: AnswerPrefix) -> list[Part]:
    """The beginning of an answer behind the start of its first message, in Harmony's channels."""
    analysis = [
        Part(f"{CHANNEL}analysis{MESSAGE}", is_content=False),
        Part(prefix.reasoning, is_content=True),
        Part(f"{ENDS[0]}{START}", is_content=False),
    ]
    return [
        *(analysis if prefix.reasoning else []),
        Part(f"{CHANNEL}final{MESSAGE}", is_content=False),
        Part(prefix.text, is_content=True),
    ]
