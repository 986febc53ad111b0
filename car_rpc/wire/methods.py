"""The one method table. The dispatcher, the specification and the bindings are made from it."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple, get_type_hints

import msgspec

from car_rpc.errors import KINDS
from car_rpc.wire import content, events, inference, lifecycle, log, models, runner

Direction = Literal["client_to_core", "core_to_client", "both"]


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        params: Type of the parameters.
        result: Type of the result, or ``None`` when it is null or there is none.
        kind: Whether it is a request, a notification or either.
        direction: Who sends it.
        inline: Handled in order of arrival, without a task.
        logged: Whether the event log holds it.
        stream: Notification that carries the events before its response.
    """

    params: Any
    result: Any = None
    kind: Literal["request", "notification", "either"] = "request"
    direction: Direction = "client_to_core"
    inline: bool = False
    logged: bool = False
    stream: str | None = None


METHODS: dict[str, Method] = {
    "initialize": Method(lifecycle.InitializeParams, lifecycle.InitializeResult, inline=True),
    "ping": Method(lifecycle.EmptyParams, lifecycle.PingResult, direction="both", inline=True),
    "shutdown": Method(lifecycle.EmptyParams),
    "exit": Method(lifecycle.EmptyParams, kind="notification", inline=True),
    "$/cancelRequest": Method(
        lifecycle.CancelParams, kind="notification", direction="both", inline=True
    ),
    "$/progress": Method(lifecycle.ProgressParams, kind="notification", direction="core_to_client"),
    "log": Method(lifecycle.LogParams, kind="notification", direction="core_to_client"),
    "generate": Method(
        inference.GenerateRequest,
        inference.InferenceResult,
        logged=True,
        stream="generate.event",
    ),
    "generate.event": Method(
        inference.GenerateEventParams, kind="notification", direction="core_to_client"
    ),
    "embed": Method(inference.EmbedParams, inference.EmbedResult, logged=True),
    "tokenize": Method(inference.TokenizeParams, inference.TokenizeResult),
    "detokenize": Method(inference.DetokenizeParams, inference.DetokenizeResult),
    "models.list": Method(models.ModelsListParams, models.ModelsListResult, inline=True),
    "models.get": Method(models.ModelParams, models.ModelResult, inline=True),
    "models.register": Method(
        models.ModelsRegisterParams, models.ModelsRegisterResult, logged=True
    ),
    "models.unregister": Method(models.ModelParams, models.ModelsUnregisterResult, logged=True),
    "runner.register": Method(
        runner.RunnerRegisterParams, runner.RunnerRegisterResult, logged=True
    ),
    "runner.unregister": Method(lifecycle.EmptyParams, runner.RunnerUnregisterResult, logged=True),
    "runner.run": Method(
        runner.RunnerRunParams,
        runner.RunnerResult,
        direction="core_to_client",
        stream="runner.event",
    ),
    "runner.event": Method(
        runner.RunnerEventParams, runner.RunnerEventResult, kind="either", inline=True
    ),
    "eventlog.query": Method(log.EventlogQueryParams, log.EventlogQueryResult),
}


def spec_hash() -> str:
    """Fingerprint of the method table, the error table and every type of the wire."""
    digest = hashlib.sha256()
    for name, row in sorted(METHODS.items()):
        digest.update(f"{name} {row.kind} {row.direction} {row.stream}\n".encode())
    for module in (content, events, inference, lifecycle, log, models, runner):
        for name, value in sorted(vars(module).items()):
            if isinstance(value, type) and issubclass(value, msgspec.Struct):
                fields = get_type_hints(value, include_extras=True)
                digest.update(f"{name} {fields} {value.__struct_defaults__}\n".encode())
    digest.update(repr(sorted(KINDS.items())).encode())
    return digest.hexdigest()[:16]
