"""The MLX libraries themselves: how they are loaded and what they may use.

The only module that imports ``mlx`` and ``mlx_lm``; the others take what they need from here,
so that the environment is in place before native code runs.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

# A model is a folder on this machine: nothing is looked up anywhere else.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


class _Unused:
    """A class of transformers, as far as mlx-lm needs one to be imported."""

    @classmethod
    def register(cls, *_: object, **__: object) -> None:
        """Nobody looks for a tokenizer."""


class _Empty(ModuleType):
    """A module of transformers, or what goes for one: it has every name."""

    def __getattr__(self, name: str) -> type[_Unused]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused


class _EmptyFinder(MetaPathFinder, Loader):
    """Finds empty modules where transformers is asked for."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "transformers":
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


@contextmanager
def _without_transformers() -> Generator[None]:
    """Let mlx-lm be imported without transformers, which takes longer than all the rest.

    It is there for mlx-lm's tokenizers, and here a text is tokens before mlx-lm sees it.
    """
    if "transformers" in sys.modules:
        yield
        return
    finder = _EmptyFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Empty)]:
            del sys.modules[name]


# Neither library ships useful types. And `mlx_lm.generate` is a function, too, that hides the
# module of its name from an import statement.
mx: Any = import_module("mlx.core")
tree_flatten: Any = import_module("mlx.utils").tree_flatten
tree_unflatten: Any = import_module("mlx.utils").tree_unflatten
with _without_transformers():
    BatchGenerator: Any = import_module("mlx_lm.generate").BatchGenerator
    PromptProcessingBatch: Any = import_module("mlx_lm.generate").PromptProcessingBatch
    cache_module: Any = import_module("mlx_lm.models.cache")
    load_model: Any = import_module("mlx_lm.utils").load_model
    sampling: Any = import_module("mlx_lm.sample_utils")
BatchKVCache: Any = cache_module.BatchKVCache
KVCache: Any = cache_module.KVCache
make_prompt_cache: Any = cache_module.make_prompt_cache

#: Name of this engine in error texts.
BACKEND = "mlx"

#: Whether the processor computes, because there is no GPU that MLX can use.
ON_CPU: bool = mx.default_device() == mx.cpu

#: Most memory that MLX keeps for arrays to come, in bytes. It would keep all it ever had.
_SPARE_BYTES = 256 * 1024 * 1024

mx.set_cache_limit(_SPARE_BYTES)
if ON_CPU:
    # Compiled functions would be built by the C++ compiler of this machine, if it has one, into
    # a folder below /tmp that other users can write to. They are no faster here.
    mx.disable_compile()


def load_adapters(network: Any, folder: str) -> None:
    """Put an adapter on a model, as mlx-lm does."""
    # Only now, because what trains adapters comes along.
    with _without_transformers():
        tuner: Any = import_module("mlx_lm.tuner.utils")
    tuner.load_adapters(network, folder)


def version() -> str:
    """Versions of the libraries, for the log."""
    return f"mlx-lm {importlib.metadata.version('mlx-lm')}, mlx {mx.__version__}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether MLX failed because it got no memory."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "malloc" in said or "memory" in said
