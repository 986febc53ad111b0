"""How likely each token is by the plain definition of every sampling parameter."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from car_rpc.wire.worker import SamplingParams

#: Logits that are far enough apart for every routine to see the difference.
LOGITS = st.lists(st.integers(-60, 60).map(lambda n: n / 4), min_size=1, max_size=30, unique=True)

#: All ways to leave tokens out.
CUTS = {
    "top_k": st.sampled_from([None, 1, 3, 50]),
    "top_p": st.sampled_from([0.0, 0.31, 0.91, 1.0]),
    "min_p": st.sampled_from([None, 0.013, 0.57, 1.0]),
    "temperature": st.sampled_from([0.5, 1.0, 3.0]),
}


def odds(logits: list[float], params: SamplingParams) -> Any:
    """The probability of each token by the definitions: sort all, cut, temper."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: params.top_k]
    weights = np.exp(np.array([logits[token] for token in order]) - logits[order[0]])
    before = np.cumsum(weights) - weights
    kept = (before < params.top_p * weights.sum()) & (weights >= (params.min_p or 0))
    kept[0] = True
    tempered = np.where(kept, weights ** (1 / params.temperature), 0)
    found = np.zeros(len(logits))
    found[order] = tempered / tempered.sum()
    return found
