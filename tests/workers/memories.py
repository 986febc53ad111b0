"""Models with random weights whose memory cannot be cut, one of each kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.workers.conftest import CHAT_TEMPLATE, add_vocabulary

CONTEXT = 4096

#: What the layers with a sliding window of the model with some look back at.
WINDOW = 64

LAYERS, WIDTH, HIDDEN, HEADS, CACHE_HEADS = 2, 64, 128, 4, 2
INNER, STATE, KERNEL, RANK = 128, 16, 4, 4


class _Writer:
    """A GGUF model in the making."""

    def __init__(self, path: Path, architecture: str) -> None:
        self.gguf = gguf.GGUFWriter(path, architecture)
        self.gguf.add_name(architecture)
        self.gguf.add_context_length(CONTEXT)
        self.gguf.add_embedding_length(WIDTH)
        self.gguf.add_block_count(LAYERS)
        self.gguf.add_layer_norm_rms_eps(1e-6)
        self.vocabulary = add_vocabulary(self.gguf)
        self.gguf.add_chat_template(CHAT_TEMPLATE)
        self._rng = np.random.default_rng(1)
        self.weight("token_embd", self.vocabulary, WIDTH)
        # With weights of its own: else the likeliest token would be the one before.
        self.weight("output", self.vocabulary, WIDTH)

    def tensor(self, name: str, values: Any) -> None:
        self.gguf.add_tensor(name, np.asarray(values, np.float32))

    def random(self, *shape: int) -> Any:
        return self._rng.normal(0, 0.3, shape)

    def weight(self, name: str, *shape: int) -> None:
        self.tensor(f"{name}.weight", self.random(*shape))

    def norm(self, name: str, size: int = WIDTH) -> None:
        self.tensor(f"{name}.weight", np.ones(size))

    def attention(self, block: str) -> None:
        head = WIDTH // HEADS
        self.weight(f"{block}.attn_q", WIDTH, WIDTH)
        self.weight(f"{block}.attn_k", head * CACHE_HEADS, WIDTH)
        self.weight(f"{block}.attn_v", head * CACHE_HEADS, WIDTH)
        self.weight(f"{block}.attn_output", WIDTH, WIDTH)
        self.norm(f"{block}.attn_q_norm", head)
        self.norm(f"{block}.attn_k_norm", head)

    def feed_forward(self, block: str) -> None:
        self.norm(f"{block}.ffn_norm")
        self.weight(f"{block}.ffn_gate", HIDDEN, WIDTH)
        self.weight(f"{block}.ffn_up", HIDDEN, WIDTH)
        self.weight(f"{block}.ffn_down", WIDTH, HIDDEN)

    def close(self) -> None:
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def write_recurrent_model(path: Path) -> Path:
    """Write a model whose layers all have one state: Mamba."""
    model = _Writer(path, "mamba")
    model.gguf.add_feed_forward_length(0)
    model.gguf.add_head_count(0)
    model.gguf.add_ssm_conv_kernel(KERNEL)
    model.gguf.add_ssm_inner_size(INNER)
    model.gguf.add_ssm_state_size(STATE)
    model.gguf.add_ssm_time_step_rank(RANK)
    model.norm("output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm")
        model.weight(f"{block}.ssm_in", 2 * INNER, WIDTH)
        model.weight(f"{block}.ssm_conv1d", INNER, KERNEL)
        model.tensor(f"{block}.ssm_conv1d.bias", model.random(INNER))
        model.weight(f"{block}.ssm_x", RANK + 2 * STATE, INNER)
        model.weight(f"{block}.ssm_dt", INNER, RANK)
        model.tensor(f"{block}.ssm_dt.bias", model.random(INNER))
        model.tensor(f"{block}.ssm_a", -np.exp(model.random(INNER, STATE)))
        model.tensor(f"{block}.ssm_d", model.random(INNER))
        model.weight(f"{block}.ssm_out", WIDTH, INNER)
    model.close()
    return path


def write_window_model(path: Path, window: int = WINDOW) -> Path:
    """Write a model every other layer of which has a sliding window: Gemma 3."""
    model = _Writer(path, "gemma3")
    model.gguf.add_feed_forward_length(HIDDEN)
    model.gguf.add_head_count(HEADS)
    model.gguf.add_head_count_kv(CACHE_HEADS)
    model.gguf.add_key_length(WIDTH // HEADS)
    model.gguf.add_value_length(WIDTH // HEADS)
    model.gguf.add_sliding_window(window)
    model.gguf.add_sliding_window_pattern(2)
    model.norm("output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm")
        model.attention(block)
        model.norm(f"{block}.post_attention_norm")
        model.feed_forward(block)
        model.norm(f"{block}.post_ffw_norm")
    model.close()
    return path


def write_hybrid_model(path: Path, window: int = 0) -> Path:
    """Write a model with a recurrent layer and one of attention, perhaps to a window: LFM2."""
    model = _Writer(path, "lfm2")
    if window:
        model.gguf.add_sliding_window(window)
    model.gguf.add_feed_forward_length(HIDDEN)
    model.gguf.add_head_count(HEADS)
    model.gguf.add_head_count_kv([0, CACHE_HEADS])
    model.gguf.add_shortconv_l_cache(KERNEL)
    model.norm("token_embd_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm")
        if layer:
            model.attention(block)
        else:
            model.weight(f"{block}.shortconv.conv", WIDTH, KERNEL)
            model.weight(f"{block}.shortconv.in_proj", 3 * WIDTH, WIDTH)
            model.weight(f"{block}.shortconv.out_proj", WIDTH, WIDTH)
        model.feed_forward(block)
    model.close()
    return path


#: How to write a model of each kind.
WRITERS: dict[str, Callable[[Path], Path]] = {
    "recurrent": write_recurrent_model,
    "window": write_window_model,
    "hybrid": write_hybrid_model,
}
