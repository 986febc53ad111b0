"""A real embedding model, asked as an app asks it: over the pipe."""

import base64
from pathlib import Path

import numpy as np
import pytest

from car_rpc.client import CarClient, RemoteError
from tests.workers.reference import Reference

pytest.importorskip("llama_cpp")
minilm = pytest.importorskip("benchmarks.local.minilm")

pytestmark = [pytest.mark.llama, pytest.mark.process]

MODEL = "sentence-transformers/minilm:f16"

TEXTS = [
    "A cat sleeps.",
    "",
    "나는 유리를 먹을 수 있어요",
    "Съешь ещё булок",
    "😀",
    "[SEP]",
    "a " * 300,
]


async def test_vectors_over_the_pipe_are_those_of_the_published_model(tmp_path: Path) -> None:
    reference = Reference(minilm.minilm_folder())
    expected = np.array([reference.vector(text) for text in TEXTS])
    source = {"type": "local", "path": str(minilm.minilm_file("F16", tmp_path))}
    async with CarClient.start(arguments=["--state-dir", str(tmp_path / "state")]) as car:
        await car.register_model({"id": MODEL, "source": source, "capabilities": ["embed"]})
        told = await car.model(MODEL)
        assert (told.family, told.context_length, told.quantization) == ("bert", 512, "F16")
        result = await car.embed(TEXTS, model=MODEL)
        vectors = np.array(result.embeddings)
        assert vectors.shape == (len(TEXTS), result.dimensions) == (len(TEXTS), 384)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert (vectors * expected).sum(axis=1).min() > 0.99999
        assert result.usage is not None
        counted = sum(len(reference.tokens_of_content(text)) for text in TEXTS)
        assert result.usage.prompt_tokens == counted
        packed = await car.call(
            "embed", {"texts": TEXTS[::-1], "model": MODEL, "encoding": "base64"}
        )
        turned = [np.frombuffer(base64.b64decode(row), "<f4") for row in packed["embeddings"][::-1]]
        assert (np.array(turned) * vectors).sum(axis=1).min() > 0.99999
        spelled = await car.call("tokenize", {"model": MODEL, "text": TEXTS[2]})
        assert spelled["tokens"] == reference.tokens(TEXTS[2], framed=False)
        with pytest.raises(RemoteError) as caught:
            await car.embed(["short", "a " * 511], model=MODEL)
        assert caught.value.kind == "context_overflow"
        assert (caught.value.data["index"], caught.value.data["prompt_tokens"]) == (1, 513)
