"""Say what is installed, what is missing and what to do about it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from car_rpc import __version__
from car_rpc.wire.lifecycle import InitializeResult
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema
from car_rpc.wire.search import Machine, ModelsSearchResult

_ENGINES = {
    "local": "llama.cpp, for GGUF models",
    "mlx": "mlx-lm, for folders of MLX weights",
    "system": "speech to text with pocketsphinx, American English",
    "delegated": "models that the app runs itself",
    "fake": "scripted models, for an app's tests",
}

_GIB = 1024**3

_REAL_MODEL = (
    "The demo models are toys that prove the installation. For a real model, download a GGUF file\n"
    "  and register it:\n"
    '  car-rpc call models.register \'{"model": {"id": "me/qwen3:4b", "capabilities": ["generate"],'
    ' "source": {"type": "local", "path": "/path/to/model.gguf"}}}\''
)


def report(
    server: InitializeResult,
    models: Sequence[ModelSchema],
    found: ModelsSearchResult,
    state_dir: Path,
    *,
    mlx_first: bool,
) -> Iterator[str]:
    """Lines for people.

    Args:
        server: What the process said of itself.
        models: All models it knows.
        found: Its machine, and at least the model that is recommended for it.
        state_dir: Where it keeps its state.
        mlx_first: Whether MLX is better on this machine than llama.cpp.
    """
    yield f"car-rpc {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"  interpreter  {sys.executable}"
    yield f"  state        {state_dir} (set CAR_HOME or --state-dir to change it)"
    yield "engines"
    engines = server.capabilities.backends
    for name, backend in engines.items():
        state = "ok" if backend.available else f"missing: {backend.reason}"
        yield f"  {name:12} {state} - {_ENGINES.get(name, '')}"
    if all(name in engines and engines[name].available for name in ("local", "mlx")):
        yield f"  default      {_default(mlx_first=mlx_first)}"
    yield "machine"
    yield from _machine(found.machine)
    yield "models"
    for model in models:
        if is_listed(model):
            yield f"  {model.id:24} {_state(model)}"
    yield from _recommended(found)
    chats = [model for model in models if model.available and "generate" in model.capabilities]
    if all("demo" in model.tags for model in chats):
        yield _REAL_MODEL


def _default(*, mlx_first: bool) -> str:
    """Which engine runs a model that is there for both, and why."""
    if mlx_first:
        return "mlx, where a model is there for both: MLX makes the best of this Mac's GPU"
    return "local, where a model is there for both: without an Apple GPU, MLX uses one core"


def is_listed(model: ModelSchema) -> bool:
    """Whether people want to see a model: not one of the catalog that is not here."""
    return model.weights_ready or model.trust_tier == "community"


def _machine(machine: Machine) -> Iterator[str]:
    if machine.memory_total_bytes:
        total, free = _gib(machine.memory_total_bytes), _gib(machine.memory_available_bytes)
        yield f"  memory       {total} for this process and its models, {free} of it free"
    yield (
        f"  processor    {machine.cores_usable} of {machine.cores_logical} threads usable,"
        f" {machine.cores_physical} cores"
    )
    for card in machine.accelerators:
        memory = card.memory_total_bytes
        yield (
            f"  {card.kind:12} {card.name or 'a graphics processor'}"
            + (f", {_gib(memory)}" if isinstance(memory, int) else "")
        )


def _recommended(found: ModelsSearchResult) -> Iterator[str]:
    best = next((model for model in found.models if model.id == found.recommended), None)
    if best is None or best.weights_ready:
        return
    source = best.source
    if not isinstance(source, LocalSource | MlxSource):
        return
    file = f" {source.hf_filename}" if isinstance(source, LocalSource) else ""
    yield (
        f"This machine suits {best.id}. The hub's own client gets it to where it is found:\n"
        f"  hf download {source.hf_repo}{file}"
    )


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def _state(model: ModelSchema) -> str:
    if model.available:
        return "ok"
    return "its engine is missing" if model.weights_ready else "its file is missing"
