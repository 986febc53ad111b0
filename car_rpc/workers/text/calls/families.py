"""The families of models: by which marks each is known, and how it writes calls and reasoning."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from car_rpc.workers.text.calls import readers
from car_rpc.workers.text.calls.harmony import CHANNEL, ENDS, MARKERS, MESSAGE, START

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.workers.text.calls.readers import Reader

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


#: Stand for the number of a call in its answer, and for a line end that may be left out.
INDEX, LINE = "{index}", "{line}"


class Tags(NamedTuple):
    """How arguments are spelled whose values stand between tags.

    Attributes:
        before_key: What stands before the name of an argument.
        after_key: What stands between the name and the value.
        end: What ends the value.
        between: What stands behind it.
    """

    before_key: str
    after_key: str
    end: str
    between: str


class Literals(NamedTuple):
    """Arguments are spelled in a language of their own.

    Attributes:
        quote: What stands around texts; empty for Python's quotes and literals.
    """

    quote: str = ""


class CallForm(NamedTuple):
    """How a call is spelled, so that it can be enforced.

    Attributes:
        before_name: What stands before the name.
        after_name: What stands between the name and the arguments.
        after_arguments: What ends the call.
        between: What stands between two calls.
        begin: What stands before the first, behind the opening marker.
        closing: What ends the last one; empty where every call has its own marker.
        arguments: How its arguments are spelled; ``None`` for JSON.
    """

    before_name: str
    after_name: str
    after_arguments: str = ""
    between: str = ""
    begin: str = ""
    closing: str = ""
    arguments: Tags | Literals | None = None


class Family(NamedTuple):
    """How a family of models writes.

    Attributes:
        name: Its name, for people.
        marks: Texts of which each must occur in its chat template.
        opening: The marker that begins calls; empty where none does.
        read: Reads what follows.
        closing: The marker that ends what looks like a call; empty where none does.
        form: How its calls are enforced.
        bare: The character that begins a call which is the whole answer.
        think: The markers around reasoning.
        inner: Markers that only stand inside of calls.
        channels: Whether it writes all of an answer in messages of channels
            (:mod:`car_rpc.workers.text.calls.harmony`).
    """

    name: str
    marks: tuple[str, ...]
    opening: str
    read: Reader
    form: CallForm
    closing: str = ""
    bare: str = ""
    think: tuple[str, str] = (THINK_OPEN, THINK_CLOSE)
    inner: tuple[str, ...] = ()
    channels: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """What an engine must show even where its vocabulary calls it special."""
        return tuple(filter(None, (*self.think, self.opening, self.closing, *self.inner)))


HERMES = Family(
    name="hermes",
    marks=("<tool_call>",),
    opening="<tool_call>",
    read=readers.tool_call,
    closing="</tool_call>",
    form=CallForm('\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n<tool_call>"),
)

_DEEPSEEK_INNER = (readers.DEEPSEEK_CALL, readers.DEEPSEEK_SEP, readers.DEEPSEEK_CALL_END)
_MISTRAL_INNER = ("[ARGS]", "[CALL_ID]")
_MISTRAL_THINK = ("[THINK]", "[/THINK]")

#: The first whose marks all occur in a template is its family.
FAMILIES = (
    Family(
        name="harmony",
        marks=(CHANNEL, MESSAGE),
        opening="",
        read=readers.tool_call,  # of which nothing is asked
        form=CallForm("", "\n"),  # as the reader of its channels tells of one
        think=(START, ENDS[0]),
        channels=True,
        inner=MARKERS,
    ),
    Family(
        name="gemma4",
        marks=("<|tool_call>", "<tool_call|>"),
        opening="<|tool_call>",
        read=readers.gemma('<|"|>', "<tool_call|>"),
        closing="<tool_call|>",
        form=CallForm("call:", "{", "}<tool_call|>", "<|tool_call>", arguments=Literals('<|"|>')),
        think=("<|channel>thought\n", "<channel|>"),
        inner=('<|"|>', "<|channel>"),
    ),
    Family(
        name="function_gemma",
        marks=("<start_function_call>",),
        opening="<start_function_call>",
        read=readers.gemma("<escape>", "<end_function_call>"),
        closing="<end_function_call>",
        form=CallForm(
            "call:",
            "{",
            "}<end_function_call>",
            "<start_function_call>",
            arguments=Literals("<escape>"),
        ),
        inner=("<escape>",),
    ),
    Family(
        name="kimi",
        marks=("<|tool_calls_section_begin|>",),
        opening="<|tool_calls_section_begin|>",
        read=readers.kimi,
        closing="<|tool_calls_section_end|>",
        form=CallForm(
            "<|tool_call_begin|>functions.",
            f":{INDEX}<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            closing="<|tool_calls_section_end|>",
        ),
        inner=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    ),
    Family(
        name="deepseek_v3",
        marks=(readers.DEEPSEEK_CALLS, "```json"),
        opening=readers.DEEPSEEK_CALLS,
        read=readers.deepseek,
        closing=readers.DEEPSEEK_CALLS_END,
        form=CallForm(
            f"{readers.DEEPSEEK_CALL}function{readers.DEEPSEEK_SEP}",
            "\n```json\n",
            f"\n```{readers.DEEPSEEK_CALL_END}",
            "\n",
            closing=readers.DEEPSEEK_CALLS_END,
        ),
        inner=_DEEPSEEK_INNER,
    ),
    Family(
        name="deepseek",
        marks=(readers.DEEPSEEK_CALLS,),
        opening=readers.DEEPSEEK_CALLS,
        read=readers.deepseek,
        closing=readers.DEEPSEEK_CALLS_END,
        form=CallForm(
            readers.DEEPSEEK_CALL,
            readers.DEEPSEEK_SEP,
            readers.DEEPSEEK_CALL_END,
            closing=readers.DEEPSEEK_CALLS_END,
        ),
        inner=_DEEPSEEK_INNER,
    ),
    Family(
        name="mistral",
        marks=("[TOOL_CALLS]", "[ARGS]"),
        opening="[TOOL_CALLS]",
        read=readers.mistral,
        form=CallForm("", "[ARGS]", between="[TOOL_CALLS]"),
        think=_MISTRAL_THINK,
        inner=_MISTRAL_INNER,
    ),
    Family(
        name="mistral_list",
        marks=("[TOOL_CALLS]",),
        opening="[TOOL_CALLS]",
        read=readers.mistral,
        form=CallForm('{"name": "', '", "arguments": ', "}", ", ", "[", "]"),
        think=_MISTRAL_THINK,
        inner=_MISTRAL_INNER,
    ),
    *(
        Family(
            name="lfm2",
            marks=(mark,),
            opening="<|tool_call_start|>",
            read=readers.pythonic,
            closing="<|tool_call_end|>",
            form=CallForm("", "(", ")", ", ", "[", "]<|tool_call_end|>", Literals()),
        )
        # Some of its templates write calls, others only the tools.
        for mark in ("<|tool_call_start|>", "<|tool_list_start|>")
    ),
    Family(
        name="glm",
        marks=("<arg_key>",),
        opening="<tool_call>",
        read=readers.glm,
        closing="</tool_call>",
        form=CallForm(
            "",
            LINE,
            "</tool_call>",
            f"{LINE}<tool_call>",
            arguments=Tags("<arg_key>", f"</arg_key>{LINE}<arg_value>", "</arg_value>", LINE),
        ),
    ),
    Family(
        name="qwen_coder",
        marks=("<function=", "<parameter="),
        opening="<tool_call>",
        read=readers.tool_call,
        closing="</tool_call>",
        form=CallForm(
            "\n<function=",
            ">\n",
            "</function>\n</tool_call>",
            "\n<tool_call>",
            arguments=Tags("<parameter=", ">\n", "\n</parameter>", "\n"),
        ),
    ),
    HERMES,
    Family(
        name="llama",
        marks=("<|start_header_id|>", '"parameters"'),
        opening="<|python_tag|>",
        read=readers.llama,
        form=CallForm('{"name": "', '", "parameters": ', "}", "; "),
        bare="{",
    ),
    Family(
        name="llama4",
        marks=("<|header_start|>",),
        opening="<|python_start|>",
        read=readers.bare_pythonic,
        closing="<|python_end|>",
        form=CallForm("", "(", ")", ", ", "[", "]", Literals()),
        bare="[",
    ),
)


def family_of(template: str | None, has_token: Callable[[str], bool]) -> Family:
    """The family of a model; Hermes and Qwen's where nothing is known of it.

    Args:
        template: Its chat template, if it has one.
        has_token: Whether a text is one token of its vocabulary: some templates write no calls.
    """
    for family in FAMILIES:
        if template is not None and all(mark in template for mark in family.marks):
            return family
    others = [family for family in FAMILIES if family.opening not in ("", HERMES.opening)]
    return next((family for family in others if has_token(family.opening)), HERMES)
