"""The body of a chat completion for a client's request. Pure.

What the client did not set is absent, so the server's own defaults hold. Settings that OpenAI's
API does not know (``top_k``, ``min_p``, ``repeat_penalty``, ``ignore_eos``) go out under the names
that servers of open models share. ``budget_tokens`` has no name there and is left out.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from car_rpc.backends.openai_compat.messages import Json, messages_of
from car_rpc.backends.promises import demands_call, demands_json
from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.inference import (
    GenerateParams,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
)
from car_rpc.wire.models import ModelSchema

#: Name of this backend, for errors.
BACKEND = "openai_compat"

#: Settings that go out under their own names.
_PLAIN = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "logit_bias",
    "reasoning_effort",
    "ignore_eos",
)

_CHOICES = ("auto", "none", "required")

#: Names of settings that make ``response_format`` known to be supported.
_FORMATS = ("response_format", "structured_outputs")


def body_of(model: ModelSchema, upstream_model: str, request: GenerateRequest) -> Json:
    """The JSON body of ``/v1/chat/completions``.

    Args:
        model: The model; settings that its ``supported_params`` lacks are left out, unless the
            list is empty.
        upstream_model: What the server calls it.
        request: The client's request.

    Raises:
        CarError: ``invalid_request`` for content that cannot be sent, ``unsupported_mode`` for
            what could not be enforced.
    """
    _refuse(model, request)
    body: Json = {
        "model": upstream_model,
        "messages": messages_of(request),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    settings = _settings(model, request.params)
    body |= {name: value for name, value in settings.items() if _knows(model, name)}
    body |= _tools(request)
    if isinstance(request.response_format, JsonSchemaFormat | JsonObjectFormat):
        body["response_format"] = _response_format(request.response_format)
    return body


def _knows(model: ModelSchema, *names: str) -> bool:
    known = model.supported_params
    return not known or any(name in known for name in names)


def _refuse(model: ModelSchema, request: GenerateRequest) -> None:
    wanted = request.response_format
    if wanted is not UNSET:
        kind = str(wanted.__struct_config__.tag).replace("_", "-")
        if not demands_json(request):
            reason = "OpenAI's API has no such form; use `json_schema`, or a local model"
            raise unsupported_mode(f"structured-output-{kind}", BACKEND, reason)
        if not _knows(model, *_FORMATS):
            reason = f"{model.id} does not list `response_format` in `supported_params`"
            raise unsupported_mode(f"structured-output-{kind}", BACKEND, reason)
    if demands_call(request) and not _knows(model, "tool_choice"):
        reason = f"{model.id} does not list `tool_choice` in `supported_params`"
        raise unsupported_mode("tool-choice", BACKEND, reason)
    if request.overflow == "truncate":
        reason = "turns are not cut yet; send a shorter conversation"
        raise unsupported_mode("overflow-truncate", BACKEND, reason)


def _settings(model: ModelSchema, params: GenerateParams) -> Json:
    settings = {name: value for name in _PLAIN if (value := getattr(params, name)) is not UNSET}
    if isinstance(params.max_tokens, int):
        limit = model.max_output_tokens
        settings[_limit_name(model)] = (
            min(params.max_tokens, limit) if isinstance(limit, int) else params.max_tokens
        )
    if params.seed is not UNSET:
        settings["seed"] = int(params.seed)
    if isinstance(params.logprobs, int) and params.logprobs > 0:
        settings |= {"logprobs": True, "top_logprobs": params.logprobs}
    if params.thinking in ("on", "off"):
        # vLLM, SGLang, llama.cpp and mlx_lm hand this to the chat template.
        settings["chat_template_kwargs"] = {"enable_thinking": params.thinking == "on"}
    return settings


def _limit_name(model: ModelSchema) -> str:
    # OpenAI's reasoning models know only the newer name, most other servers only the older one.
    newer = "max_completion_tokens"
    return newer if newer in model.supported_params else "max_tokens"


def _tools(request: GenerateRequest) -> Json:
    if not request.tools:
        if demands_call(request):
            path = "$.params.tool_choice"
            detail = f"a tool call is demanded, but there are no tools - at `{path}`"
            raise CarError("invalid_request", detail, path=path)
        return {}
    tools: Json = {"tools": msgspec.to_builtins(request.tools)}
    choice = request.params.tool_choice
    if choice is not UNSET:
        tools["tool_choice"] = _tool_choice(choice)
    if request.params.parallel_tool_calls is not UNSET:
        tools["parallel_tool_calls"] = request.params.parallel_tool_calls
    return tools


def _tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(choice, dict) or choice in _CHOICES:
        return choice
    return {"type": "function", "function": {"name": choice}}


def _response_format(wanted: JsonSchemaFormat | JsonObjectFormat) -> Json:
    if isinstance(wanted, JsonObjectFormat):
        return {"type": "json_object"}
    schema: Json = {"name": "answer" if wanted.name is UNSET else wanted.name}
    schema["schema"] = wanted.schema
    if wanted.strict is not UNSET:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}
