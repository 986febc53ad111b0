"""A client's request in the form that workers take: defaults applied, the rest refused."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec
from msgspec import UNSET

from car_rpc.backends.local.media import places_of, with_images
from car_rpc.errors import CarError, invalid_params, unsupported_mode
from car_rpc.wire.content import Message, TextBlock
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.worker import Generate, SamplingParams

#: Engines that choose their tokens here: a form can be enforced, and likelihoods can be read.
LANGUAGE_ENGINES = ("llama_cpp", "mlx")

#: Types of JSON Schema that arguments cannot have; a type that is none is told of by the worker.
_OTHER_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "string"})

_SEED_BITS = 64

_TOKEN_ID = re.compile("[0-9]{1,9}")


def to_worker(
    model: ModelSchema, request: GenerateRequest, backend: str, request_id: int
) -> Generate:
    """The worker's frame for a request.

    Args:
        model: The model that runs it.
        request: The client's request.
        backend: Name of the backend, for errors.
        request_id: Id of the frame.

    Raises:
        CarError: ``unsupported_mode`` for what this backend cannot enforce, ``invalid_request``
            for a tool that none could call.
    """
    _refuse(request, backend)
    form = request.response_format
    tools = _tools(request)
    messages = conversation(request)
    return Generate(
        id=request_id,
        messages=messages,
        places=places_of(model, request, messages, backend),
        tools=tools,
        must_call=_must_call(request, tools),
        parallel_tool_calls=request.params.parallel_tool_calls is not False,
        response_format=None if form is UNSET else form,
        params=_params(model, request),
        prefix_cache=request.prefix_cache,
    )


def conversation(request: GenerateRequest) -> list[Message]:
    """All turns: the context as system text, the messages, the prompt, and the images with it."""
    messages = list(request.messages) if isinstance(request.messages, list) else []
    if isinstance(request.context, str) and request.context:
        messages = _with_context(messages, request.context)
    if isinstance(request.prompt, str):
        messages.append(Message(role="user", content=request.prompt))
    return with_images(messages, request.images) if request.images else messages


def _with_context(messages: list[Message], context: str) -> list[Message]:
    # Templates take one system turn, the first; a second one is an error in many.
    if not messages or messages[0].role != "system":
        return [Message(role="system", content=context), *messages]
    first = messages[0].content
    added = f"\n\n{context}"
    joined = first + added if isinstance(first, str) else [*first, TextBlock(text=added)]
    return [msgspec.structs.replace(messages[0], content=joined), *messages[1:]]


def _refuse(request: GenerateRequest, backend: str) -> None:
    params = request.params
    if request.response_format is not UNSET and backend not in LANGUAGE_ENGINES:
        kind = msgspec.to_builtins(request.response_format)["type"].replace("_", "-")
        reason = "nothing can change what it says; use a local model"
        raise unsupported_mode(f"structured-output-{kind}", backend, reason)
    if request.overflow == "truncate":
        reason = "turns are not cut yet; send a shorter conversation"
        raise unsupported_mode("overflow-truncate", backend, reason)
    if params.tool_choice not in (UNSET, "auto", "none") and backend not in LANGUAGE_ENGINES:
        reason = "nothing can change what it says; use a local model"
        raise unsupported_mode("tool-choice", backend, reason)
    if params.logprobs not in (UNSET, 0) and backend not in LANGUAGE_ENGINES:
        raise unsupported_mode(
            "logprobs", backend, "it has no log-probabilities; use a local model"
        )


def _tools(request: GenerateRequest) -> list[dict[str, Any]]:
    if request.tools is UNSET or request.params.tool_choice == "none":
        return []
    tools: list[dict[str, Any]] = msgspec.to_builtins(request.tools)
    for index, tool in enumerate(tools):
        _check_tool(tool["function"], f"$.tools[{index}].function")
    return tools


def _check_tool(tool: dict[str, Any], place: str) -> None:
    """What is wrong for every model is refused before one is loaded; the worker sees the rest."""
    if not tool["name"]:
        path = f"{place}.name"
        raise CarError("invalid_request", f"a tool needs a name - at `{path}`", path=path)
    declared: object = tool.get("parameters", {}).get("type", "object")
    types = cast("list[object]", declared) if isinstance(declared, list) else [declared]
    if "object" not in types and _OTHER_TYPES.issuperset(map(str, types)):
        path = f"{place}.parameters"
        detail = (
            f"the arguments of {tool['name']} are an object, whose members are its parameters;"
            f' declare `"type": "object"` with `properties` - at `{path}`'
        )
        raise CarError("invalid_request", detail, path=path)


def _must_call(request: GenerateRequest, tools: list[dict[str, Any]]) -> list[str]:
    """Names of the tools of which one must be called; none where none must."""
    choice = request.params.tool_choice
    if choice in (UNSET, "auto", "none"):
        return []
    names = [tool["function"]["name"] for tool in tools]
    if choice not in ("required", "any"):
        name = _chosen(choice)
        names = [each for each in names if each == name]
    if not names:
        path = "$.params.tool_choice"
        detail = f"a tool call is demanded, but there is no such tool - at `{path}`"
        raise CarError("invalid_request", detail, path=path)
    return names


def _chosen(choice: Any) -> Any:
    """The name in a choice: as such, or in one of OpenAI's two forms."""
    if not isinstance(choice, dict):
        return choice
    members = cast("dict[str, Any]", choice)
    function: Any = members.get("function", members)
    return cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else function


def _params(model: ModelSchema, request: GenerateRequest) -> SamplingParams:
    given = {
        field: value
        for field in SamplingParams.__struct_fields__
        if (value := getattr(request.params, field)) is not UNSET
    }
    if isinstance(model.max_output_tokens, int):
        asked = given.get("max_tokens", model.max_output_tokens)
        given["max_tokens"] = min(asked, model.max_output_tokens)
    if "seed" in given:
        given["seed"] = int(given["seed"]) % (1 << _SEED_BITS)
    if "logit_bias" in given:
        given["logit_bias"] = _logit_bias(given["logit_bias"])
    return SamplingParams(**given)


def _logit_bias(by_token: dict[str, float]) -> dict[int, float]:
    if not all(_TOKEN_ID.fullmatch(token) for token in by_token):
        detail = "the keys must be token ids (`tokenize` gives them)"
        raise invalid_params(detail, "$.params.logit_bias")
    return {int(token): bias for token, bias in by_token.items()}
