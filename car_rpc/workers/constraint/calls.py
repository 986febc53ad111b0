"""From tools to grammars of calls, spelled as a family of models spells them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from car_rpc.errors import unsupported_mode
from car_rpc.workers.constraint.grammar import JSON_OPTIONS, json_grammar, one_line
from car_rpc.workers.text.calls.families import INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from car_rpc.wire.worker import Generate
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary
    from car_rpc.workers.text.calls.families import CallForm, Family

#: What any tool takes whose own parameters cannot be enforced.
_ANY_OBJECT = {"type": "object"}


def demanded_calls(
    request: Generate, family: Family, vocabulary: GuideVocabulary, backend: str
) -> str:
    """The grammar of an answer that must be calls, of the tools that the request names.

    Raises:
        CarError: ``unsupported_mode`` where the family's calls, or a tool's parameters, cannot be
            enforced.
    """
    form = family.form
    if form is None:
        reason = f"how models of its family ({family.name}) call cannot be enforced; use `auto`"
        raise unsupported_mode("tool-choice", backend, reason).with_data(
            path="$.params.tool_choice"
        )
    tools = [tool for tool in _functions(request) if tool["name"] in request.must_call]
    for tool in tools:
        problem = vocabulary.check(json_grammar(_parameters(tool)))
        if problem:
            reason = f"the parameters of {tool['name']}: {one_line(problem)}"
            raise unsupported_mode("tool-choice", backend, reason).with_data(path="$.tools")
    opening = "" if family.bare else family.opening
    return _grammar(tools, form, vocabulary, opening, repeated=request.parallel_tool_calls)


def offered_calls(
    request: Generate, family: Family, vocabulary: GuideVocabulary, *, opened: bool
) -> str:
    """The grammar of calls that the model may choose to make; empty where it cannot be made.

    Parameters that cannot be enforced may be any.

    Args:
        request: The request.
        family: How the model writes.
        vocabulary: Its vocabulary.
        opened: Whether the marker that opens calls was said already.
    """
    form = family.form
    # An answer that begins as calls of such families do may be something else after all.
    if form is None or not request.tools or family.bare:
        return ""
    tools = [
        {**tool, "parameters": _ANY_OBJECT}
        if vocabulary.check(json_grammar(_parameters(tool)))
        else tool
        for tool in _functions(request)
    ]
    # Without an end of all calls, each has a marker of its own.
    repeated = request.parallel_tool_calls and (not opened or bool(form.closing))
    opening = "" if opened else family.opening
    return _grammar(tools, form, vocabulary, opening, repeated=repeated)


def _functions(request: Generate) -> list[dict[str, Any]]:
    return [tool["function"] for tool in request.tools]


def _parameters(tool: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = tool.get("parameters") or {}
    return (
        schema
        if {"type", "$ref", "anyOf", "oneOf", "allOf"} & schema.keys()
        else (_ANY_OBJECT | schema)
    )


def _grammar(
    tools: Sequence[dict[str, Any]],
    form: CallForm,
    vocabulary: GuideVocabulary,
    opening: str,
    *,
    repeated: bool,
) -> str:
    def spelled(text: str) -> str:
        """A text in Lark's syntax."""
        parts = (vocabulary.literal(part) for part in text.split(INDEX))
        return " /[0-9]{1,2}/ ".join(parts)

    again = f"({spelled(form.between)} call)*" if repeated else ""
    lines = [f"start: {spelled(opening + form.begin)} call {again} {spelled(form.closing)}"]
    lines.append("call: " + " | ".join(f"call_{index}" for index in range(len(tools))))
    for index, tool in enumerate(tools):
        name = json.dumps(tool["name"], ensure_ascii=False)[1:-1]
        schema = json.dumps({**_parameters(tool), "x-guidance": JSON_OPTIONS})
        head, tail = spelled(form.before_name + name + form.after_name), form.after_arguments
        lines.append(f"call_{index}: {head} %json {schema} {spelled(tail)}")
    return LLMatcher.grammar_from_lark("\n".join(lines))
