"""Refuse tools of which no call could be held to their parameters."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.workers.constraint.calls import (
    grammar_of_calls,
    json_parameters,
    offered,
    parameters_of,
)
from car_rpc.workers.constraint.grammar import is_unsupported, json_grammar, one_line
from car_rpc.workers.constraint.schema import Schema, UnenforceableError, WrongSchemaError
from car_rpc.workers.constraint.spellings import Spellings
from car_rpc.workers.constraint.vocabulary import GuideVocabulary
from car_rpc.workers.text.calls.writer import is_name

if TYPE_CHECKING:
    from car_rpc.wire.worker import Generate
    from car_rpc.workers.text.calls.families import Family

#: Most tools of which it is remembered what is wrong, as the turns of a conversation offer the
#: same, and the longest ones.
_REMEMBERED, _LONGEST_REMEMBERED = 256, 2**16


def check_tools(request: Generate, family: Family, backend: str) -> None:
    """See that calls of a request's tools can be enforced.

    Where it demands a call, only those that it names are looked at.

    Args:
        request: The request.
        family: How the model writes.
        backend: Name of the engine, for errors.

    Raises:
        CarError: ``unsupported_mode`` where a tool's parameters cannot be enforced,
            ``invalid_request`` where they are wrong; ``path`` names them.
    """
    for index, tool in enumerate(request.tools):
        function = tool["function"]
        if offered(function, request):
            spelled = json.dumps(function)
            look = _known_problem if len(spelled) <= _LONGEST_REMEMBERED else _problem
            problem = look(spelled, family)
            if problem is not None:
                raise _refusal(function["name"], f"$.tools[{index}].function", problem, backend)


def _problem(function: str, family: Family) -> UnenforceableError | None:
    """Why calls of a tool, as JSON, cannot be enforced; ``None`` where they can."""
    tool: dict[str, Any] = json.loads(function)
    if not is_name(tool["name"]):
        return WrongSchemaError("no model can say its name")
    letters = _letters()
    try:
        if family.form.arguments is None:
            grammar = json_grammar(json_parameters(tool))
        else:
            grammar = grammar_of_calls([tool], family, letters, "", repeated=False)
    except UnenforceableError as error:
        return error.with_traceback(None)
    except RecursionError:
        return UnenforceableError("they nest too deeply")
    said = one_line(letters.check(grammar))
    if not said or is_unsupported(said):
        return UnenforceableError(said) if said else None
    return WrongSchemaError(said, _wrong_place(parameters_of(tool)))


_known_problem = lru_cache(_REMEMBERED)(_problem)


@cache
def _letters() -> GuideVocabulary:
    """The vocabulary of bytes: whether a text can be said does not depend on the tokens."""
    tokens = [bytes([byte]) for byte in range(256)]
    end = len(tokens)
    spellings = Spellings([*tokens, b"<end>"], {end}, [end])
    return GuideVocabulary(spellings, lambda text: list(text.encode()))


def _wrong_place(schema: dict[str, Any]) -> str:
    """Where a schema is none; empty where that is unknown, as llguidance does not tell."""
    try:
        Schema(schema)
    except WrongSchemaError as error:
        return error.place
    return ""


def _refusal(name: str, place: str, problem: UnenforceableError, backend: str) -> CarError:
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
