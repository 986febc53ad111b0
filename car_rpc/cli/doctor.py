"""Say what is installed, what is missing and what to do about it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from car_rpc import __version__
from car_rpc.cli.remedies import remedies
from car_rpc.cli.tables import gib, is_listed, state
from car_rpc.wire.health import ModelsHealthResult
from car_rpc.wire.lifecycle import InitializeResult
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.routing import RouteDecision
from car_rpc.wire.search import Machine, ModelsSearchResult

_ENGINES = {
    "local": "llama.cpp, for GGUF models",
    "mlx": "mlx-lm, for folders of MLX weights",
    "system": "speech to text with pocketsphinx, American English",
    "delegated": "models that the app runs itself",
    "fake": "scripted models, for an app's tests",
}

_REAL_MODEL = (
    "The demo models are toys that prove the installation. For a real model, download a GGUF file\n"
    "  and register it:\n"
    '  car-rpc call models.register \'{"model": {"id": "me/qwen3:4b", "capabilities": ["generate"],'
    ' "source": {"type": "local", "path": "/path/to/model.gguf"}}}\''
)

#: Of a request with an image each model says why it cannot; this is for who has none that could.
_NO_EYES = (
    "no model here reads images;"
    ' car-rpc call models.search \'{"capability": "vision", "fits": true}\' finds those that do,'
    " and car-rpc models pull brings one"
)


class Heard(NamedTuple):
    """What a process said of itself.

    Attributes:
        server: When it was introduced.
        models: All models it knows.
        found: Its machine, and at least the model that is recommended for it.
        health: How its models are.
    """

    server: InitializeResult
    models: Sequence[ModelSchema]
    found: ModelsSearchResult
    health: ModelsHealthResult


def report(heard: Heard, state_dir: Path, models_dir: Path, *, mlx_first: bool) -> Iterator[str]:
    """Lines for people.

    Args:
        heard: What the process said of itself.
        state_dir: Where it keeps its state.
        models_dir: Where it looks for weights.
        mlx_first: Whether MLX is better on this machine than llama.cpp.
    """
    yield f"car-rpc {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"  interpreter  {sys.executable}"
    yield f"  state        {state_dir} (set CAR_HOME or --state-dir to change it)"
    yield f"  weights      {models_dir}{_unreadable(models_dir)}"
    served = heard.server.server_info.version
    if served != __version__:
        yield f"  version      car-rpc {served} serves, which is not the one that asks: install one"
    yield "engines"
    engines = heard.server.capabilities.backends
    for name, backend in engines.items():
        here = "ok" if backend.available else f"missing: {backend.reason}"
        yield f"  {name:12} {here} - {_ENGINES.get(name, '')}"
    if all(name in engines and engines[name].available for name in ("local", "mlx")):
        yield f"  default      {_default(mlx_first=mlx_first)}"
    yield "machine"
    yield from _machine(heard.found.machine)
    yield "models"
    for model in heard.models:
        if is_listed(model):
            yield f"  {model.id:24} {state(model)}"
    for line in remedies(heard.models):
        yield f"  {line}"
    yield from _health(heard.health)
    yield from _recommended(heard.found)
    chats = [
        model for model in heard.models if model.available and "generate" in model.capabilities
    ]
    if all("demo" in model.tags for model in chats):
        yield _REAL_MODEL


def _health(health: ModelsHealthResult) -> Iterator[str]:
    counts = health.counts
    yield "health"
    yield f"  models       {counts.available} of {counts.total} available"
    for provider in health.providers:
        missing = [each.name for each in provider.credentials if each.is_set is False]
        if missing:
            yield f"  {provider.provider:12} not set: {', '.join(missing)}"
    sees = any(each.models.available for each in health.capabilities if each.capability == "vision")
    for scenario in health.routing_scenarios:
        name = scenario.name.replace("_", " ")
        if isinstance(scenario.decision, RouteDecision):
            yield f"  {name:20} {scenario.decision.model_id}: {scenario.decision.reason}"
        else:
            why = _NO_EYES if scenario.has_vision and not sees else scenario.why_none
            yield f"  {name:20} nobody: {why}"


def _unreadable(folder: Path) -> str:
    """What is wrong with a folder, behind its name; nothing where it can be read."""
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        return " (not there, which is fine; --models-dir names another)"
    except OSError as error:
        return f" cannot be read: {error.strerror}; --models-dir names another"
    return ""


def _default(*, mlx_first: bool) -> str:
    """Which engine runs a model that is there for both, and why."""
    if mlx_first:
        return "mlx, where a model is there for both: MLX makes the best of this Mac's GPU"
    return "local, where a model is there for both: without an Apple GPU, MLX uses one core"


def _machine(machine: Machine) -> Iterator[str]:
    if machine.memory_total_bytes:
        total, free = gib(machine.memory_total_bytes), gib(machine.memory_available_bytes)
        yield f"  memory       {total} for this process and its models, {free} of it free"
    yield (
        f"  processor    {machine.cores_usable} of {machine.cores_logical} threads usable,"
        f" {machine.cores_physical} cores"
    )
    for card in machine.accelerators:
        memory = card.memory_total_bytes
        yield (
            f"  {card.kind:12} {card.name or 'a graphics processor'}"
            + (f", {gib(memory)}" if isinstance(memory, int) else "")
        )


def _recommended(found: ModelsSearchResult) -> Iterator[str]:
    best = next((model for model in found.models if model.id == found.recommended), None)
    if best is None or best.weights_ready:
        return
    yield f"This machine suits {best.id}. This downloads it:\n  car-rpc models pull {best.id}"
