"""What a model remembers of several sequences, as fast as that of one while there is only one."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from car_rpc.workers.mlx.native import BatchKVCache, KVCache, cache_module, mx

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

#: What is called before each layer, while one is computed after the other.
_look: ContextVar[Callable[[], None] | None] = ContextVar("look", default=None)


@contextmanager
def layer_by_layer(look: Callable[[], None]) -> Generator[None]:
    """Compute one layer after the other, and call ``look`` before each, which may raise."""
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


class Rows(BatchKVCache):  # type: ignore[misc] # the library has no types
    """A batch's cache for a layer, that of mlx-lm.

    Shorter sequences are padded on their left, so positions are an array and a mask hides the
    padding. One sequence alone needs neither: its positions are a number and the mask is that of
    a cache for one, which saves an eighth of the time for a token.
    """

    _alone: bool | None = None

    def update_and_fetch(self, keys: Any, values: Any) -> Any:
        """Remember some more of each sequence; returns all that is remembered."""
        look = _look.get()
        if look is not None:
            mx.eval(keys, values)  # and so what the layers before have made
            look()
        return BatchKVCache.update_and_fetch(self, keys, values)

    @property
    def places(self) -> int:
        """How much was read, the padding with it."""
        places: int = self._idx
        return places

    @property
    def left_padding(self) -> Any:
        """How much of each sequence is padding."""
        return self._left_padding

    @left_padding.setter
    def left_padding(self, padding: Any) -> None:
        self._left_padding = padding
        self._alone = None

    @property
    def offset(self) -> Any:
        """How much was read of each sequence, or of the one that is alone."""
        return self._idx if self._is_alone else self._offset

    @offset.setter
    def offset(self, offset: Any) -> None:
        self._offset = offset

    def make_mask(self, *args: Any, **options: Any) -> Any:
        """What each token may see of the others."""
        if self._is_alone:
            return KVCache.make_mask(self, *args, **options)
        return BatchKVCache.make_mask(self, *args, **options)

    @classmethod
    def merge(cls, caches: Sequence[Any]) -> Any:
        """Make one cache of those of several sequences, which stay as they are.

        Nothing is copied of a sequence alone: its arrays are full, so that what is read next is
        written to larger ones.
        """
        if len(caches) > 1 or caches[0].empty():
            library: Any = super()
            return library.merge(caches)
        rows: Any = cls([0])
        rows.keys, rows.values = caches[0].keys_and_values()
        rows._idx = caches[0].offset
        return rows

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Keep only some of the sequences."""
        if self._is_alone and list(batch_indices) == [0]:
            return  # mlx-lm would copy it
        self._spread()
        BatchKVCache.filter(self, batch_indices)

    def extract(self, idx: int) -> Any:
        """The cache of one of the sequences."""
        # mlx-lm has none where nothing was read of the first chunk.
        return KVCache() if self.keys is None else BatchKVCache.extract(self, idx)

    def extend(self, other: Rows) -> None:
        """Take in other sequences."""
        self._spread()
        other._spread()
        BatchKVCache.extend(self, other)

    @property
    def _is_alone(self) -> bool:
        if self._alone is None:
            self._alone = self._left_padding.tolist() == [0]
        return bool(self._alone)

    def _spread(self) -> None:
        """Have an array of positions, for what deals with several."""
        if self._is_alone:
            self._offset = mx.array([self._idx])
            self._alone = False


def use_rows() -> None:
    """Let mlx-lm make these caches where it would make its own."""
    cache_module.BatchKVCache = Rows
