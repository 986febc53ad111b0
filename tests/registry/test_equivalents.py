import msgspec
import pytest

from car_rpc.registry.curated import curated
from car_rpc.registry.equivalents import base_name, equivalent
from car_rpc.testing import scripted_model
from car_rpc.wire.models import Adapter, DelegatedSource, LocalSource, MlxSource, ModelSchema


def named(model_id: str, name: str, source: LocalSource | MlxSource) -> ModelSchema:
    return msgspec.structs.replace(scripted_model(model_id, []), name=name, source=source)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("Qwen3-4B", "qwen3-4b"),
        ("Qwen3-4B-MLX", "qwen3-4b"),
        ("Qwen3-4B-4bit", "qwen3-4b"),
        ("Qwen3-4B-Q4_K_M-GGUF", "qwen3-4b"),
        ("Qwen3-4B-IQ4_XS", "qwen3-4b"),
        ("Qwen3-Embedding-0.6B-4bit-DWQ", "qwen3-embedding-0.6b"),
        ("gpt-oss-20b-MXFP4", "gpt-oss-20b"),
        ("phi-4", "phi-4"),
        ("mlx", "mlx"),
    ],
)
def test_a_name_without_its_format_is_the_models_own(name: str, base: str) -> None:
    assert base_name(name) == base


def test_a_gguf_model_has_its_equal_in_mlx_and_back() -> None:
    models = curated().models
    by_id = {model.id: model for model in models}
    gguf, mlx = by_id["qwen/qwen3-4b:q4_k_m"], by_id["qwen/qwen3-4b:mlx-4bit"]
    assert equivalent(gguf, "mlx", models) == mlx
    assert equivalent(mlx, "local", models) == gguf
    assert equivalent(mlx, "mlx", models) == mlx
    assert equivalent(by_id["openai/gpt-oss-120b:mxfp4"], "mlx", models) is None
    delegated = msgspec.structs.replace(gguf, source=DelegatedSource())
    assert equivalent(delegated, "mlx", models) is None


def test_of_several_the_one_that_is_here_is_taken() -> None:
    model = named("me/x:gguf", "X-7B", LocalSource(path="/x.gguf"))
    others = [
        named("a/x:mlx", "X-7B-MLX", MlxSource(hf_repo="a/x")),
        named("b/x:mlx", "x-7b-4bit", MlxSource(path="/x")),
        named("c/y:mlx", "Y-7B-MLX", MlxSource(path="/y")),
    ]
    found = equivalent(model, "mlx", others)
    assert found is not None
    assert found.id == "b/x:mlx"


def test_a_model_with_an_adapter_says_other_things_than_its_namesake() -> None:
    adapters = [Adapter(path="/style")]
    plain = named("me/x:gguf", "X", LocalSource(path="/x.gguf"))
    styled = named("me/x:styled", "X", LocalSource(path="/x.gguf", adapters=adapters))
    other = named("a/x:mlx", "X-MLX", MlxSource(path="/x"))
    other_styled = named("b/x:mlx", "X-MLX", MlxSource(path="/x", adapters=adapters))
    assert equivalent(plain, "mlx", [other_styled, other]) == other
    assert equivalent(styled, "mlx", [other]) is None
    assert equivalent(plain, "mlx", [other_styled]) is None


def test_an_equal_can_do_at_least_as_much() -> None:
    model = named("me/x:gguf", "X", LocalSource(path="/x.gguf"))
    seeing = msgspec.structs.replace(model, capabilities=["generate", "vision"])
    blind = named("a/x:mlx", "X-MLX", MlxSource(path="/x"))
    assert equivalent(seeing, "mlx", [blind]) is None
    assert equivalent(model, "mlx", [blind]) == blind
