"""From tools to grammars of calls, spelled as a family of models spells them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.workers.constraint.grammar import (
    JSON_OPTIONS,
    is_unsupported,
    json_grammar,
    one_line,
)
from car_rpc.workers.constraint.languages import Gemma, Python
from car_rpc.workers.constraint.lark import Rules, one_of
from car_rpc.workers.constraint.schema import Schema, UnenforceableError, WrongSchemaError
from car_rpc.workers.constraint.tagged import TaggedArguments
from car_rpc.workers.constraint.values import Values
from car_rpc.workers.text.calls.families import Literals, Tags
from car_rpc.workers.text.calls.harmony import CHANNEL, MESSAGE, START
from car_rpc.workers.text.calls.writer import is_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from car_rpc.wire.worker import Generate
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary
    from car_rpc.workers.text.calls.families import Family

#: What any tool takes whose own parameters cannot be enforced.
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


def demanded_calls(
    request: Generate, family: Family, vocabulary: GuideVocabulary, backend: str
) -> str:
    """The grammar of an answer that must be calls, of the tools that the request names.

    Raises:
        CarError: ``unsupported_mode`` where a tool's parameters cannot be enforced,
            ``invalid_request`` where they are wrong; ``path`` names them.
    """
    tools: list[dict[str, Any]] = []
    for index, tool in enumerate(_functions(request)):
        if tool["name"] in request.must_call:
            problem = _problem(tool, family, vocabulary)
            if problem is not None:
                raise _refusal(tool["name"], f"$.tools[{index}].function", problem, backend)
            tools.append(tool)
    if family.channels:
        return _in_channels(tools, vocabulary, thinks=request.params.thinking != "off")
    opening = "" if family.bare else family.opening
    return _grammar(tools, family, vocabulary, opening, repeated=request.parallel_tool_calls)


def offered_calls(request: Generate, family: Family, vocabulary: GuideVocabulary) -> Offer:
    """The calls that the model may choose to make, once it has begun one.

    Parameters that cannot be enforced may be any.
    """
    tools = _enforceable(request, family, vocabulary)
    if not tools:
        return Offer()
    form = family.form
    heads = [
        f"{form.begin}{form.before_name}{_spelled(tool, family)}{form.after_name}".encode()
        for tool in tools
    ]
    # Without an end of all calls, each has a marker of its own.
    repeated = request.parallel_tool_calls and bool(form.closing or family.bare)
    grammar = _grammar(tools, family, vocabulary, "", repeated=repeated)
    return Offer(grammar, heads if family.bare else [b""])


def other_calls(request: Generate, family: Family, vocabulary: GuideVocabulary) -> str:
    """The grammar of calls that an answer may be instead of a text in a form.

    Empty where no tool can be called, or where its channel tells a call from a text.
    """
    tools = [] if family.channels else _enforceable(request, family, vocabulary)
    if not tools:
        return ""
    opening = "" if family.bare else family.opening
    return _grammar(tools, family, vocabulary, opening, repeated=request.parallel_tool_calls)


def _enforceable(
    request: Generate, family: Family, vocabulary: GuideVocabulary
) -> list[dict[str, Any]]:
    """The tools that may be called, with any parameters where theirs cannot be enforced.

    One that the family cannot name is none of them: no call of it could be read.
    """
    ways = [(tool, {**tool, "parameters": _ANY_OBJECT}) for tool in _functions(request)]
    return [
        enforceable[0]
        for way in ways
        if (enforceable := [tool for tool in way if _problem(tool, family, vocabulary) is None])
    ]


def _functions(request: Generate) -> list[dict[str, Any]]:
    return [tool["function"] for tool in request.tools]


def _refusal(name: str, place: str, problem: UnenforceableError, backend: str) -> CarError:
    """What is said of a tool that cannot be demanded."""
    if not is_name(name):
        path = f"{place}.name"
        return CarError("invalid_request", f"{problem}: {name!r} - at `{path}`", path=path)
    if isinstance(problem, WrongSchemaError):
        path = f"{place}.parameters{problem.place}"
        detail = f"the parameters of {name} are wrong: {problem}; mend the schema - at `{path}`"
        return CarError("invalid_request", detail, path=path)
    path = f"{place}.parameters"
    reason = f"the parameters of {name}: {problem} - at `{path}`"
    return unsupported_mode("tool-choice", backend, reason, path=path)


def _problem(
    tool: dict[str, Any], family: Family, vocabulary: GuideVocabulary
) -> UnenforceableError | None:
    """Why calls of a tool cannot be enforced; ``None`` where they can."""
    if not is_name(tool["name"]):
        return WrongSchemaError("no model can say its name")
    try:
        if family.form.arguments is None:
            grammar = json_grammar(_json_parameters(tool))
        else:
            grammar = _grammar([tool], family, vocabulary, "", repeated=False)
    except UnenforceableError as error:
        return error
    except RecursionError:
        return UnenforceableError("they nest too deeply")
    said = one_line(vocabulary.check(grammar))
    if not said or is_unsupported(said):
        return UnenforceableError(said) if said else None
    return WrongSchemaError(said, _wrong_place(_parameters(tool)))


def _wrong_place(schema: dict[str, Any]) -> str:
    """Where a schema is none; empty where that is unknown, as llguidance does not tell."""
    try:
        Schema(schema)
    except WrongSchemaError as error:
        return error.place
    return ""


def _json_parameters(tool: dict[str, Any]) -> dict[str, Any]:
    """The schema of arguments in JSON, which are an object whatever else it says."""
    return {**(tool.get("parameters") or {}), **_ANY_OBJECT}


def _parameters(tool: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = tool.get("parameters") or {}
    return (
        schema
        if {"type", "$ref", "anyOf", "oneOf", "allOf"} & schema.keys()
        else (_ANY_OBJECT | schema)
    )


def _grammar(
    tools: Sequence[dict[str, Any]],
    family: Family,
    vocabulary: GuideVocabulary,
    opening: str,
    *,
    repeated: bool,
) -> str:
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
    parameters = _parameters(tool)
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
            return f"%json {json.dumps({**_json_parameters(tool), 'x-guidance': JSON_OPTIONS})}"


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
        arguments = json.dumps({**_json_parameters(tool), "x-guidance": JSON_OPTIONS})
        messages.append(f"{header} {kind} {rules.said(MESSAGE)} %json {arguments}")
    return rules.grammar(f"({rules.said(START)})? {one_of(messages)}")
