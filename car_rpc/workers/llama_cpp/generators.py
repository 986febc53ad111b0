"""Answer each request in the context that is the fastest for its length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from car_rpc.workers.llama_cpp.native import log_debug

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.workers.llama_cpp.generation import LlamaGeneration
    from car_rpc.workers.llama_cpp.generator import Generator

#: Tokens of prompt and answer together up to which flash attention is the faster one on a
#: processor. Without it llama.cpp looks at a multiple of so many places, however few are taken
#: (llama_kv_cache::get_n_kv). With it, up to here, the numbers of a sequence do not depend on
#: what else is in a batch, as places are shared out between threads only from 512 on
#: (ggml_compute_forward_flash_attn_ext_f16).
SHORT_ROOM = 256


class Generators:
    """The contexts that a model answers in.

    Which one it is depends on nothing but the request, so that it gets the same answer whatever
    was asked before.

    Args:
        long: Answers requests of any length.
        make_short: Makes what answers requests of up to :data:`SHORT_ROOM` tokens, when the first
            one comes; may raise MemoryError. ``None`` where that would be no faster.
    """

    def __init__(self, long: Generator, make_short: Callable[[], Generator] | None) -> None:
        self.long = long
        self.short: Generator | None = None
        self._make_short = make_short

    def add(self, generation: LlamaGeneration) -> None:
        """Queue a generation."""
        is_short = generation.most_tokens <= SHORT_ROOM and not generation.has_media
        (self._short() if is_short else self.long).add(generation)

    def step(self) -> bool:
        """Advance all; returns whether any can go on at once."""
        goes_on = self.long.step()
        return (self.short is not None and self.short.step()) or goes_on

    def reset(self) -> None:
        """Forget all generations, and what is kept of their prompts."""
        self.long.reset()
        if self.short is not None:
            self.short.reset()

    def _short(self) -> Generator:
        if self.short is None and self._make_short is not None:
            try:
                self.short = self._make_short()
            except MemoryError:
                self._make_short = None
                log_debug("short requests are answered like others, as memory is short")
        return self.short or self.long
