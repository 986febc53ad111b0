"""A recurrent model with random weights, whose memory cannot be cut."""

from pathlib import Path

import gguf
import numpy as np

from tests.workers.conftest import CHAT_TEMPLATE, add_vocabulary

LAYERS, WIDTH, INNER, STATE, KERNEL, RANK = 2, 64, 128, 16, 4, 4


def write_recurrent_model(path: Path) -> Path:
    """Write a GGUF model of the Mamba kind."""
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_name("recurrent")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(LAYERS)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-6)
    vocabulary = add_vocabulary(writer)
    writer.add_chat_template(CHAT_TEMPLATE)

    rng = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(0, 0.3, shape).astype(np.float32))

    weight("token_embd.weight", vocabulary, WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(WIDTH, np.float32))
        weight(f"{block}.ssm_in.weight", 2 * INNER, WIDTH)
        weight(f"{block}.ssm_conv1d.weight", INNER, KERNEL)
        weight(f"{block}.ssm_conv1d.bias", INNER)
        weight(f"{block}.ssm_x.weight", RANK + 2 * STATE, INNER)
        weight(f"{block}.ssm_dt.weight", INNER, RANK)
        weight(f"{block}.ssm_dt.bias", INNER)
        decay = -np.exp(rng.normal(0, 0.3, (INNER, STATE)))
        writer.add_tensor(f"{block}.ssm_a", decay.astype(np.float32))
        weight(f"{block}.ssm_d", INNER)
        weight(f"{block}.ssm_out.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
