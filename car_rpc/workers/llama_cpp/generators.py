"""Answer each request in the context that is the fastest for its length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from car_rpc.errors import CarError
from car_rpc.workers.llama_cpp.native import log_debug

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.workers.llama_cpp.generation import LlamaGeneration
    from car_rpc.workers.llama_cpp.generator import Generator
    from car_rpc.workers.llama_cpp.speculation import Speculator

#: Tokens of prompt and answer together up to which flash attention is the faster one on a
#: processor. Without it llama.cpp looks at a multiple of so many places, however few are taken
#: (llama_kv_cache::get_n_kv). With it, up to here, the numbers of a sequence do not depend on
#: what else is in a batch, as places are shared out between threads only from 512 on
#: (ggml_compute_forward_flash_attn_ext_f16).
SHORT_ROOM = 256


class Generators:
    """The contexts that a model answers in.

    Which one it is depends on nothing but the request, so that it gets the same answer whatever
    was asked before. The one for short requests is there from the beginning, as it takes little;
    the other one, which takes more than all else but the weights, when a request needs it.

    Args:
        make_long: Makes what answers requests of any length; may raise MemoryError.
        make_short: Makes what answers requests of up to :data:`SHORT_ROOM` tokens; may raise
            MemoryError, and then there is none. ``None`` where that would be no faster.
        longest: Tells how many tokens one request may use before there is what answers long ones.

    Raises:
        MemoryError: There is no room to answer anything.
    """

    def __init__(
        self,
        make_long: Callable[[], Generator],
        make_short: Callable[[], Generator] | None,
        longest: Callable[[], int],
    ) -> None:
        self._make_long = make_long
        self._longest = longest
        self._long: Generator | None = None
        self.short: Generator | None = None
        if make_short is not None:
            try:
                self.short = make_short()
            except MemoryError:
                log_debug("short requests are answered like others, as memory is short")
        if self.short is None:
            self._long = make_long()

    @property
    def long(self) -> Generator:
        """What answers requests of any length.

        Raises:
            MemoryError: It is needed for the first time, and there is no room for it.
        """
        if self._long is None:
            self._long = self._make_long()
        return self._long

    @property
    def longest(self) -> int:
        """Tokens that one request may use at most, as far as the memory goes for one."""
        return self._longest() if self._long is None else self._long.longest

    @property
    def speculator(self) -> Speculator | None:
        """What guesses how answers go on; short ones are not answered apart then."""
        return None if self._long is None else self._long.speculator

    def add(self, generation: LlamaGeneration) -> None:
        """Queue a generation.

        Raises:
            CarError: It is the first long one, and there is no room for any (``out_of_memory``).
        """
        is_short = generation.most_tokens <= SHORT_ROOM and not generation.has_media
        try:
            generator = self.short if is_short and self.short is not None else self.long
        except MemoryError as error:
            detail = f"beside the model there is only room for requests of {SHORT_ROOM} tokens"
            advice = "with their answers; unload another model, or ask for less"
            raise CarError("out_of_memory", f"{detail} {advice}") from error
        generator.add(generation)

    def step(self) -> bool:
        """Advance all; returns whether any can go on at once."""
        goes_on = [each.step() for each in self._made]
        return any(goes_on)

    def reset(self) -> None:
        """Forget all generations, and what is kept of their prompts."""
        for each in self._made:
            each.reset()

    @property
    def _made(self) -> list[Generator]:
        return [each for each in (self._long, self.short) if each is not None]
