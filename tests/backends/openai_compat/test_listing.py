"""What is read out of a server's listings, and that nothing in them can do harm."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.backends.openai_compat.listing import MAX_MODELS, further_paths, listed
from car_rpc.wire.models import ModelSchema
from tests.servers import listings
from tests.servers.scripted import Reply

HERE = "http://127.0.0.1"


def bodies(routes: dict[str, Reply]) -> dict[str, bytes]:
    return {path: str(reply.parts[0]).encode() for path, reply in routes.items()}


def models_of(routes: dict[str, Reply], endpoint: str, server: str = "") -> tuple[str, Any]:
    kind, models = listed(endpoint, server, bodies(routes))
    return kind, {
        model.id: (model.capabilities, model.context_length, model.source.model) for model in models
    }


def openai_listing(*names: str, **members: Any) -> dict[str, bytes]:
    data = [{"id": name, "object": "model", **members} for name in names]
    return {"/v1/models": json.dumps({"object": "list", "data": data}).encode()}


def ids(endpoint: str, *names: str, **members: Any) -> list[str]:
    return [model.id for model in listed(endpoint, "", openai_listing(*names, **members)).models]


def test_ollamas_models_are_named_by_their_tags() -> None:
    assert models_of(listings.OLLAMA, f"{HERE}:11434") == (
        "ollama",
        {
            "ollama/gemma3:4b": (["generate"], 0, "gemma3:4b"),
            "ollama/nomic-embed-text:latest": (["embed"], 0, "nomic-embed-text"),
        },
    )
    gemma, _ = listed(f"{HERE}:11434", "", bodies(listings.OLLAMA)).models
    assert (gemma.family, gemma.param_count, gemma.quantization) == ("gemma", "4.3B", "Q4_K_M")
    assert gemma.tags == ["discovered"]


def test_lm_studios_own_listing_says_what_models_can_do() -> None:
    assert models_of(listings.LM_STUDIO, f"{HERE}:1234") == (
        "lm_studio",
        {
            "lm-studio/qwen2-vl-7b-instruct:1234": (
                ["generate", "vision"],
                32768,
                "qwen2-vl-7b-instruct",
            ),
            "lm-studio/qwen_qwen3-coder-30b:1234": (["generate"], 8192, "qwen/qwen3-coder-30b"),
            "lm-studio/text-embedding-nomic-embed-text-v1.5:1234": (
                ["embed"],
                2048,
                "text-embedding-nomic-embed-text-v1.5",
            ),
        },
    )


def test_llama_server_is_told_from_the_ollama_that_it_plays() -> None:
    path = "../models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"
    assert models_of(listings.LLAMA_SERVER, f"{HERE}:8080") == (
        "llama_server",
        {
            "llama-server/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf:8080": (
                ["generate", "vision"],
                1024,
                path,
            )
        },
    )


def test_vllm_says_how_long_a_context_may_be() -> None:
    name = "meta-llama/Llama-3.1-8B-Instruct"
    assert models_of(listings.VLLM, f"{HERE}:8000") == (
        "vllm",
        {"vllm/meta-llama_Llama-3.1-8B-Instruct:8000": (["generate"], 131072, name)},
    )


def test_models_of_vllm_mlx_are_named_by_organisation_and_model() -> None:
    name = "mlx-community/Llama-3.2-3B-Instruct-4bit"
    assert models_of(listings.VLLM_MLX, f"{HERE}:8000") == (
        "vllm_mlx",
        {"vllm-mlx/mlx-community_Llama-3.2-3B-Instruct-4bit:8000": (["generate"], 0, name)},
    )


def test_servers_that_say_nothing_of_themselves_are_told_apart_by_what_else_they_do() -> None:
    listing = openai_listing("m")
    assert listed(HERE, "BaseHTTP/0.6 Python/3.11.7", listing).kind == "mlx_lm"
    assert listed(HERE, "uvicorn", listing).kind == "other"
    assert listed(HERE, "uvicorn", openai_listing("m", owned_by="me")).kind == "llama_cpp_python"


@pytest.mark.parametrize(
    ("endpoint", "name", "expected"),
    [
        ("http://127.0.0.1:8000", "a/b", "vllm/a_b:8000"),
        ("http://localhost:8000", "a b:c", "vllm/a_b_c:8000"),
        ("http://[::1]:8000", "a", "vllm/a:8000"),
        ("http://gpu-1.lan", "a", "vllm/a:gpu-1.lan-80"),
        ("https://gpu:8443/team/x", "a", "vllm/a:gpu-8443-team-x"),
        ("http://[fe80::1]:8000", "a", "vllm/a:fe80..1-8000"),
        ("http://127.0.0.1:8000", "/home/me/models/x.gguf", "vllm/x.gguf:8000"),
        ("http://127.0.0.1:8000", "C:\\models\\x.gguf", "vllm/x.gguf:8000"),
        ("http://127.0.0.1:8000", "~/models/mlx/", "vllm/mlx:8000"),
    ],
)
def test_an_id_says_where_the_server_is(endpoint: str, name: str, expected: str) -> None:
    assert ids(endpoint, name, owned_by="vllm") == [expected]


def test_a_second_ollama_has_ids_of_its_own() -> None:
    (first, _), (second, _) = (
        listed(f"{HERE}:{port}", "", bodies(listings.OLLAMA)).models for port in (11434, 11500)
    )
    assert (first.id, second.id) == ("ollama/gemma3:4b", "ollama/gemma3:4b@11500")


def test_an_ollama_without_models_is_another_server_with_none() -> None:
    listing = {**openai_listing(), "/api/tags": b'{"models": []}'}
    assert listed(HERE, "", listing) == ("other", [])


@pytest.mark.parametrize(
    ("listing", "paths"),
    [
        (b'{"data": []}', ["/api/tags", "/api/v0/models"]),
        (openai_listing("m", owned_by="vllm")["/v1/models"], []),
        (openai_listing("m", owned_by="llamacpp")["/v1/models"], ["/props"]),
        (b'{"data": null}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"[" * 100_000, None),
    ],
)
def test_only_a_server_that_lists_models_is_asked_further(listing: bytes, paths: Any) -> None:
    assert further_paths(listing) == paths


def test_names_that_make_no_id_are_left_out_and_the_first_of_two_alike_stays() -> None:
    assert ids(HERE, "x" * 300, "", "a/b", "a_b", "c") == ["other/a_b:80", "other/c:80"]


def test_a_listing_without_end_is_cut() -> None:
    assert len(ids(HERE, *(f"m{n}" for n in range(2 * MAX_MODELS)))) == MAX_MODELS


MEMBERS = [
    *("id", "data", "models", "model", "name", "details", "digest", "type", "arch", "family"),
    *("owned_by", "default_generation_settings", "n_ctx", "modalities", "max_model_len"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4)
    ),
    max_leaves=20,
)
ENTRY = st.fixed_dictionaries(
    {"id": st.text(max_size=300)},
    optional={
        "owned_by": st.sampled_from(["vllm", "llamacpp", "me"]) | JSON,
        "max_model_len": JSON,
    },
)


@given(
    st.lists(ENTRY, max_size=4),
    st.dictionaries(st.sampled_from(["/api/tags", "/api/v0/models", "/props"]), JSON),
)
def test_whatever_a_server_says_what_comes_out_could_be_registered(
    entries: list[Any], others: dict[str, Any]
) -> None:
    answers = {"/v1/models": json.dumps({"data": entries}).encode()}
    answers |= {path: json.dumps(value).encode() for path, value in others.items()}
    models = listed(f"{HERE}:8000", "", answers).models
    for model in models:
        msgspec.json.decode(msgspec.json.encode(model), type=ModelSchema)
        assert model.source.endpoint == f"{HERE}:8000"
    assert len({model.id for model in models}) == len(models)
