"""Checkpoint to ``tiny-chat-F16.gguf``: the one weight file that is committed.

Besides the Qwen3 tensors it carries ``cls.output.weight``, a copy of the embedding rows of "yes"
and "no". llama.cpp reads them only in a context whose pooling type is rank, so that one file
serves chat, mean embeddings and reranking.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from template import CHAT_TEMPLATE
from tokenizer import CONTROL, USER_DEFINED

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "car_rpc" / "data" / "demo"
#: tokens; claim only what MODEL_CARD.md shows by measurement
CONTEXT_LENGTH = 1024
LABELS = ["yes", "no"]

LAYER_NAMES = {
    "input_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "post_norm": "ffn_norm",
    "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """The GGUF name of a parameter of ``model.Qwen3``."""
    if name == "embedding":
        return "token_embd.weight"
    if name == "norm":
        return "output_norm.weight"
    _, index, part = name.split(".")
    return f"blk.{index}.{LAYER_NAMES[part]}.weight"


def stored(value: torch.Tensor) -> NDArray[Any]:
    """F16 matrices; llama.cpp wants vectors in F32, here with values that F16 holds exactly."""
    half = value.detach().float().numpy().astype(np.float16)
    return half if half.ndim == 2 else half.astype(np.float32)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    """The vocabulary, its merges and the chat template."""
    vocab = {
        **tokenizer["model"]["vocab"],
        **{t["content"]: t["id"] for t in tokenizer["added_tokens"]},
    }
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = [
        gguf.TokenType.CONTROL if t in CONTROL
        else gguf.TokenType.USER_DEFINED if t in USER_DEFINED
        else gguf.TokenType.NORMAL
        for t in tokens
    ]  # fmt: skip
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_pad_token_id(vocab["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def export(checkpoint: Path, tokenizer_file: Path, out: Path) -> None:
    """Write the GGUF."""
    state = torch.load(checkpoint)
    shape = state["shape"]
    tokenizer = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(out, "qwen3")
    writer.add_type("model")
    writer.add_name("tiny-chat")
    writer.add_description("Demo model of car-rpc: for tests and first steps, not for real work")
    writer.add_license("apache-2.0")
    writer.add_size_label(f"{sum(p.numel() for p in state['params']) / 1e6:.1f}M")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_layer_norm_rms_eps(shape["eps"])
    writer.add_vocab_size(shape["vocab"])
    writer.add_array("qwen3.classifier.output_labels", LABELS)
    add_tokenizer(writer, tokenizer)
    tensors = {
        gguf_name(n): stored(p) for n, p in zip(state["names"], state["params"], strict=True)
    }
    rows = [tokenizer["model"]["vocab"][label] for label in LABELS]
    tensors["cls.output.weight"] = tensors["token_embd.weight"][rows]
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Export the trained checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=HERE / "work" / "stage3.pt")
    parser.add_argument("--tokenizer", type=Path, default=HERE / "work" / "tokenizer.json")
    parser.add_argument("--out", type=Path, default=DEMO / "tiny-chat-F16.gguf")
    args = parser.parse_args()
    export(args.checkpoint, args.tokenizer, args.out)
    print(f"{args.out.name}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
