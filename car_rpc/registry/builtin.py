"""The models that need no download: the demo models, and speech that a library brings along."""

from __future__ import annotations

from pathlib import Path

from car_rpc.wire.models import (
    Capability,
    LocalSource,
    MlxSource,
    ModelSchema,
    SystemSource,
)

#: Where the demo models lie inside the package.
DEMO_DIR = Path(__file__).resolve().parent.parent / "data" / "demo"

#: Tokens of context that the demo model was trained on.
DEMO_CONTEXT_LENGTH = 1024

_GGUF = str(DEMO_DIR / "tiny-chat-Q8_0.gguf")
_MLX = str(DEMO_DIR / "mlx")


def builtin_models() -> list[ModelSchema]:
    """The models that are known from the start. None is preferred to one that the user added."""
    return [
        _demo("tiny-chat:gguf", LocalSource(path=_GGUF), ["generate", "tool_use"]),
        _demo("tiny-embed:gguf", LocalSource(path=_GGUF, pooling="mean"), ["embed"]),
        _demo("tiny-rerank:gguf", LocalSource(path=_GGUF, pooling="rank"), ["rerank"]),
        _demo("tiny-chat:mlx", MlxSource(path=_MLX), ["generate", "tool_use"]),
        _demo("tiny-embed:mlx", MlxSource(path=_MLX, pooling="mean"), ["embed"]),
        _demo("tiny-rerank:mlx", MlxSource(path=_MLX), ["rerank"]),
        ModelSchema(
            id="system/pocketsphinx:en-us",
            source=SystemSource(engine="pocketsphinx"),
            capabilities=["speech_to_text"],
            family="pocketsphinx",
            version="5",
            tags=["speech"],
            trust_tier="curated",
        ),
    ]


# Toys: they prove an installation.
def _demo(
    variant: str, source: LocalSource | MlxSource, capabilities: list[Capability]
) -> ModelSchema:
    return ModelSchema(
        id=f"demo/{variant}",
        source=source,
        capabilities=capabilities,
        family="qwen3",
        version="1",
        context_length=DEMO_CONTEXT_LENGTH,
        quantization="Q8_0" if isinstance(source, LocalSource) else "F16",
        tags=["demo"],
        trust_tier="curated",
    )
