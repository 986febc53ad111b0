"""Choose the next token."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from car_rpc.errors import CarError
from car_rpc.workers.mlx.native import mx, sampling

if TYPE_CHECKING:
    from car_rpc.wire.worker import SamplingParams

#: Tokens that ``repeat_penalty`` looks back on: llama.cpp's default.
_REPEAT_WINDOW = 64

_SEED_VALUES = 1 << 32


class Sampler:
    """Samples one answer; penalties look at generated tokens only, as OpenAI's do.

    The order is llama.cpp's: bias, penalties, top-k, top-p, min-p, temperature.

    Args:
        params: What the request asked for.
        vocab_size: Tokens that the model tells apart.
        prompt_tokens: Tokens of the sequence that are not the answer's.

    Raises:
        CarError: ``logit_bias`` names an unknown token (``invalid_request``).

    Attributes:
        position: Tokens of the answer that were sampled so far. The same seed chooses the same
            token at the same position, so an answer can be taken up again at any of them.
    """

    def __init__(self, params: SamplingParams, vocab_size: int, prompt_tokens: int) -> None:
        self.position = 0
        self._params = params
        self._vocab_size = vocab_size
        self._prompt_tokens = prompt_tokens
        self._bias = _bias(params.logit_bias, vocab_size)
        seed = secrets.randbelow(_SEED_VALUES) if params.seed is None else params.seed
        self._seed = seed % _SEED_VALUES

    @property
    def choose(self) -> Any:
        """The function from rows of log-probabilities to tokens.

        Greedy ones are all the same, because mlx-lm then calls it once for a whole batch.
        """
        return sampling.greedy_sampler if self._params.temperature == 0 else self._draw

    @property
    def processors(self) -> list[Any]:
        """What changes the logits before; mlx-lm is fastest where there is nothing."""
        params = self._params
        penalties = params.frequency_penalty or params.presence_penalty
        changes = self._bias is not None or params.repeat_penalty != 1 or penalties
        return [self._change] if changes else []

    def _draw(self, logprobs: Any) -> Any:
        params = self._params
        if params.top_k and params.top_k < self._vocab_size:
            logprobs = sampling.apply_top_k(logprobs, params.top_k)
        if params.top_p <= 0:  # of which mlx-lm makes nothing
            return sampling.greedy_sampler(logprobs)
        if params.top_p < 1:
            logprobs = sampling.apply_top_p(logprobs, params.top_p)
        if params.min_p:
            logprobs = sampling.apply_min_p(logprobs, params.min_p)
        # Random bits by count: they depend on nothing that was drawn before.
        key = mx.array([self._seed, self.position], dtype=mx.uint32)
        self.position += 1
        return mx.random.categorical(logprobs / params.temperature, key=key)

    def _change(self, tokens: Any, logits: Any) -> Any:
        """The logits with bias and penalties.

        Args:
            tokens: The whole sequence so far.
            logits: One row.
        """
        params = self._params
        logits = logits.astype(mx.float32)
        if self._bias is not None:
            logits = logits + self._bias
        said = tokens[self._prompt_tokens :]
        if said.size == 0:
            return logits
        if params.repeat_penalty != 1:
            penalty = params.repeat_penalty
            weakened = mx.where(logits > 0, logits / penalty, logits * penalty)
            logits = mx.where(self._counts(said[-_REPEAT_WINDOW:]) > 0, weakened, logits)
        if params.frequency_penalty or params.presence_penalty:
            counts = self._counts(said)
            logits = logits - counts * params.frequency_penalty
            logits = logits - (counts > 0) * params.presence_penalty
        return logits

    def _counts(self, tokens: Any) -> Any:
        return mx.zeros(self._vocab_size, dtype=mx.float32).at[tokens].add(1)


def _bias(by_token: dict[int, float], vocab_size: int) -> Any:
    """The bias of every token, or ``None``."""
    if not by_token:
        return None
    for token in by_token:
        if not 0 <= token < vocab_size:
            raise CarError(
                "invalid_request",
                f"logit_bias names token {token}, the model's are 0..{vocab_size - 1}",
            )
    bias = mx.zeros(vocab_size, dtype=mx.float32)
    bias[mx.array(list(by_token))] = mx.array(list(by_token.values()), dtype=mx.float32)
    return bias
