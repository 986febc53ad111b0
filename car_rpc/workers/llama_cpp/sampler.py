"""Choose the next token."""

from __future__ import annotations

import ctypes
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from car_rpc.errors import CarError
from car_rpc.workers.llama_cpp.native import lib

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from car_rpc.wire.worker import SamplingParams
    from car_rpc.workers.llama_cpp.context import Context

#: Tokens that ``repeat_penalty`` looks back on: llama.cpp's default.
_REPEAT_WINDOW = 64

#: LLAMA_DEFAULT_SEED, which llama.cpp takes as "choose one": no request may hit it by chance.
_RANDOM_SEED = 0xFFFFFFFF


class Sampler:
    """Samples one answer; penalties look at generated tokens only, as OpenAI's do.

    Args:
        params: What the request asked for.
        vocab_size: Tokens of the vocabulary.
        context_length: How far presence and frequency penalties look back.

    Raises:
        CarError: ``logit_bias`` names an unknown token (``invalid_request``).
    """

    def __init__(self, params: SamplingParams, vocab_size: int, context_length: int) -> None:
        self._vocab_size = vocab_size
        self._greedy = params.temperature == 0
        changes = _changes_of_logits(params, vocab_size, context_length)
        # The plain maximum is ten times faster than a chain that builds a list of candidates.
        self._chain: Any = None
        if changes or not self._greedy:
            self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            for sampler in [*changes, *_choice(params)]:
                lib.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, context: Context, index: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """The token that follows the batch's row ``index``.

        Args:
            context: Where the batch was evaluated.
            index: The row.
            allowed: For each token whether it may be chosen; ``None`` when all may.
        """
        if allowed is not None:
            np.copyto(context.logits(index, self._vocab_size), -np.inf, where=~allowed)
        if self._chain is None:
            return int(context.logits(index, self._vocab_size).argmax())
        return int(lib.llama_sampler_sample(self._chain, context.handle, index))

    def accept(self, token: int) -> None:
        """Let the penalties know of a token that was not sampled."""
        if self._chain is not None:
            lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the native part."""
        if self._chain is not None:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _changes_of_logits(params: SamplingParams, vocab_size: int, context_length: int) -> list[Any]:
    samplers: list[Any] = []
    if params.logit_bias:
        samplers.append(_logit_bias(params.logit_bias, vocab_size))
    if params.repeat_penalty != 1:
        samplers.append(
            lib.llama_sampler_init_penalties(
                vocab_size, _REPEAT_WINDOW, params.repeat_penalty, 0.0, 0.0
            )
        )
    if params.frequency_penalty or params.presence_penalty:
        samplers.append(
            lib.llama_sampler_init_penalties(
                vocab_size,
                context_length,
                1.0,
                params.frequency_penalty,
                params.presence_penalty,
            )
        )
    return samplers


def _choice(params: SamplingParams) -> list[Any]:
    if params.temperature == 0:
        return [lib.llama_sampler_init_greedy()]
    samplers: list[Any] = []
    if params.top_k:
        samplers.append(lib.llama_sampler_init_top_k(params.top_k))
    if params.top_p < 1:
        samplers.append(lib.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p:
        samplers.append(lib.llama_sampler_init_min_p(params.min_p, 1))
    samplers.append(lib.llama_sampler_init_temp(params.temperature))
    samplers.append(lib.llama_sampler_init_dist(_seed(params.seed)))
    return samplers


def _seed(seed: int | None) -> int:
    """The request's seed, folded to 32 bits; a random one when it has none."""
    return secrets.randbelow(_RANDOM_SEED) if seed is None else seed % _RANDOM_SEED


def _logit_bias(bias: dict[int, float], vocab_size: int) -> Any:
    entries = (lib.llama_logit_bias * len(bias))()
    for entry, (token, value) in zip(entries, bias.items(), strict=True):
        if not 0 <= token < vocab_size:
            raise CarError(
                "invalid_request",
                f"logit_bias names token {token}, the model's are 0..{vocab_size - 1}",
            )
        entry.token = token
        entry.bias = ctypes.c_float(value).value
    return lib.llama_sampler_init_logit_bias(vocab_size, len(bias), entries)
