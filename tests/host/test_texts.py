"""The display texts that the executor contract fixes, word for word, each provoked for real."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from car_rpc.backends.delegated import DelegatedBackend
from car_rpc.backends.openai_compat.backend import OpenAICompatBackend
from car_rpc.engine import judging
from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.ports import Recording
from car_rpc.engine.preparation import DONE_NOTE
from car_rpc.engine.routing import PreferredModels, RoutingInputs
from car_rpc.errors import CarError
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import FakeClock, MemorySink
from car_rpc.wire.inference import EmbedParams, GenerateRequest
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.sources import source_label
from car_rpc.wire.tasks import GroundParams, RerankParams

CLOUD = {"type": "openai_compat", "endpoint": "https://api.acme.example", "model": "big"}
APP = {"type": "delegated"}
ORIGIN = Origin(1, "test", b"{}")
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
SOUND = Recording(b"", "", None, None, False)
NO_TOKENIZER = (
    "mode tokenize/detokenize not implemented on backend remote: remote provider tokenizer is not"
    " exposed by the runtime; use a local model (Qwen3 GGUF / MLX) for tokenizer-correctness checks"
)

NO_RUNNER = (
    "no runner: model declares ModelSource::Delegated but no inference runner is registered"
    " (call runner.register)"
)


class Ids:
    def new(self, prefix: str) -> str:
        return f"{prefix}1"


class World:
    """An engine with a model of the app and one in the cloud, and no runner."""

    def __init__(self, tmp_path: Any) -> None:
        models = [
            model("app/gpt:1", APP),
            model("acme/big:1", CLOUD, "generate", "speech_to_text"),
        ]
        channel: Any = type("Channel", (), {"registered": False})()
        backends = {
            "app": DelegatedBackend(channel, Ids()),
            "acme": OpenAICompatBackend(),
        }
        self.registry = Registry(models, ModelStore(tmp_path / "car.db"), tmp_path)
        self.engine = Engine(
            self.registry,
            lambda each: backends[each.provider],
            MemorySink(),
            FakeClock(),
            Ids(),
            routing_inputs=RoutingInputs(preferred=PreferredModels(generation="acme/big:1")),
        )

    async def tokenize(self, name: str) -> object:
        return await self.engine.tokenize(name, "x")

    async def detokenize(self, name: str) -> object:
        return await self.engine.detokenize(name, [1])

    async def generate(self, name: str) -> object:
        request = GenerateRequest(prompt="x", model=name)
        origin = Origin(1, "generate", msgspec.json.encode({"prompt": "x", "model": name}))
        return await self.engine.generate(request, origin, None)

    async def embed(self, name: str) -> object:
        return await self.engine.embed(EmbedParams(texts=["x"], model=name), ORIGIN)

    async def rerank(self, name: str = "") -> object:
        params = RerankParams(query="q", documents=["d"], model=name or UNSET)
        return await judging.rerank(self.engine, params, ORIGIN)

    async def ground(self) -> object:
        params = msgspec.convert({"image": IMAGE, "prompt": "x"}, GroundParams)
        return await judging.ground(self.engine, params, IMAGE, ORIGIN)

    async def transcribe(self, name: str = "") -> object:
        return await self.engine.transcribe(name or UNSET, SOUND, ORIGIN)


def model(model_id: str, source: dict[str, Any], *capabilities: str) -> ModelSchema:
    known = {"id": model_id, "source": source, "capabilities": capabilities or ["generate"]}
    return msgspec.convert(known, ModelSchema)


@pytest.fixture
def world(tmp_path: Any) -> Any:
    world = World(tmp_path)
    yield world
    world.registry.close()


Provoke = Callable[[World], Awaitable[object]]


@pytest.mark.parametrize(
    ("provoke", "message"),
    [
        (lambda world: world.tokenize("acme/big:1"), NO_TOKENIZER),
        (lambda world: world.detokenize("acme/big:1"), NO_TOKENIZER),
        (lambda world: world.tokenize("app/gpt:1"), NO_TOKENIZER),
        (
            lambda world: world.generate("app/gpt:1"),
            NO_RUNNER,
        ),
        (
            lambda world: world.rerank(),
            "model not found: no reranker model available — pull a Qwen3-Reranker model first",
        ),
        (
            lambda world: world.rerank("acme/none:1"),
            "model not found: rerank: unknown reranker model acme/none:1",
        ),
        (lambda world: world.rerank("big"), "model big does not declare the Rerank capability"),
        (lambda world: world.embed("big"), "model big does not declare the Embed capability"),
        (
            lambda world: world.ground(),
            "model not found: no grounding-capable model available — pull a Qwen2.5-VL model first",
        ),
        (lambda world: world.transcribe("gpt"), "model gpt does not support SpeechToText"),
        (
            lambda world: world.transcribe("big"),
            "speech-to-text not implemented for model source: acme/big:1",
        ),
    ],
)
async def test_a_refusal_has_the_words_that_are_fixed(
    world: World, provoke: Provoke, message: str
) -> None:
    with pytest.raises(CarError) as caught:
        await provoke(world)
    assert caught.value.message == message


async def test_without_a_model_that_hears_that_is_said(tmp_path: Any) -> None:
    world = World(tmp_path)
    world.engine.routing._registry = Registry([], ModelStore(tmp_path / "none.db"), tmp_path)
    with pytest.raises(CarError) as caught:
        await world.transcribe()
    assert caught.value.message == "model not found: no speech-to-text models available"


@pytest.mark.parametrize(
    ("request_fields", "reason", "compacts"),
    [
        ({"model": "acme/big:1"}, "explicit model", False),
        ({}, "preferred generation model override", False),
    ],
)
def test_a_choice_of_the_client_or_the_user_has_the_reason_that_is_fixed(
    world: World, request_fields: dict[str, Any], reason: str, compacts: bool
) -> None:
    request = msgspec.convert({"prompt": "x", **request_fields}, GenerateRequest)
    decision = world.engine.explained(request)
    assert (decision.reason, decision.strategy) == (reason, "explicit")
    assert (decision.predicted_quality, decision.fallbacks) == (0.5, [])
    assert decision.needs_compaction is compacts


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ({"type": "mlx", "hf_repo": "acme/small"}, "mlx:acme/small"),
        ({"type": "local", "hf_repo": "acme/s", "hf_filename": "s.gguf"}, "local:acme/s"),
        (CLOUD, "remote:https://api.acme.example"),
        (
            {"type": "vllm_mlx", "endpoint": "http://h:1", "model_name": "m"},
            "vllm-mlx:http://h:1:m",
        ),
        ({"type": "ollama", "host": "http://h:1", "model_tag": "t"}, "ollama:http://h:1:t"),
        ({"type": "delegated", "hint": "gpt"}, "delegated:gpt"),
        (APP, "delegated:(none)"),
    ],
)
def test_a_source_has_the_label_that_is_fixed(source: dict[str, Any], label: str) -> None:
    assert source_label(model("a/b:c", source).source) == label


def test_the_note_on_the_tool_done_is_fixed() -> None:
    assert DONE_NOTE == (
        "\n\nIMPORTANT: When calling the `done` tool, the `result` field MUST contain a DETAILED"
        " summary of everything you found and did. This is the ONLY output the user sees. Do NOT"
        " just say 'completed' — include specific findings, data, and conclusions."
    )
