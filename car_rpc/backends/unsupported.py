"""What backends answer that have no tokenizer, no embedding and no ear."""

from __future__ import annotations

from collections.abc import Sequence

from car_rpc.engine.ports import EmbeddingBatch, Recording, Transcript
from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.content import Message
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import ModelSchema

_TOKENIZE = "tokenize/detokenize"

#: Why a remote model has no tokens; the executor contract's words.
_REMOTE_TOKENIZER = (
    "remote provider tokenizer is not exposed by the runtime; use a local model (Qwen3 GGUF / MLX)"
    " for tokenizer-correctness checks"
)


class GenerateOnly:
    """Base of backends that only generate.

    Args:
        name: Name of the backend, for errors.
        reason: Why the rest is not there and what to use instead.
        remote: Whether somebody else runs the models, and keeps their tokenizers.
    """

    def __init__(self, name: str, reason: str, *, remote: bool = True) -> None:
        self._name = name
        self._reason = reason
        self._remote = remote

    def continues_turns(self, model: ModelSchema, request: GenerateRequest) -> bool:
        """No: what is behind such a backend is asked anew each time."""
        return False

    def judges(self, model: ModelSchema) -> bool:
        """No: only what a model says can be read."""
        return False

    async def score(
        self, model: ModelSchema, messages: Sequence[Message], answers: Sequence[str]
    ) -> list[float]:
        """Always refuses."""
        raise unsupported_mode("likelihood", self._name, self._reason)

    async def rank(
        self, model: ModelSchema, query: str, documents: Sequence[str], instruction: str
    ) -> list[float]:
        """Always refuses."""
        raise unsupported_mode("likelihood", self._name, self._reason)

    async def embed(self, model: ModelSchema, texts: Sequence[str]) -> EmbeddingBatch:
        """Always refuses."""
        raise unsupported_mode("embed", self._name, self._reason)

    async def tokenize(self, model: ModelSchema, text: str) -> list[int]:
        """Always refuses."""
        raise self._no_tokenizer()

    async def detokenize(self, model: ModelSchema, tokens: Sequence[int]) -> str:
        """Always refuses."""
        raise self._no_tokenizer()

    async def transcribe(self, model: ModelSchema, recording: Recording) -> Transcript:
        """Always refuses."""
        detail = f"speech-to-text not implemented for model source: {model.id}"
        raise CarError("unsupported_mode", detail, model=model.id)

    async def close(self) -> None:
        """Nothing to stop."""

    def _no_tokenizer(self) -> CarError:
        if not self._remote:
            return unsupported_mode(_TOKENIZE, self._name, self._reason)
        return unsupported_mode(_TOKENIZE, "remote", _REMOTE_TOKENIZER)
