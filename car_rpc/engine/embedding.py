"""What an embedding model gave, as the client gets it. Pure."""

from __future__ import annotations

import base64
from array import array

from car_rpc.engine.ports import EmbeddingBatch
from car_rpc.wire.inference import EmbedResult, Usage
from car_rpc.wire.models import ModelSchema


def embed_result(model: ModelSchema, batch: EmbeddingBatch, *, as_base64: bool) -> EmbedResult:
    """The result of ``embed``."""
    return EmbedResult(
        embeddings=_vectors(batch, as_base64=as_base64),
        model_used=model.id,
        dimensions=batch.dimensions,
        usage=Usage(
            prompt_tokens=batch.prompt_tokens,
            completion_tokens=0,
            total_tokens=batch.prompt_tokens,
            context_window=model.context_length or None,
        ),
    )


def _vectors(batch: EmbeddingBatch, *, as_base64: bool) -> list[list[float] | str]:
    size = batch.dimensions * 4
    rows = [batch.data[start : start + size] for start in range(0, len(batch.data), size or 1)]
    if as_base64:
        return [base64.b64encode(row).decode() for row in rows]
    return [array("f", row).tolist() for row in rows]
