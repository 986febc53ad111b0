"""BERT as its authors describe it (Devlin et al., 2018), in numbers of 64 bits.

It knows nothing of llama.cpp: weights and tokens come from the files that the model was published
with. What a worker answers is compared with it.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Reference:
    """A BERT that was published for ``transformers``.

    Args:
        folder: With `config.json`, `model.safetensors` and `tokenizer.json`.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self._config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        loaded = load_file(folder / "model.safetensors")
        self._weights = {
            name: tensor.astype(np.float64)
            for name, tensor in loaded.items()
            if not name.endswith("position_ids")
        }
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def tokens(self, text: str, *, framed: bool = True) -> list[int]:
        """Tokens of a text; framed by the model's own first and last."""
        return self._tokenizer.encode(text, add_special_tokens=framed).ids

    def tokens_of_content(self, text: str) -> list[int]:
        """Framed tokens of a text in which control tokens are only letters."""
        self._tokenizer.encode_special_tokens = True
        try:
            return self.tokens(text)
        finally:
            self._tokenizer.encode_special_tokens = False

    def vector(self, text: str, pooling: Literal["mean", "cls", "last"] = "mean") -> Array:
        """The vector of a text, of length 1."""
        states = self.states(self.tokens_of_content(text))
        vector = {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1]}[pooling]
        return vector / np.linalg.norm(vector)

    def states(self, tokens: Sequence[int]) -> Array:
        """What the last layer says of each token."""
        weights = self._weights
        hidden = weights["embeddings.word_embeddings.weight"][list(tokens)]
        hidden = hidden + weights["embeddings.position_embeddings.weight"][: len(tokens)]
        hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
        hidden = self._norm("embeddings.LayerNorm", hidden)
        for number in range(self._config["num_hidden_layers"]):
            layer = f"encoder.layer.{number}"
            attended = self._linear(f"{layer}.attention.output.dense", self._attend(layer, hidden))
            hidden = self._norm(f"{layer}.attention.output.LayerNorm", hidden + attended)
            inner = self._linear(f"{layer}.intermediate.dense", hidden)
            inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))  # Hendrycks, Gimpel: GELU
            hidden = self._norm(
                f"{layer}.output.LayerNorm", hidden + self._linear(f"{layer}.output.dense", inner)
            )
        return hidden

    def _attend(self, layer: str, hidden: Array) -> Array:
        heads = self._config["num_attention_heads"]
        count, width = hidden.shape
        query, key, value = (
            self._linear(f"{layer}.attention.self.{part}", hidden)
            .reshape(count, heads, width // heads)
            .transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(width // heads)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ value
        return mixed.transpose(1, 0, 2).reshape(count, width)

    def _linear(self, name: str, hidden: Array) -> Array:
        return hidden @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, name: str, hidden: Array) -> Array:
        mean = hidden.mean(axis=-1, keepdims=True)
        variance = hidden.var(axis=-1, keepdims=True)
        scaled = (hidden - mean) / np.sqrt(variance + self._config["layer_norm_eps"])
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def erf(values: Array) -> Array:
    """The error function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26); Python's takes minutes."""
    size = np.abs(values)
    t = 1 / (1 + 0.3275911 * size)
    terms = 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429
    polynomial = sum(factor * t**power for power, factor in enumerate(terms, start=1))
    return np.sign(values) * (1 - polynomial * np.exp(-(size**2)))
