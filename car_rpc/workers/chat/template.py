"""Chat templates of model files, rendered in a sandbox.

A template comes from whoever made the model file. The sandbox keeps it away from Python, and
the limits here keep it from filling the memory in the usual ways. A template that never ends
is the business of the core, which kills the worker (see :class:`car_rpc.wire.worker.Rendering`).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from car_rpc.errors import CarError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2.environment import Template
    from jinja2.nodes import Node
    from jinja2.parser import Parser

T = TypeVar("T")

#: Longest prompt in characters. Four times the text of the longest contexts in use (1M tokens),
#: and little enough to hold in memory several times.
MAX_PROMPT_CHARS = 16 * 1024 * 1024

#: Largest product of a sequence and a number, in items: templates repeat single characters.
MAX_REPEATED_ITEMS = 100_000

#: Used where the file has no template but the vocabulary knows ChatML's markers.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


class _Generation(Extension):
    """Lets ``{% generation %}`` pass: it marks what to train on and prints nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance's attribute

    def parse(self, parser: Parser) -> list[Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with a limit on what a template can build from nothing."""

    intercepted_binops = frozenset({"*", "**"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # Some templates collect messages in a list of their own (Kimi K2 Thinking). What they are
        # given belongs to this one rendering, so there is nothing to protect.
        is_own = attr in ("append", "pop") and isinstance(obj, list)
        return is_own or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if hasattr(side, "__len__")]
        counts = [side for side in (left, right) if isinstance(side, int)]
        if operator == "**" or (sizes and counts and sizes[0] * counts[0] > MAX_REPEATED_ITEMS):
            raise jinja2.TemplateError("it builds a value that is too large")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A compiled template.

    Args:
        source: Text of the template.
        constants: Names that the template may use besides the conversation, such as
            ``bos_token``.

    Raises:
        CarError: The template has a syntax error (``invalid_request``).
    """

    def __init__(self, source: str, constants: Mapping[str, Any]) -> None:
        sandbox: Any = _Sandbox(  # jinja2 leaves the types of its tables open
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        sandbox.filters["tojson"] = _to_json
        sandbox.globals.update(
            constants, raise_exception=_raise_exception, strftime_now=_strftime_now
        )
        self._template: Template = _guarded(lambda: sandbox.from_string(source))

    def render(self, variables: Mapping[str, Any]) -> str:
        """The prompt for a conversation.

        Raises:
            CarError: The template fails or its output is too long (``invalid_request``).
        """
        return _guarded(lambda: self._joined(variables))

    def _joined(self, variables: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        length = 0
        for piece in self._template.generate(variables):
            length += len(piece)
            if length > MAX_PROMPT_CHARS:
                raise jinja2.TemplateError(f"it wrote more than {MAX_PROMPT_CHARS} characters")
            pieces.append(piece)
        return "".join(pieces)


def _guarded(act: Callable[[], T]) -> T:
    try:
        return act()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CarError(
            "invalid_request", f"the model's own chat template failed: {reason}"
        ) from error


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now(UTC).astimezone().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which models have never seen.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
