"""Folders of MLX weights small enough to make on the spot."""

import json
from pathlib import Path
from typing import Any

from tests.workers.conftest import CHAT_TEMPLATE, byte_tokens

#: Weights that share a scale when they are quantized.
GROUP = 32


def write_folder(
    path: Path,
    template: str | None = CHAT_TEMPLATE,
    *,
    context: int = 512,
    bos: bool = False,
    chatml: bool = True,
    bits: int | None = None,
    **config: Any,
) -> Path:
    """Write an MLX model with random weights, a byte vocabulary and ChatML's markers.

    With ``bos`` every text begins with ``<|endoftext|>``; without ``chatml`` the markers are
    named otherwise; with ``bits`` the weights are quantized. The rest goes into the model's
    configuration.
    """
    import numpy as np
    from safetensors.numpy import save_file

    turn, end = ("<|im_start|>", "<|im_end|>") if chatml else ("[turn]", "[end]")
    special = ["<|endoftext|>", turn, end]
    markers = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    tokens = [*byte_tokens(), "he", *special, *markers]
    layers, heads, kv_heads, width, hidden = 2, 4, 2, 64, 128
    settings = {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "vocab_size": len(tokens),
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "eos_token_id": tokens.index(end),
        **config,
    }
    if bits is not None:
        settings["quantization"] = {"group_size": GROUP, "bits": bits}
    path.mkdir()
    write_json(path / "config.json", settings)
    write_json(
        path / "tokenizer_config.json",
        {
            "bos_token": "<|endoftext|>",
            "eos_token": end,
            "add_bos_token": bos,
            **({"chat_template": template} if template is not None else {}),
        },
    )
    write_json(path / "tokenizer.json", tokenizer(tokens, special, markers))
    rng = np.random.default_rng(1)
    weights: dict[str, Any] = {}

    def weight(name: str, *shape: int) -> None:
        values = rng.normal(0, 0.3, shape).astype(np.float32)
        parts = [values] if bits is None else quantize(values, bits)
        for part, array in zip(("weight", "scales", "biases"), parts, strict=False):
            weights[f"{name}.{part}"] = array

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = np.ones(width, np.float32)

    weight("model.embed_tokens", len(tokens), width)
    norm("model.norm")
    weight("lm_head", len(tokens), width)
    kv_width = width // heads * kv_heads
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        norm(f"{prefix}.input_layernorm")
        norm(f"{prefix}.post_attention_layernorm")
        weight(f"{prefix}.self_attn.q_proj", width, width)
        weight(f"{prefix}.self_attn.k_proj", kv_width, width)
        weight(f"{prefix}.self_attn.v_proj", kv_width, width)
        weight(f"{prefix}.self_attn.o_proj", width, width)
        weight(f"{prefix}.mlp.gate_proj", hidden, width)
        weight(f"{prefix}.mlp.up_proj", hidden, width)
        weight(f"{prefix}.mlp.down_proj", width, hidden)
    save_file(weights, path / "model.safetensors", metadata={"format": "mlx"})
    return path


def quantize(values: Any, bits: int) -> list[Any]:
    import mlx.core as mx
    import numpy as np

    half = mx.array(values).astype(mx.float16)
    return [np.array(part) for part in mx.quantize(half, group_size=GROUP, bits=bits)]


def tokenizer(tokens: list[str], special: list[str], markers: list[str]) -> dict[str, Any]:
    added = [
        {
            "id": tokens.index(content),
            "content": content,
            "special": content in special,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for content in (*special, *markers)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {**byte_level, "use_regex": False},
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": ["h e"],
        },
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
