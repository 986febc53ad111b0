"""Read prompts in a batch, and leave them amid a chunk where nobody wants them any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from car_rpc.workers.mlx.native import ON_CPU, PromptProcessingBatch
from car_rpc.workers.mlx.rows import Rows, layer_by_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _UnwantedError(Exception):
    """Nobody wants what is being read."""


class Prompts(PromptProcessingBatch):  # type: ignore[misc] # the library has no types
    """The prompts that are read in one batch, those of mlx-lm.

    On a processor a chunk takes a tenth of a second and more, so it is computed layer by layer, and
    left in between when all of its prompts are cancelled. The numbers are the same, and it takes no
    longer.

    Attributes:
        is_wanted: Whether a prompt, by its number in the batch, is still wanted.
    """

    is_wanted: Callable[[int], bool]

    def prompt(self, tokens: Sequence[Sequence[int]]) -> None:
        """Read some more of each prompt."""
        if not ON_CPU or not all(isinstance(layer, Rows) for layer in self.prompt_cache):
            PromptProcessingBatch.prompt(self, tokens)
            return
        lengths = [len(read) for read in self.tokens]
        places = max((layer.places for layer in self.prompt_cache), default=0)
        try:
            with layer_by_layer(self._look):
                PromptProcessingBatch.prompt(self, tokens)
        except _UnwantedError:
            # What earlier chunks left serves others.
            for read, length in zip(self.tokens, lengths, strict=True):
                del read[length:]
            for layer in self.prompt_cache:
                layer.trim(layer.places - places)

    def _look(self) -> None:
        if not any(self.is_wanted(uid) for uid in self.uids):
            raise _UnwantedError


def read_as_wanted(batch: Any, is_wanted: Callable[[int], bool]) -> None:
    """Let a new batch of mlx-lm read its prompts so."""
    prompts: Any = Prompts
    batch._prompt_batch = prompts.empty(batch.model, batch.sampler, batch.prefill_step_size)
    batch._prompt_batch.is_wanted = is_wanted
