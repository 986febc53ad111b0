"""What the files of a model say of it, so that nobody needs to type it in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET

from car_rpc.registry import gguf, safetensors
from car_rpc.registry.caches import cache_bytes, kept_share
from car_rpc.wire.base import MAX_SAFE_INTEGER
from car_rpc.wire.models import Cost, LocalSource, MlxSource, ModelSchema, ModelSource
from car_rpc.wire.parts import file_parts
from car_rpc.wire.sources import adapters_of

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Longest text that is taken over from a file, in characters.
_MAX_TEXT = 64

#: ``general.file_type`` by its number (llama.cpp, ``enum llama_ftype``).
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
}
#: Quantizations that a file says it has.
FILE_TYPES = frozenset(_FILE_TYPES.values())

#: Set in a file type that was guessed.
_GUESSED = 1024


class Facts(NamedTuple):
    """What a file says of its model; empty, 0 or ``None`` where it says nothing."""

    family: str = ""
    version: str = ""
    context_length: int = 0
    param_count: str = ""
    quantization: str = ""
    license: str = ""
    chat_template: bool | None = None
    size_bytes: int = 0
    kv_bytes_per_token: int = 0


def with_facts(model: ModelSchema) -> ModelSchema:
    """The model with what it lacks filled in from its file; what it says of itself stays.

    A file that is missing, or that cannot be read as what it should be, tells nothing: that is
    said when the model is loaded. Reads from the disk: not for the event loop.
    """
    try:
        facts = _facts_of(model.source)
    except (OSError, ValueError) as error:
        logger.warning("%s: nothing was read from its file: %s", model.id, error)
        return model
    cost = model.cost if isinstance(model.cost, Cost) else Cost()
    cost = msgspec.structs.replace(
        cost,
        size_bytes=_given(cost.size_bytes, facts.size_bytes),
        kv_bytes_per_token=_given(cost.kv_bytes_per_token, facts.kv_bytes_per_token),
    )
    return msgspec.structs.replace(
        model,
        family=model.family or facts.family,
        version=model.version or facts.version,
        context_length=model.context_length or facts.context_length,
        param_count=_given(model.param_count, facts.param_count),
        quantization=_given(model.quantization, facts.quantization),
        license=_given(model.license, facts.license),
        chat_template=(
            facts.chat_template
            if model.chat_template is UNSET and facts.chat_template is not None
            else model.chat_template
        ),
        cost=cost if cost != Cost() else UNSET,
    )


def _given(given: T | msgspec.UnsetType, read: T) -> T | msgspec.UnsetType:
    return (read or UNSET) if given is UNSET else given


def size_on_disk(path: Path) -> int:
    """Size of a file, or of the files in a folder, in bytes; 0 where that cannot be told."""
    try:
        if path.is_dir():
            return sum(each.stat().st_size for each in path.iterdir() if each.is_file())
        return path.stat().st_size
    except OSError:
        return 0


def _facts_of(source: ModelSource) -> Facts:
    facts = _facts_of_weights(source)
    adapters = sum(size_on_disk(Path(adapter.path)) for adapter in adapters_of(source))
    return facts._replace(size_bytes=facts.size_bytes + adapters) if facts.size_bytes else facts


def _facts_of_weights(source: ModelSource) -> Facts:
    match source:
        case LocalSource(path=str(path)) if Path(path).is_file():
            return gguf_facts(Path(path))
        case MlxSource(path=str(path)) if Path(path).is_dir():
            return folder_facts(Path(path))
        case _:
            return Facts()


def gguf_facts(path: Path) -> Facts:
    """What a GGUF file says of its model.

    Raises:
        ValueError: Its header cannot be read; see :func:`gguf.read_header`.
        OSError: The file cannot be read.
    """
    all_parts = [Path(part) for part in file_parts(str(path))]
    parts = [part for part in all_parts if part.is_file() or part == path]
    headers = [gguf.read_file(part) for part in parts]
    metadata = headers[0].metadata
    counted = sum(header.parameters for header in headers) if parts == all_parts else 0
    architecture = _text(metadata, "general.architecture")

    def number(key: str) -> int:
        return _number(metadata, f"{architecture}.{key}")

    heads = number("attention.head_count")  # 0 where all layers are recurrent
    head_size = number("embedding_length") // max(heads, 1)
    layers = number("block_count")
    cache_heads = metadata.get(f"{architecture}.attention.head_count_kv", heads)
    return Facts(
        family=architecture,
        version=_text(metadata, "general.version"),
        context_length=number("context_length"),
        param_count=_text(metadata, "general.size_label") or _counted(counted),
        quantization=_FILE_TYPES.get(_number(metadata, "general.file_type") & ~_GUESSED, "")
        if "general.file_type" in metadata
        else "",
        license=_text(metadata, "general.license"),
        chat_template="tokenizer.chat_template" in metadata,
        size_bytes=sum(part.stat().st_size for part in parts),
        kv_bytes_per_token=cache_bytes(
            # Heads of each layer, or how many all have alike.
            sum(cache_heads) if isinstance(cache_heads, list) else layers * _whole(cache_heads),
            number("attention.key_length") or head_size,
            number("attention.value_length") or head_size,
            kept_share(
                architecture,
                layers,
                number("full_attention_interval"),
                number("attention.sliding_window"),
                metadata.get(f"{architecture}.attention.sliding_window_pattern"),
            ),
        ),
    )


def folder_facts(folder: Path) -> Facts:
    """What the settings and weights in a folder say of its model.

    Raises:
        OSError: A file cannot be read.
    """
    config = safetensors.read_json(folder / "config.json")
    # Models that also see or hear keep the settings of their language part apart.
    nested = config.get("text_config")
    text: dict[str, Any] = {**config, **nested} if isinstance(nested, dict) else config
    quantization = config.get("quantization")
    bits = _number(quantization, "bits") if isinstance(quantization, dict) else 0
    weights = safetensors.read_weights(folder, bits or None)
    heads = max(_number(text, "num_attention_heads"), 1)
    head_size = _number(text, "head_dim") or _number(text, "hidden_size") // heads
    cache_heads = _number(text, "num_key_value_heads") or heads
    layers = _number(text, "num_hidden_layers")
    tokenizer = safetensors.read_json(folder / "tokenizer_config.json")
    return Facts(
        family=_text(config, "model_type"),
        context_length=_number(text, "max_position_embeddings"),
        param_count=_counted(weights.parameters),
        quantization=f"{bits}bit" if bits else "",
        chat_template="chat_template" in tokenizer or (folder / "chat_template.jinja").is_file(),
        size_bytes=weights.size_bytes,
        kv_bytes_per_token=cache_bytes(
            layers * cache_heads,
            head_size,
            head_size,
            kept_share(
                _text(text, "model_type"),
                layers,
                _number(text, "full_attention_interval"),
                _number(text, "sliding_window"),
                text.get("layer_types") or text.get("sliding_window_pattern"),
            ),
        ),
    )


def _counted(parameters: int) -> str:
    """A number of parameters as model cards write it, such as ``4B`` or ``137M``."""
    for unit, letter in ((10**9, "B"), (10**6, "M")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}".removesuffix(".0") + letter
    return str(parameters) if parameters else ""


def _text(values: Any, key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) and len(value) <= _MAX_TEXT else ""


def _number(values: Any, key: str) -> int:
    return _whole(values.get(key))


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= MAX_SAFE_INTEGER else 0
