"""Load a GGUF file and read what it says about itself."""

from __future__ import annotations

import ctypes
import stat
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from car_rpc.errors import CarError
from car_rpc.wire.parts import file_parts
from car_rpc.workers.llama_cpp.native import lib, recent_errors
from car_rpc.workers.llama_cpp.pages import own_bytes, release
from car_rpc.workers.llama_cpp.threads import threads_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from car_rpc.wire.models import Adapter

_MAGIC = b"GGUF"

#: Buffer for a metadata value that is asked for, in bytes: names and numbers, not templates.
_META_BYTES = 256


class Model:
    """A loaded model. It is never freed: the process ends with it.

    Args:
        path: The GGUF file; of a model that was split, the first.
        progress: Takes how far loading is, in percent; called at most once per percent.
        adapters: LoRA adapters for it. The core has looked at what they say of themselves.

    Raises:
        CarError: The file cannot be read (``io_error``), is no usable model
            (``model_load_failed``) or does not fit (``out_of_memory``).
    """

    def __init__(
        self, path: str, progress: Callable[[float], None], adapters: Sequence[Adapter] = ()
    ) -> None:
        parts = file_parts(path)
        for part in parts:
            _check_file(part)
        size_bytes = sum(Path(part).stat().st_size for part in parts)
        self.threads = threads_for(size_bytes)  # watches others while it loads
        own_before = own_bytes()
        params = lib.llama_model_default_params()
        callback = lib.llama_progress_callback(_Progress(progress))
        params.progress_callback = callback
        self.handle: Any = lib.llama_model_load_from_file(path.encode(), params)
        if not self.handle:
            raise _load_error(path)
        # Weights that are computed with as they are in the file are left where they are, as the
        # first answer would bring each back.
        if own_bytes() - own_before > size_bytes // 2:
            release(parts)
        # Contexts leave room for what is there when they are made, so adapters come first.
        self._adapters = [
            (_adapter(self.handle, index, each.path), each.scale)
            for index, each in enumerate(adapters)
        ]
        self.vocab: Any = lib.llama_model_get_vocab(self.handle)
        self.size_bytes: int = lib.llama_model_size(self.handle) + sum(
            Path(each.path).stat().st_size for each in adapters
        )
        self.context_train: int = lib.llama_model_n_ctx_train(self.handle)
        self.embedding_size: int = lib.llama_model_n_embd_out(self.handle)
        #: Whether layers have one state for all that was read, be it some of them or all.
        self.recurs = bool(
            lib.llama_model_is_recurrent(self.handle) or lib.llama_model_is_hybrid(self.handle)
        )
        #: Tokens that the layers with a sliding window look back at; 0 when there are none.
        self.window: int = lib.llama_model_n_swa(self.handle)

    @property
    def generates(self) -> bool:
        """Whether this is a language model, not an encoder such as BERT."""
        causal = self.architecture_value("attention.causal") != "false"
        return causal and bool(lib.llama_model_has_decoder(self.handle))

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that the file carries."""
        template: bytes | None = lib.llama_model_chat_template(self.handle, None)
        return template.decode("utf-8", "replace") if template else None

    @property
    def rerank_template(self) -> str | None:
        """How the model wants a query and a document, with ``{query}`` and ``{document}``."""
        template: bytes | None = lib.llama_model_chat_template(self.handle, b"rerank")
        return template.decode("utf-8", "replace") if template else None

    @property
    def rank_labels(self) -> list[str]:
        """What the outputs of the model's head for ranking are called; empty for no name."""
        count: int = lib.llama_model_n_cls_out(self.handle)
        labels = [lib.llama_model_cls_label(self.handle, index) for index in range(count)]
        return [label.decode("utf-8", "replace") if label else "" for label in labels]

    @cached_property
    def architecture(self) -> str:
        """What kind of model it is, such as ``qwen3``."""
        return self._value("general.architecture") or ""

    def architecture_value(self, name: str) -> str | None:
        """A metadata value below the architecture's own prefix."""
        return self._value(f"{self.architecture}.{name}")

    @property
    def can_move(self) -> bool:
        """Whether what is remembered of a sequence can move to a context with more of them.

        Where recurrent layers and a window are in one memory, their states cannot be told apart.
        """
        return not (self.recurs and self.window)

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return int(lib.llama_model_n_head(self.handle))

    def kv_bytes_per_token(self) -> int:
        """Size of the attention cache for one token in bytes, where all layers have one alike."""
        head_size = lib.llama_model_n_embd(self.handle) // max(self.heads, 1)
        key_size = int(self.architecture_value("attention.key_length") or head_size)
        value_size = int(self.architecture_value("attention.value_length") or head_size)
        kv_heads: int = lib.llama_model_n_head_kv(self.handle)
        layers: int = lib.llama_model_n_layer(self.handle)
        return layers * kv_heads * (key_size + value_size) * _F16_BYTES

    def adapt(self, context: Any) -> None:
        """Let a context compute with the adapters."""
        count = len(self._adapters)
        handles = (lib.llama_adapter_lora_p_ctypes * count)(*(each for each, _ in self._adapters))
        scales = (ctypes.c_float * count)(*(scale for _, scale in self._adapters))
        lib.llama_set_adapters_lora(context, handles, count, scales)

    def _value(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(_META_BYTES)
        found = lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, _META_BYTES)
        return buffer.value.decode("utf-8", "replace") if found >= 0 else None


#: The cache holds half-precision numbers, llama.cpp's default.
_F16_BYTES = 2


class _Progress:
    """Passes on each new whole percent; llama.cpp calls once per tensor."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._last = -1

    def __call__(self, fraction: float, _data: Any) -> bool:
        percent = int(fraction * 100)
        if percent > self._last:
            self._last = percent
            self._report(float(percent))
        return True  # False would abort


def _check_file(path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):  # opening a named pipe would wait for its other end
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise CarError("io_error", f"{path} is {what}; name the .gguf file itself", path=path)
        with Path(path).open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise CarError(
            "io_error", f"cannot read {path}: {error.strerror}; check the path", path=path
        ) from error
    if magic != _MAGIC:
        raise CarError(
            "model_load_failed",
            f"{path} is not a GGUF file; llama.cpp loads only models in that format",
            path=path,
        )


def _adapter(model: Any, index: int, path: str) -> Any:
    handle = lib.llama_adapter_lora_init(model, path.encode())
    if not handle:
        raise CarError(
            "model_load_failed",
            f"adapters[{index}]: {path} cannot be used with this model; fetch it again, take one"
            f" that was made for this model, or register the model without it ({recent_errors()})",
            path=path,
        )
    return handle


def _load_error(path: str) -> CarError:
    said = recent_errors()
    if "alloc" in said or "out of memory" in said:
        return out_of_memory(path)
    return CarError(
        "model_load_failed",
        f"{path} is truncated or corrupt, or too new for this llama.cpp; fetch it again"
        + (f" ({said})" if said else ""),
        path=path,
    )


def out_of_memory(path: str) -> CarError:
    """The model or its context does not fit."""
    return CarError(
        "out_of_memory",
        f"{path} does not fit; close other programs, use a smaller model or set a smaller"
        " context_length",
        path=path,
    )
