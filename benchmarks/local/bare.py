"""The limit: loops over llama.cpp that do nothing else, to measure and to compare with."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# An assert would start a debugger on this process.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import llama_cpp.llama_cpp as _llama_cpp
import numpy as np
from numpy.typing import NDArray

#: The library ships no types.
lib: Any = _llama_cpp

_quiet = lib.llama_log_callback(lambda _level, _text, _data: None)

#: enum llama_pooling_type
_POOLING_MEAN = 1

#: Most texts of a batch.
_MAX_TEXTS = 64

#: enum llama_flash_attn_type
FLASH_OFF, FLASH_ON = 0, 1


class BareLoop:
    """A model and a context, on the calling thread.

    Args:
        path: The GGUF file.
        threads: How many compute.
        context: Tokens of context of a sequence.
        sequences: How many sequences there are.
        chunk: Tokens of a prompt that are read at once.
        **settings: Other members of ``llama_context_params``.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        context: int,
        sequences: int = 1,
        chunk: int = 256,
        **settings: Any,
    ) -> None:
        lib.llama_log_set(_quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        sizes = {"n_ctx": context * sequences, "n_seq_max": sequences}
        batches = {"n_batch": chunk, "n_ubatch": chunk}
        for name, value in {**sizes, **batches, **settings}.items():
            setattr(params, name, value)
        params.n_threads = params.n_threads_batch = threads
        self._context = lib.llama_init_from_model(model, params)
        self._vocab = lib.llama_model_get_vocab(model)
        self._size: int = lib.llama_vocab_n_tokens(self._vocab)
        self._batch = lib.llama_batch_init(chunk, 0, 1)
        self._chunk = chunk
        self._sequences = sequences

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text; control tokens may be spelled."""
        data = text.encode()
        tokens = (lib.llama_token * (len(data) + 1))()
        count = lib.llama_tokenize(self._vocab, data, len(data), tokens, len(tokens), False, True)
        return list(tokens[:count])

    def clear(self) -> None:
        """Forget everything that was read."""
        lib.llama_memory_clear(lib.llama_get_memory(self._context), False)

    def keep_beginning(self, known: Sequence[int], prompt: Sequence[int]) -> int:
        """Forget all but what the first sequence has in common with a prompt; returns how much."""
        pairs = zip(known, prompt[:-1], strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        memory = lib.llama_get_memory(self._context)
        for sequence in range(self._sequences):
            lib.llama_memory_seq_rm(memory, sequence, 0 if sequence else common, -1)
        return common

    def cut(self, length: int) -> None:
        """Forget what follows the first tokens of the first sequence."""
        lib.llama_memory_seq_rm(lib.llama_get_memory(self._context), 0, length, -1)

    def read(self, prompt: Sequence[int], sequence: int = 0, start: int = 0) -> NDArray[np.float32]:
        """Read a prompt from some position on; returns the logits of what follows it."""
        last = 0
        for offset in range(0, len(prompt), self._chunk):
            part = prompt[offset : offset + self._chunk]
            last = len(part) - 1
            rows = [
                (token, start + offset + index, sequence, offset + index == len(prompt) - 1)
                for index, token in enumerate(part)
            ]
            self._decode(rows)
        return self._logits(last)

    def step(self, rows: Sequence[tuple[int, int, int]]) -> list[NDArray[np.float32]]:
        """Decode a token, at a position, of each of some sequences; returns their logits."""
        self._decode([(*row, True) for row in rows])
        return [self._logits(index) for index in range(len(rows))]

    def generate(self, prompt: Sequence[int], count: int) -> list[int]:
        """The likeliest tokens after a prompt."""
        self.clear()
        answer = [int(self.read(prompt).argmax())]
        for position in itertools.count(len(prompt)):
            if len(answer) == count:
                return answer
            (logits,) = self.step([(answer[-1], position, 0)])
            answer.append(int(logits.argmax()))
        raise AssertionError("count is at least 1")

    def _decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        for index, (token, position, sequence, output) in enumerate(rows):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = output
        batch.n_tokens = len(rows)
        code = lib.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def _logits(self, index: int) -> NDArray[np.float32]:
        """Logits of a row of the last batch; valid until the next."""
        row = lib.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(row, shape=(self._size,))


class BareEncoder:
    """A model that makes vectors, and a context, on the calling thread.

    Args:
        path: The GGUF file.
        threads: How many compute.
        context: Most tokens of a batch.
    """

    def __init__(self, path: Path, *, threads: int, context: int) -> None:
        lib.llama_log_set(_quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self._room = context
        params.n_seq_max = _MAX_TEXTS
        params.kv_unified = params.embeddings = True
        params.pooling_type = _POOLING_MEAN
        params.n_threads = params.n_threads_batch = threads
        self._context = lib.llama_init_from_model(model, params)
        self._vocab = lib.llama_model_get_vocab(model)
        self._size: int = lib.llama_model_n_embd(model)
        self._batch = lib.llama_batch_init(context, 0, 1)

    def vectors(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The unit vector of each text."""
        vectors: list[NDArray[np.float32]] = []
        waiting: list[list[int]] = []
        for tokens in map(self._tokens, texts):
            if len(waiting) == _MAX_TEXTS or sum(map(len, [*waiting, tokens])) > self._room:
                vectors += self._encoded(waiting)
                waiting = []
            waiting.append(tokens)
        return vectors + self._encoded(waiting)

    def _tokens(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (lib.llama_token * (len(data) + 2))()
        count = lib.llama_tokenize(self._vocab, data, len(data), tokens, len(tokens), True, False)
        return list(tokens[:count])

    def _encoded(self, texts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        batch, row = self._batch, 0
        for sequence, tokens in enumerate(texts):
            for position, token in enumerate(tokens):
                batch.token[row], batch.pos[row], batch.logits[row] = token, position, True
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
                row += 1
        batch.n_tokens = row
        memory = lib.llama_get_memory(self._context)
        if memory:  # models that are made for vectors have none
            lib.llama_memory_clear(memory, True)
        code = lib.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")
        pooled = [
            np.ctypeslib.as_array(lib.llama_get_embeddings_seq(self._context, each), (self._size,))
            for each in range(len(texts))
        ]
        return [vector / np.linalg.norm(vector) for vector in pooled]
