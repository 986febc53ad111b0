"""Say what is installed, what is missing and what to do about it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from car_rpc import __version__
from car_rpc.wire.lifecycle import InitializeResult
from car_rpc.wire.models import ModelSchema

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


def report(
    server: InitializeResult, models: Sequence[ModelSchema], state_dir: Path, *, mlx_first: bool
) -> Iterator[str]:
    """Lines for people.

    Args:
        server: What the process said of itself.
        models: All models it knows.
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
    yield "models"
    for model in models:
        yield f"  {model.id:24} {_state(model)}"
    chats = [model for model in models if model.available and "generate" in model.capabilities]
    if all("demo" in model.tags for model in chats):
        yield _REAL_MODEL


def _default(*, mlx_first: bool) -> str:
    """Which engine runs a model that is there for both, and why."""
    if mlx_first:
        return "mlx, where a model is there for both: MLX makes the best of this Mac's GPU"
    return "local, where a model is there for both: without an Apple GPU, MLX uses one core"


def _state(model: ModelSchema) -> str:
    if model.available:
        return "ok"
    return "its engine is missing" if model.weights_ready else "its file is missing"
