"""Put LoRA adapters on a model: on its layers, not into its weights, which may be quantized."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from car_rpc.errors import CarError
from car_rpc.workers.mlx.folder import read_json, tensor_names, unusable
from car_rpc.workers.mlx.native import is_out_of_memory, load_adapters, tree_unflatten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from car_rpc.wire.models import Adapter

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapters.safetensors"

#: How much of what mlx-lm says of an adapter is passed on, in characters: it names each matrix.
_REASON_LENGTH = 200

#: What an adapter makes of a layer has two matrices of these names.
_DOWN, _UP = "lora_a", "lora_b"


def add_adapters(network: Any, adapters: Sequence[Adapter]) -> None:
    """Let a model compute with adapters.

    mlx-lm puts an adapter around plain layers only. So each is put on the model as it was, and then
    around what the earlier ones made of the same layer.

    Raises:
        CarError: ``model_load_failed`` for one that cannot be used.
    """
    adapted: dict[str, Any] = {}
    for index, adapter in enumerate(adapters):
        try:
            _load(network, Path(adapter.path))
        except CarError as error:
            detail = f"adapters[{index}]: {error.detail}, or register the model without it"
            raise CarError("model_load_failed", detail, **error.extra) from error
        layers = {name: layer for name, layer in network.named_modules() if _DOWN in layer}
        plain = {name: _inner(layer) for name, layer in layers.items()}
        network.update_modules(tree_unflatten(list(plain.items())))
        for name, layer in layers.items():
            layer.scale *= adapter.scale
            setattr(layer, _place(layer), adapted.get(name, plain[name]))
            adapted[name] = layer
    network.update_modules(tree_unflatten(list(adapted.items())))
    network.eval()  # a layer that trains leaves out a part of the adapter by chance


def _load(network: Any, folder: Path) -> None:
    kind = read_json(folder / _CONFIG).get("fine_tune_type", "lora")
    if kind != "lora":
        raise unusable(folder, f"is no LoRA adapter but {kind!r}; merge it with mlx_lm.fuse")
    names = set(tensor_names(folder / _WEIGHTS))
    halves = {name.removesuffix(_DOWN).removesuffix(_UP) for name in names}
    if not names or names != {stem + half for stem in halves for half in (_DOWN, _UP)}:
        raise unusable(folder, "does not hold the two halves of each change; fetch it again")
    try:
        load_adapters(network, str(folder))
    except Exception as error:
        # Whatever does not fit shows as some exception of the library.
        if is_out_of_memory(error):
            raise
        reason = shorten(str(error) or type(error).__name__, _REASON_LENGTH)
        raise unusable(
            folder,
            f"does not fit the model ({reason}); take an adapter that mlx_lm.lora made for this"
            " model",
        ) from error


def _place(layer: Any) -> str:
    """By which name a layer knows the one that it is around."""
    return "linear" if "linear" in layer else "embedding"


def _inner(layer: Any) -> Any:
    return layer[_place(layer)]
