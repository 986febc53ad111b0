"""What the caches of a model's attention take, as far as its files tell."""

from __future__ import annotations

from typing import cast

from car_rpc.registry.fit import CONTEXT_TOKENS
from car_rpc.wire.base import MAX_SAFE_INTEGER

#: A cache holds half-precision numbers, the default of llama.cpp and mlx-lm.
_ELEMENT_BYTES = 2

#: Of models with a sliding window, each so manyth layer has none, where their files do not say it
#: (llama.cpp, ``load_swa_pattern`` in each model's ``load_arch_hparams``; mlx-lm, ``ModelArgs``).
_FULL_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt-oss": 2, "gpt_oss": 2}

#: How a layer with a window is told: in GGUF, and in the settings of MLX models.
_WINDOWED = (True, "sliding_attention")

#: What the cache of a window holds beside it: the tokens that are read at once, and room to grow.
_BESIDE_WINDOW = 512


def cache_bytes(heads: int, key_size: int, value_size: int, share: float = 1.0) -> int:
    """Room for the keys and values of one token.

    Args:
        heads: Heads with keys and values of all layers together.
        key_size: Elements of a key.
        value_size: Elements of a value.
        share: The part of it that is kept; see :func:`kept_share`.
    """
    size = heads * (key_size + value_size) * _ELEMENT_BYTES
    return min(round(size * share), MAX_SAFE_INTEGER)


def kept_share(family: str, layers: int, interval: int, window: int, pattern: object) -> float:
    """The part that a model keeps of what attention in all layers over all tokens would take.

    Args:
        family: Its architecture.
        layers: How many layers it has.
        interval: Only each so manyth layer has attention, in hybrid models; 0 for all.
        window: Tokens that layers with a sliding window look back at; 0 when there are none. They
            count with what that is of a context of :data:`~car_rpc.registry.fit.CONTEXT_TOKENS`.
        pattern: For each layer whether it has a window, or that each so manyth has none; what is
            neither of both stands for what the family is known for, and else for no window.
    """
    attention = 1 / max(interval, 1)
    if not window or not layers:
        return attention
    if isinstance(pattern, list) and pattern:
        of_layers = cast("list[object]", pattern)
        windowed = sum(layer in _WINDOWED for layer in of_layers) / len(of_layers)
    else:
        every = pattern if isinstance(pattern, int) else _FULL_EVERY.get(family, 1)
        windowed = 1 - (layers // max(every, 1)) / layers
    kept = min(1.0, (window + _BESIDE_WINDOW) / CONTEXT_TOKENS)
    return attention * (1 - windowed * (1 - kept))
