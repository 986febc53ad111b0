from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.registry.catalog import normalised
from car_rpc.registry.curated import curated
from car_rpc.registry.fit import fits, with_fit
from car_rpc.registry.search import search, search_templates, source_type, upgrades
from car_rpc.testing import scripted_model
from car_rpc.wire.models import (
    Cost,
    DelegatedSource,
    LocalSource,
    MlxSource,
    ModelSchema,
    ModelSource,
    SourceType,
)
from car_rpc.wire.search import Machine, ModelsSearchParams

GIB = 1024**3
MACHINE = Machine(memory_total_bytes=16 * GIB)
MODELS = [with_fit(normalised(model), MACHINE) for model in curated().models]


def ids(*models: ModelSchema, **params: Any) -> list[str]:
    return [model.id for model in search(models or MODELS, ModelsSearchParams(**params))]


def local(model_id: str, **fields: Any) -> ModelSchema:
    fields = {"source": LocalSource(path="/x.gguf"), "weights_ready": True, **fields}
    model = msgspec.structs.replace(scripted_model(model_id, []), **fields)
    return with_fit(normalised(model), MACHINE)


def test_the_name_that_was_asked_for_comes_first() -> None:
    assert ids(query="qwen3-4b")[0] == "qwen/qwen3-4b:q4_k_m"
    assert ids(query=" Qwen3-4B ")[0] == "qwen/qwen3-4b:q4_k_m"
    assert ids(query="qwen/qwen3-4b:mlx-4bit")[0] == "qwen/qwen3-4b:mlx-4bit"


def test_each_word_must_begin_a_word() -> None:
    found = ids(query="qwen3 4b", source="local")
    assert "qwen/qwen3-4b-instruct-2507:q4_k_m" in found
    assert "qwen/qwen3.5-4b:q4_k_m" in found
    assert "qwen/qwen3-14b:q4_k_m" not in found
    assert ids(query="multilingual reranker") == ["baai/bge-reranker-v2-m3:q8_0"]
    assert ids(query="no such model") == []


def test_without_a_query_what_can_serve_now_comes_first_then_what_is_here_then_what_fits() -> None:
    models = [
        local("a/far:1", weights_ready=False, cost=Cost(ram_bytes=GIB)),
        local("a/huge:1", weights_ready=False, cost=Cost(ram_bytes=99 * GIB)),
        local("a/huger:1", weights_ready=False, cost=Cost(ram_bytes=999 * GIB)),
        local("a/here:1", cost=Cost(ram_bytes=GIB)),
        local("a/small:1", available=True, cost=Cost(ram_bytes=GIB)),
        local("a/large:1", available=True, cost=Cost(ram_bytes=2 * GIB)),
        local("demo/toy:1", available=True, cost=Cost(ram_bytes=3 * GIB)),
    ]
    assert ids(*models) == [
        *("a/large:1", "a/small:1", "demo/toy:1", "a/here:1", "a/far:1", "a/huge:1", "a/huger:1")
    ]


def test_all_that_is_given_must_match() -> None:
    for model in search(
        MODELS, ModelsSearchParams(capability="vision", source="mlx", family="QWEN3-VL")
    ):
        assert "vision" in model.capabilities
        assert isinstance(model.source, MlxSource)
        assert model.family == "qwen3-vl"
    assert ids(max_size_bytes=GIB, capability="rerank") == [
        "qwen/qwen3-reranker-0.6b:q8_0",
        "baai/bge-reranker-v2-m3:q8_0",
    ]
    unknown = local("a/unknown:1")
    assert ids(unknown, max_size_bytes=10**15) == []
    assert len(ids(limit=3)) == 3


def test_what_fits_and_what_does_not_are_all() -> None:
    fitting = ids(fits=True, limit=1000)
    rest = ids(fits=False, limit=1000)
    assert sorted(fitting + rest) == sorted(model.id for model in MODELS)
    assert "qwen/qwen3-32b:q4_k_m" in rest
    assert "qwen/qwen3-8b:q4_k_m" in fitting


@given(st.permutations(MODELS), st.sampled_from(["", "qwen", "4b", "instruct coder"]))
def test_the_order_is_always_the_same(models: list[ModelSchema], query: str) -> None:
    params = ModelsSearchParams(query=query)
    assert search(models, params) == search(MODELS, params)


def test_a_template_is_found_by_what_it_is_for() -> None:
    templates = curated().templates

    def names(**params: Any) -> list[str]:
        return [each.name for each in search_templates(templates, ModelsSearchParams(**params))]

    assert names() == [template.name for template in templates]
    assert names(source="delegated") == ["app"]
    assert names(query="lm studio") == ["lm-studio"]
    assert names(capability="embed") == []
    assert names(family="qwen3") == []


def test_every_kind_of_source_can_be_asked_for() -> None:
    known = set(SourceType.__args__)  # pyright: ignore[reportAttributeAccessIssue] - a Literal
    assert {source.__struct_config__.tag for source in ModelSource.__args__} <= known  # pyright: ignore[reportAttributeAccessIssue] - a Union
    assert source_type(DelegatedSource()) == "delegated"


# Upgrades


def qwen(model_id: str, family: str = "qwen3", **fields: Any) -> ModelSchema:
    fields = {"param_count": "4B", "quantization": "Q4_K_M", **fields}
    return local(model_id, family=family, **fields)


def pairs(*models: ModelSchema) -> list[tuple[str, str]]:
    return [(each.model_id, each.upgrade.id) for each in upgrades(models)]


OLD = qwen("q/qwen3-4b:a")
NEW = qwen("q/qwen3-4b-2507:a", version="2507", weights_ready=False)


def test_the_newest_of_a_line_replaces_what_is_here() -> None:
    newest = qwen("q/qwen3.5-4b:a", "qwen3.5", weights_ready=False)
    assert pairs(OLD, NEW) == [("q/qwen3-4b:a", "q/qwen3-4b-2507:a")]
    assert pairs(NEW, newest, OLD) == [("q/qwen3-4b:a", "q/qwen3.5-4b:a")]


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "gemma3"},
        {"version": ""},
        {"param_count": "8B"},
        {"param_count": "4B-A1B"},
        {"param_count": "many"},
        {"capabilities": ["embed"]},
        {"source": MlxSource(hf_repo="q/q")},
        {"source": DelegatedSource()},
        {"cost": Cost(ram_bytes=99 * GIB)},
        {"name": "qwen3-4b-q8_0"},
    ],
    ids=str,
)
def test_what_is_no_newer_version_of_the_same_is_no_upgrade(changes: dict[str, Any]) -> None:
    fields = {"version": "2507", "weights_ready": False, **changes}
    assert pairs(OLD, qwen("q/other:a", **fields)) == []


def test_what_is_not_here_or_a_toy_or_of_unknown_age_is_not_replaced() -> None:
    assert pairs(msgspec.structs.replace(OLD, weights_ready=False), NEW) == []
    assert pairs(qwen("demo/qwen3-4b:a"), NEW) == []
    newer_llama = local("m/b:1", family="llama", version="3.3", param_count="8B")
    assert pairs(local("m/a:1", family="llama", param_count="8B"), newer_llama) == []


def test_who_has_the_newest_already_needs_no_other() -> None:
    assert pairs(OLD, msgspec.structs.replace(NEW, weights_ready=True)) == []


def test_the_catalog_knows_upgrades_that_can_do_as_much() -> None:
    here = [
        msgspec.structs.replace(model, weights_ready=model.id == "qwen/qwen3-8b:q4_k_m")
        for model in MODELS
    ]
    assert pairs(*here) == [("qwen/qwen3-8b:q4_k_m", "qwen/qwen3.5-9b:q4_k_m")]
    for each in upgrades(here):
        assert fits(each.upgrade)
