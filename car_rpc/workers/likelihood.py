"""How likely tokens are, by the logits that a model gives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: A token and the logarithm of its probability.
Likely: TypeAlias = tuple[int, float]


def log_probabilities(logits: NDArray[np.float32], tokens: Sequence[int]) -> list[float]:
    """The logarithm of the probability of each of some tokens."""
    most = float(logits.max())
    total = most + math.log(float(np.exp(logits - most).sum(dtype=np.float64)))
    return [float(logits[token]) - total for token in tokens]


def likely(logits: NDArray[np.float32], token: int, count: int) -> list[Likely]:
    """How likely a token is, and then the ``count`` likeliest ones."""
    count = min(count, len(logits))
    top = np.argpartition(logits, -count)[-count:]
    tokens = [token, *top[np.argsort(-logits[top])].tolist()]
    return list(zip(tokens, log_probabilities(logits, tokens), strict=True))
