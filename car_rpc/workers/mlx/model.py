"""Load the weights of a folder."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from car_rpc.errors import CarError
from car_rpc.workers.mlx.adapters import add_adapters
from car_rpc.workers.mlx.folder import unusable
from car_rpc.workers.mlx.native import (
    ON_CPU,
    BatchGenerator,
    KVCache,
    is_out_of_memory,
    load_model,
    make_prompt_cache,
    mx,
    tree_flatten,
    version,
)
from car_rpc.workers.mlx.prompts import read_as_wanted
from car_rpc.workers.mlx.rows import use_rows
from car_rpc.workers.slots import physical_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from car_rpc.wire.models import Adapter
    from car_rpc.workers.mlx.folder import Folder

#: Tokens of each prompt that are read in one go: a running answer waits for at most so many of
#: each new one, and on a graphics processor so does a cancel. A processor reads as fast in pieces
#: of 64 as in larger ones, and a tenth slower in pieces of 16, as each operation takes a while to
#: begin; a graphics processor wants larger ones. It is the same for every prompt, as the numbers
#: depend on it.
PREFILL_CHUNK = 64 if ON_CPU else 256

#: Tokens that a model generates as it loads: the first from its prompt, the second from a cache.
_TRIED_TOKENS = 2

#: How many times the files of the weights must fit into memory for halves to become singles,
#: which takes them twice and leaves as much again.
_SINGLE_BYTES_RATIO = 4


use_rows()


class Model:
    """A loaded model. It is never freed: the process ends with it.

    Args:
        folder: The model's folder.
        progress: Takes how far loading is, in percent; called at most once per percent.
        adapters: LoRA adapters for it.

    Raises:
        CarError: mlx-lm cannot load it or an adapter of it (``model_load_failed``), or it does
            not fit (``out_of_memory``).
    """

    def __init__(
        self, folder: Folder, progress: Callable[[float], None], adapters: Sequence[Adapter] = ()
    ) -> None:
        if folder.weight_bytes > physical_memory():
            raise out_of_memory(folder.path)
        try:
            self.network, _ = load_model(folder.path, lazy=True)
            add_adapters(self.network, adapters)
            if ON_CPU and _SINGLE_BYTES_RATIO * folder.weight_bytes <= physical_memory():
                # Processors compute in single precision: with halves a token takes twice as long.
                self.network.set_dtype(mx.float32)
            self.size_bytes = self._read_weights(progress)
            self._try()
        except CarError:
            raise
        except Exception as error:
            # Whatever is wrong with a model shows as some exception of the code that is its
            # architecture, so there is no narrower class to name.
            if is_out_of_memory(error):
                raise out_of_memory(folder.path) from error
            raise _load_error(folder.path, error) from error

    def _read_weights(self, progress: Callable[[float], None]) -> int:
        """Read the weights, one after the other; returns their size in memory."""
        weights: list[Any] = [array for _, array in tree_flatten(self.network.parameters())]
        total = sum(array.nbytes for array in weights)
        done, told = 0, -1
        for array in weights:
            mx.eval(array)
            done += array.nbytes
            percent = 100 * done // total
            if percent > told:
                told = percent
                progress(float(percent))
        return int(total)

    def _try(self) -> None:
        """Generate two tokens, so that a model that cannot run fails as it loads."""
        batch = self.make_batch(1)
        (uid,) = batch.insert([[0]])
        said: list[Any] = []
        while len(said) < _TRIED_TOKENS:
            said += batch.next()[1]
        cache, tokens = batch.remove([uid], return_prompt_caches=True)[uid]
        self.vocab_size = int(said[0].logprobs.shape[-1])
        #: Whether each layer remembers every token by itself, so that answers can share a batch
        #: and a part of a prompt can be cut off. mlx-lm's other caches break in such company.
        self.plain_attention = all(type(layer) is KVCache for layer in cache)
        kept = sum(layer.nbytes for layer in cache if type(layer) is KVCache)
        self.kv_bytes_per_token = int(kept) // len(tokens)

    @cached_property
    def hidden_size(self) -> int:
        """Numbers in a hidden state; 0 where the architecture does not show them."""
        try:
            return int(self.hidden_states(mx.array([[0]])).shape[-1])
        except Exception:  # noqa: BLE001 - whatever an architecture does when asked like this
            return 0

    def hidden_states(self, rows: Any) -> Any:
        """What the model knows of each token, before it would choose the next one.

        Nearly all architectures of mlx-lm are a ``Model`` around a ``model`` that gives this.
        """
        return self.network.model(rows)

    def make_cache(self) -> list[Any]:
        """What it will remember of a sequence, by layer: nothing yet."""
        cache: list[Any] = make_prompt_cache(self.network)
        return cache

    def logits(self, tokens: Sequence[int], cache: list[Any]) -> Any:
        """A row of logits for what follows each of some tokens, which the cache then holds."""
        return self.network(mx.array([tokens]), cache=cache)[0]

    def make_batch(self, slots: int, is_wanted: Callable[[int], bool] = lambda _: True) -> Any:
        """An empty batch for so many answers. They end when they are removed, not before.

        Args:
            slots: How many there may be.
            is_wanted: Whether one, by its number in the batch, is still wanted.
        """
        batch = BatchGenerator(
            self.network,
            max_tokens=sys.maxsize,
            completion_batch_size=slots,
            prefill_batch_size=slots,
            prefill_step_size=PREFILL_CHUNK,
        )
        read_as_wanted(batch, is_wanted)
        return batch


def out_of_memory(path: Path) -> CarError:
    """The model or its context does not fit."""
    return CarError(
        "out_of_memory",
        f"{path} does not fit; close other programs, use a smaller model or set a smaller"
        " context_length",
        path=str(path),
    )


def _load_error(path: Path, error: Exception) -> CarError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return unusable(
        path,
        f"cannot be loaded by {version()} ({reason}); check that it is a whole model of a kind"
        " that this version knows",
    )
