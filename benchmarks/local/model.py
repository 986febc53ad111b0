"""A model in the shape of Qwen3-0.6B with random weights, as a GGUF file.

What it says makes no sense and what it costs is real: shape, quantization and vocabulary decide
that, not what the weights hold.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

#: Bytes are tokens of their own, so a text has as many tokens as bytes; generated tokens are
#: words of this many letters, as the tokens of real models are.
_WORD_LETTERS = 4

_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' -}}
"""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

#: Spread of the weights: what layers of this width usually have.
_SCALE = 0.02

#: Standard deviation of the integers from -7 to 7.
_SPREAD = 4.32


class Shape(NamedTuple):
    """Sizes of a model."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    vocabulary: int


#: Qwen3-0.6B; what is quantized has 4 bits.
REAL = Shape("0.6b", 28, 1024, 16, 8, 128, 3072, 151_936)

#: A tenth of the work for a token, for measurements with thousands of them.
SMALL = Shape("small", 4, 512, 8, 4, 64, 1536, 32_000)


def model_file(shape: Shape) -> Path:
    """The file of a model; made once and kept in the user's cache."""
    path = cache_folder() / f"random-{shape.name}-q4_0.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        _write(unfinished, shape)
        unfinished.rename(path)
    return path


def cache_folder() -> Path:
    """Where models for benchmarks are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "car-rpc" / "benchmarks"


def _write(path: Path, shape: Shape) -> None:
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(f"random-{shape.name}")
    writer.add_context_length(40_960)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    _add_vocabulary(writer, shape.vocabulary)
    _add_weights(writer, shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, size: int) -> None:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    tokens = [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]
    tokens += [_word(number) for number in range(size - len(tokens) - len(_SPECIAL))]
    types = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(_SPECIAL)
    tokens += _SPECIAL
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["h e"])  # none would be refused; no other word can be spelled
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_chat_template(_TEMPLATE)


def _word(number: int) -> str:
    """A word of its own for each number, with the space before it that GPT-2 writes as Ġ."""
    letters = ""
    for _ in range(_WORD_LETTERS):
        number, letter = divmod(number, 26)
        letters += chr(ord("a") + letter)
    return f"Ġ{letters}"


def _add_weights(writer: Any, shape: Shape) -> None:
    rng = np.random.default_rng(0)

    def ones(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(size, dtype=np.float32))

    def matrix(name: str, rows: int, columns: int) -> None:
        # A block of Q4_0: a half-precision scale, then 32 numbers of 4 bits.
        blocks = np.empty((rows, columns // 32, 18), dtype=np.uint8)
        blocks[..., :2] = np.array([_SCALE / _SPREAD], dtype=np.float16).view(np.uint8)
        # Each byte holds two numbers, 8 too large; without 0 they have no mean, so that no
        # direction wins and greedy answers vary.
        low, high = rng.integers(1, 16, (2, rows, columns // 32, 16), dtype=np.uint8)
        blocks[..., 2:] = low | high << 4
        data = blocks.reshape(rows, -1)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    matrix("token_embd", shape.vocabulary, shape.width)
    ones("output_norm", shape.width)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm", shape.width)
        ones(f"{block}.ffn_norm", shape.width)
        ones(f"{block}.attn_q_norm", shape.head_size)
        ones(f"{block}.attn_k_norm", shape.head_size)
        matrix(f"{block}.attn_q", shape.heads * shape.head_size, shape.width)
        matrix(f"{block}.attn_k", shape.kv_heads * shape.head_size, shape.width)
        matrix(f"{block}.attn_v", shape.kv_heads * shape.head_size, shape.width)
        matrix(f"{block}.attn_output", shape.width, shape.heads * shape.head_size)
        matrix(f"{block}.ffn_gate", shape.hidden, shape.width)
        matrix(f"{block}.ffn_up", shape.hidden, shape.width)
        matrix(f"{block}.ffn_down", shape.width, shape.hidden)
