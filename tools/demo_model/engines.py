"""The two engines behind one small interface: token ids in, greedy token ids out."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


class LlamaCpp:
    """A GGUF in llama.cpp, through the C interface of llama-cpp-python."""

    def __init__(self, path: Path, context: int = 0, pooling: str = "", threads: int = 1) -> None:
        import llama_cpp

        self.c = llama_cpp
        llama_cpp.llama_log_set(_QUIET, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise OSError(f"llama.cpp cannot load {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        params = llama_cpp.llama_context_default_params()
        self.context = context or llama_cpp.llama_model_n_ctx_train(self.model)
        params.n_ctx = params.n_batch = params.n_ubatch = self.context
        params.n_threads = params.n_threads_batch = threads
        if pooling:
            params.embeddings = True
            params.pooling_type = getattr(llama_cpp, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def close(self) -> None:
        self.c.llama_free(self.ctx)
        self.c.llama_model_free(self.model)

    def encode(self, text: str, special: bool = True) -> list[int]:
        data = text.encode()
        out = (self.c.llama_token * (len(data) + 8))()
        n = self.c.llama_tokenize(self.vocab, data, len(data), out, len(out), False, special)
        return list(out[:n])

    def decode(self, ids: list[int]) -> str:
        parts = []
        buffer = ctypes.create_string_buffer(256)
        for i in ids:
            n = self.c.llama_token_to_piece(self.vocab, i, buffer, len(buffer), 0, True)
            parts.append(buffer.raw[:n])
        return b"".join(parts).decode("utf-8", "replace")

    def template(self) -> str:
        return self.c.llama_model_chat_template(self.model, None).decode()

    def ends(self, token: int) -> bool:
        return bool(self.c.llama_vocab_is_eog(self.vocab, token))

    def _feed(self, ids: list[int]) -> None:
        array = (self.c.llama_token * len(ids))(*ids)
        batch = self.c.llama_batch_get_one(array, len(ids))
        if self.c.llama_decode(self.ctx, batch) != 0:
            raise RuntimeError(f"llama_decode failed on {len(ids)} tokens")

    def _logits(self) -> Vector:
        pointer = self.c.llama_get_logits_ith(self.ctx, -1)
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def forced(self, ids: list[int]) -> Vector:
        """Logits after each of ``ids``, fed one by one."""
        self.c.llama_memory_clear(self.memory, True)
        rows = []
        for i in ids:
            self._feed([i])
            rows.append(self._logits().copy())
        return np.stack(rows)

    def next_logits(self, ids: list[int]) -> Vector:
        """Logits of the token after ``ids``, in one batch."""
        self.c.llama_memory_clear(self.memory, True)
        self._feed(ids)
        return self._logits().copy()

    def greedy(self, ids: list[int], limit: int, ignore_end: bool = False) -> list[int]:
        """The most likely continuation, at most ``limit`` tokens, without the end token."""
        self.c.llama_memory_clear(self.memory, True)
        self._feed(ids)
        out: list[int] = []
        while True:
            token = int(self._logits().argmax())
            if self.ends(token) and not ignore_end:
                return out
            out.append(token)
            if len(out) >= limit or len(ids) + len(out) >= self.context:
                return out
            self._feed([token])

    def pooled(self, ids: list[int], size: int) -> Vector:
        """The pooled output of a context that was made with ``pooling``."""
        self.c.llama_memory_clear(self.memory, True)
        array = (self.c.llama_token * len(ids))(*ids)
        self.c.llama_decode(self.ctx, self.c.llama_batch_get_one(array, len(ids)))
        pointer = self.c.llama_get_embeddings_seq(self.ctx, 0)
        return np.ctypeslib.as_array(pointer, (size,)).copy()


def _quiet() -> Any:
    import llama_cpp

    @llama_cpp.llama_log_callback
    def silent(level: int, text: bytes, data: Any) -> None:
        """Drop llama.cpp's log."""

    return silent


_QUIET = _quiet()


class Mlx:
    """The derived MLX folder in mlx-lm; ``dtype`` is what the weights are computed in."""

    def __init__(self, folder: Path, dtype: str = "float16") -> None:
        import mlx.core as mx
        from mlx_lm.models import qwen3
        from tokenizers import Tokenizer

        self.mx = mx
        config = json.loads((folder / "config.json").read_text())
        self.model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
        self.model.load_weights(str(folder / "model.safetensors"))
        if dtype != "float16":
            self.model.set_dtype(getattr(mx, dtype))
        mx.eval(self.model.parameters())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        self.end_ids = set(ends)
        self.context = int(config["max_position_embeddings"])

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _cache(self) -> Any:
        from mlx_lm.models.cache import make_prompt_cache

        return make_prompt_cache(self.model)

    def _row(self, logits: Any) -> Vector:
        return np.array(logits[0, -1].astype(self.mx.float32))

    def forced(self, ids: list[int]) -> Vector:
        cache = self._cache()
        return np.stack([self._row(self.model(self.mx.array([[i]]), cache=cache)) for i in ids])

    def next_logits(self, ids: list[int]) -> Vector:
        return self._row(self.model(self.mx.array([ids])))

    def greedy(self, ids: list[int], limit: int, ignore_end: bool = False) -> list[int]:
        cache = self._cache()
        logits = self._row(self.model(self.mx.array([ids]), cache=cache))
        out: list[int] = []
        while True:
            token = int(logits.argmax())
            if token in self.end_ids and not ignore_end:
                return out
            out.append(token)
            if len(out) >= limit or len(ids) + len(out) >= self.context:
                return out
            logits = self._row(self.model(self.mx.array([[token]]), cache=cache))

    def hidden_mean(self, ids: list[int]) -> Vector:
        """Mean of the last hidden states, as llama.cpp's mean pooling."""
        hidden = self.model.model(self.mx.array([ids]))
        return np.array(hidden[0].astype(self.mx.float32)).mean(0)
