"""From tools to grammars of calls, spelled as a family of models spells them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from car_rpc.workers.constraint.grammar import JSON_OPTIONS
from car_rpc.workers.constraint.languages import Gemma, Python
from car_rpc.workers.constraint.lark import Rules, one_of
from car_rpc.workers.constraint.schema import Schema
from car_rpc.workers.constraint.tagged import TaggedArguments
from car_rpc.workers.constraint.values import Values
from car_rpc.workers.text.calls.families import Literals, Tags
from car_rpc.workers.text.calls.harmony import CHANNEL, MESSAGE, START

if TYPE_CHECKING:
    from collections.abc import Sequence

    from car_rpc.wire.worker import Generate
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary
    from car_rpc.workers.text.calls.families import Family

#: What arguments are, whatever else is said of them.
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


class Offer(NamedTuple):
    """Calls that a model may choose to make.

    Attributes:
        grammar: The grammar of what follows the marker that opens calls, or of the whole answer
            where none does; empty where no tool can be called.
        heads: What must have been said of a call before it is known to be one; one for each tool,
            or an empty one where the marker tells.
    """

    grammar: str = ""
    heads: Sequence[bytes] = ()


def demanded_calls(request: Generate, family: Family, vocabulary: GuideVocabulary) -> str:
    """The grammar of an answer that must be calls, of the tools that the request names."""
    tools = _functions(request)
    if family.channels:
        return _in_channels(tools, vocabulary, thinks=request.params.thinking != "off")
    return _calls(request, family, vocabulary, tools)


def offered_calls(request: Generate, family: Family, vocabulary: GuideVocabulary) -> Offer:
    """The calls that the model may choose to make, once it has begun one."""
    tools = _functions(request)
    if not tools:
        return Offer()
    form = family.form
    heads = [
        f"{form.begin}{form.before_name}{_spelled(tool, family)}{form.after_name}".encode()
        for tool in tools
    ]
    # Without an end of all calls, each has a marker of its own.
    repeated = request.parallel_tool_calls and bool(form.closing or family.bare)
    grammar = grammar_of_calls(tools, family, vocabulary, "", repeated=repeated)
    return Offer(grammar, heads if family.bare else [b""])


def other_calls(request: Generate, family: Family, vocabulary: GuideVocabulary) -> str:
    """The grammar of calls that an answer may be instead of a text in a form.

    Empty where no tool is offered, or where its channel tells a call from a text.
    """
    tools = [] if family.channels else _functions(request)
    return _calls(request, family, vocabulary, tools) if tools else ""


def offered(function: dict[str, Any], request: Generate) -> bool:
    """Whether an answer may call a function of the request's tools."""
    return not request.must_call or function["name"] in request.must_call


def json_parameters(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of arguments in JSON, which are an object whatever else it says."""
    return {**(function.get("parameters") or {}), **_ANY_OBJECT}


def parameters_of(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments; they are an object also where it says nothing."""
    schema: dict[str, Any] = function.get("parameters") or {}
    return (
        schema
        if {"type", "$ref", "anyOf", "oneOf", "allOf"} & schema.keys()
        else (_ANY_OBJECT | schema)
    )


def _functions(request: Generate) -> list[dict[str, Any]]:
    functions = [tool["function"] for tool in request.tools]
    return [function for function in functions if offered(function, request)]


def _calls(
    request: Generate,
    family: Family,
    vocabulary: GuideVocabulary,
    tools: Sequence[dict[str, Any]],
) -> str:
    """The grammar of calls from their marker on."""
    opening = "" if family.bare else family.opening
    return grammar_of_calls(
        tools, family, vocabulary, opening, repeated=request.parallel_tool_calls
    )


def grammar_of_calls(
    tools: Sequence[dict[str, Any]],
    family: Family,
    vocabulary: GuideVocabulary,
    opening: str,
    *,
    repeated: bool,
) -> str:
    """The grammar of calls.

    Args:
        tools: The functions, of which one is called.
        family: How the model writes.
        vocabulary: Its vocabulary.
        opening: What stands before all calls.
        repeated: Whether more calls may follow the first.

    Raises:
        UnenforceableError: The arguments of one cannot be enforced.
    """
    form, rules = family.form, Rules(vocabulary)
    calls = [
        f"{rules.said(form.before_name + _spelled(tool, family) + form.after_name)}"
        f" {_arguments(tool, family, rules)} {rules.said(form.after_arguments)}"
        for tool in tools
    ]
    call = rules.rule(one_of([rules.rule(call) for call in calls]))
    again = f"({rules.said(form.between)} {call})*" if repeated else ""
    begin, closing = rules.said(opening + form.begin), rules.said(form.closing)
    return rules.grammar(f"{begin} {call} {again} {closing}")


def _spelled(tool: dict[str, Any], family: Family) -> str:
    """The name of a tool, as it stands in JSON where that stands around it."""
    name: str = tool["name"]
    if family.form.before_name.endswith('"'):
        return json.dumps(name, ensure_ascii=False)[1:-1]
    return name


def _arguments(tool: dict[str, Any], family: Family, rules: Rules) -> str:
    """What the arguments may be.

    Raises:
        UnenforceableError: They cannot be enforced.
    """
    parameters = parameters_of(tool)
    match family.form.arguments:
        case Tags() as tags:
            return TaggedArguments(Schema(parameters), tags, rules).arguments()
        case Literals(quote=""):
            for part in tool["name"].removesuffix(".call").split("."):
                Python.check(part)
            return Values(Schema(parameters), Python(), rules).arguments()
        case Literals(quote=quote):
            return Values(Schema(parameters), Gemma(quote), rules).arguments()
        case _:
            return f"%json {json.dumps({**json_parameters(tool), 'x-guidance': JSON_OPTIONS})}"


def _in_channels(
    tools: Sequence[dict[str, Any]], vocabulary: GuideVocabulary, *, thinks: bool
) -> str:
    """The grammar of a message, from its header on, that is reasoning or a call.

    A call names its recipient before or behind the channel, as gpt-oss and its template do.
    """
    rules = Rules(vocabulary)
    kind = f'(" " {rules.said("<|constrain|>")}? "json")?'
    messages = [f"{rules.said(f'{CHANNEL}analysis{MESSAGE}')}"] if thinks else []
    for tool in tools:
        to, channel = rules.said(f" to=functions.{tool['name']}"), rules.said(CHANNEL)
        header = f'({to} {channel} "commentary" | {channel} "commentary" {to})'
        arguments = json.dumps({**json_parameters(tool), "x-guidance": JSON_OPTIONS})
        messages.append(f"{header} {kind} {rules.said(MESSAGE)} %json {arguments}")
    return rules.grammar(f"({rules.said(START)})? {one_of(messages)}")
