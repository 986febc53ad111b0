"""Choose the next token."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from car_rpc.errors import CarError
from car_rpc.workers.likelihood import Likely, likely

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from car_rpc.wire.worker import SamplingParams
    from car_rpc.workers.constraint.constraint import Constraint
    from car_rpc.workers.llama_cpp.context import Context

#: Tokens that ``repeat_penalty`` looks back on: llama.cpp's default.
_REPEAT_WINDOW = 64

_SEED_BITS = 64

#: So many tokens are looked at alone where no other may be chosen.
_FEW = 4096


class Sampler:
    """Samples one answer; penalties look at generated tokens only, as OpenAI's do.

    The order is llama.cpp's: bias, penalties, ``top_k``, ``top_p``, ``min_p``, temperature. Its own
    samplers build a list of all tokens and sort it, which for a vocabulary of 150,000 takes up to
    10 ms a token; here only what can be chosen is sorted.

    Args:
        params: What the request asked for.
        vocab_size: Tokens of the vocabulary.

    Raises:
        CarError: ``logit_bias`` names an unknown token (``invalid_request``).
    """

    def __init__(self, params: SamplingParams, vocab_size: int) -> None:
        self._params = params
        self._vocab_size = vocab_size
        seed = params.seed
        self._rng = np.random.default_rng(None if seed is None else seed % (1 << _SEED_BITS))
        self._biased, self._bias = _bias(params.logit_bias, vocab_size)
        self._recent: deque[int] = deque(maxlen=_REPEAT_WINDOW)
        #: How likely the last token was before any parameter, and then the likeliest ones, where
        #: the request asked for that.
        self.likely: list[Likely] = []
        self._counts = np.zeros(vocab_size, np.float32) if _counts_tokens(params) else None

    def sample(self, context: Context, index: int, constraint: Constraint | None = None) -> int:
        """The token that follows the batch's row ``index``, whose logits change.

        Args:
            context: Where the batch was evaluated.
            index: The row.
            constraint: Which tokens may be chosen; ``None`` when all may.
        """
        logits = context.logits(index, self._vocab_size)
        said = logits.copy() if self._params.logprobs else None
        self._adjust(logits)
        token = self._choose(logits, constraint)
        self.accept(token)
        if said is not None:
            self.likely = likely(said, token, self._params.logprobs)
        return token

    def _choose(self, logits: NDArray[np.float32], constraint: Constraint | None) -> int:
        if self._params.temperature != 0:
            luck = self._rng.random()
            return among(logits, constraint, lambda some: choose(some, self._params, luck))
        token = int(logits.argmax())
        if constraint is None or constraint.allows(token):
            return token  # what all the others are is no matter
        return among(logits, constraint, lambda some: int(some.argmax()))

    def accept(self, token: int) -> None:
        """Let the penalties know of a token of the answer."""
        self._recent.append(token)
        if self._counts is not None:
            self._counts[token] += 1

    def _adjust(self, logits: NDArray[np.float32]) -> None:
        params = self._params
        logits[self._biased] += self._bias
        if params.repeat_penalty != 1 and self._recent:
            seen = np.unique(np.array(self._recent))
            values = logits[seen]
            penalty = np.float32(params.repeat_penalty)
            logits[seen] = np.where(values > 0, values / penalty, values * penalty)
        if self._counts is not None:
            logits -= self._counts * np.float32(params.frequency_penalty)
            logits -= (self._counts > 0) * np.float32(params.presence_penalty)


def among(
    logits: NDArray[np.float32],
    constraint: Constraint | None,
    pick: Callable[[NDArray[np.float32]], int],
) -> int:
    """A token that may be chosen.

    Args:
        logits: A number for each token; those that may not be chosen change.
        constraint: Which may.
        pick: Picks a place among logits.
    """
    allowed = None if constraint is None else constraint.allowed()
    if allowed is None:
        return pick(logits)
    if 0 < np.count_nonzero(allowed) <= _FEW:
        tokens = np.flatnonzero(allowed)
        return int(tokens[pick(logits[tokens])])
    # By arithmetic: a processor that must decide for each of 150,000 takes several times as long.
    with np.errstate(divide="ignore"):
        hidden = 1 / allowed.astype(np.float32)
    hidden -= 1  # now 0, or infinity for what may not be chosen
    logits -= hidden
    return pick(logits)


def choose(logits: NDArray[np.float32], params: SamplingParams, luck: float) -> int:
    """A token by its probability.

    Args:
        logits: A number for each token; minus infinity for what cannot be chosen.
        params: Which tokens are left out, and the temperature, which is not 0.
        luck: Random number from 0 to 1, without 1.
    """
    tokens: NDArray[np.intp] | None = None  # None: all of them
    if params.top_k and params.top_k < len(logits):
        tokens = np.argpartition(logits, -params.top_k)[-params.top_k :]
        logits = logits[tokens]
    relative = logits - logits.max()
    weights = np.exp(relative)
    kept: NDArray[np.intp] | None = None
    if params.top_p < 1:
        kept = _nucleus(weights, params.top_p)
    if params.min_p:
        likely = np.flatnonzero(weights >= params.min_p)
        kept = likely if kept is None else kept[weights[kept] >= params.min_p]
    if kept is not None:
        relative = relative[kept]
        tokens = kept if tokens is None else tokens[kept]
    with np.errstate(over="ignore"):  # as minus infinity it is right
        relative = relative / np.float32(params.temperature)
    sums = np.exp(relative).cumsum(dtype=np.float64)
    place = int(sums.searchsorted(luck * sums[-1], "right"))
    # No place behind the last one that can be chosen, should rounding get there.
    place = min(place, int(sums.searchsorted(sums[-1])))
    return place if tokens is None else int(tokens[place])


def _nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.intp]:
    """Places of the fewest weights that have the share ``top_p`` of their sum; at least one."""
    total = float(weights.sum(dtype=np.float64))
    # All that are below this have less than the rest together, so none of them is needed.
    least = (1 - top_p) * total / len(weights)
    places = np.flatnonzero(weights >= least)
    places = places[np.argsort(-weights[places])]
    sums = np.cumsum(weights[places], dtype=np.float64)
    return places[: int(np.searchsorted(sums, top_p * total)) + 1]


def _counts_tokens(params: SamplingParams) -> bool:
    return bool(params.frequency_penalty or params.presence_penalty)


def _bias(bias: dict[int, float], vocab_size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Tokens and what is added to their logits."""
    for token in bias:
        if not 0 <= token < vocab_size:
            raise CarError(
                "invalid_request",
                f"logit_bias names token {token}, the model's are 0..{vocab_size - 1}",
            )
    return np.array(list(bias), dtype=np.intp), np.array(list(bias.values()), dtype=np.float32)
