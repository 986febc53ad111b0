"""The catalog is data; these are the promises that it makes."""

import json
from collections import Counter

import msgspec
import pytest
from msgspec import UNSET

from car_rpc.registry.catalog import normalised
from car_rpc.registry.curated import CATALOG_FILE, CuratedCatalog, curated
from car_rpc.registry.equivalents import base_name
from car_rpc.registry.fit import DEFAULT_TAG, memory_bytes, weights_bytes
from car_rpc.registry.weights import WeightFiles
from car_rpc.wire.models import DelegatedSource, LocalSource, MlxSource, ModelSchema

MODELS = curated().models
RAW = json.loads(CATALOG_FILE.read_text(encoding="utf-8"))

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)


def test_the_file_says_nothing_that_is_not_read() -> None:
    """An unknown member would be ignored, so a name that is misspelt shows only here."""
    known = set(ModelSchema.__struct_fields__)
    sources = {
        "local": set(LocalSource.__struct_fields__) | {"type"},
        "mlx": set(MlxSource.__struct_fields__) | {"type"},
    }
    costs = {"size_bytes", "kv_bytes_per_token"}
    for entry in RAW["models"]:
        assert set(entry) <= known - {"available", "weights_ready", "downloads_weights", "fit"}
        assert set(entry["source"]) <= sources[entry["source"]["type"]]
        assert set(entry.get("cost", {})) <= costs, "there are no prices to invent"
        assert "performance" not in entry, "there are no speeds to invent"


def test_the_file_is_read_strictly_and_says_where_it_is_from() -> None:
    decoded = msgspec.json.decode(CATALOG_FILE.read_bytes(), type=CuratedCatalog)
    assert len(decoded.models) == len(RAW["models"]) == len(MODELS)
    assert any("looked up" in line for line in decoded.about)


def test_ids_and_names_are_distinct_and_in_order() -> None:
    ids = [model.id for model in MODELS]
    assert ids == sorted(set(ids))
    names = Counter(normalised(model).name.casefold() for model in MODELS)
    assert names.most_common(1)[0][1] == 1, "a name that means two models is of no use"
    templates = [template.name for template in curated().templates]
    assert templates == sorted(set(templates))


@each_model
def test_an_entry_says_what_a_choice_needs(model: ModelSchema) -> None:
    assert model.trust_tier == "curated"
    assert model.family
    assert model.license
    assert isinstance(model.param_count, str)
    assert isinstance(model.source, LocalSource | MlxSource)
    assert model.source.path is UNSET
    assert WeightFiles(CATALOG_FILE.parent, None).absolute(model.source) == model.source
    if "speech_to_text" not in model.capabilities:
        assert weights_bytes(model), "its size is known or can be estimated"
        assert memory_bytes(model)
    if isinstance(model.source, LocalSource):
        assert str(model.source.hf_filename).endswith(".gguf")
        assert isinstance(model.source.mmproj_filename, str) == ("vision" in model.capabilities)


def test_both_formats_of_a_model_say_the_same_of_it() -> None:
    by_base: dict[str, ModelSchema] = {}
    for model in MODELS:
        other = by_base.setdefault(base_name(model.name), model)
        for field in ("capabilities", "family", "version", "context_length", "license"):
            assert getattr(model, field) == getattr(other, field), (model.id, field)


@pytest.mark.parametrize(
    "capability",
    [
        *("generate", "reasoning", "code", "tool_use", "embed", "rerank", "vision", "grounding"),
        *("speech_to_text", "text_to_speech"),
    ],
)
def test_there_is_something_for_each_task(capability: str) -> None:
    assert any(capability in model.capabilities for model in MODELS)


def test_what_is_recommended_comes_as_gguf_and_generates() -> None:
    defaults = [model for model in MODELS if DEFAULT_TAG in model.tags]
    assert len(defaults) >= 4
    for model in defaults:
        assert isinstance(model.source, LocalSource)
        assert {"generate", "tool_use"} <= set(model.capabilities)


def test_templates_hold_no_model_and_no_secret() -> None:
    for entry in RAW["templates"]:
        source = entry["source"]
        assert source["type"] in {"delegated", "openai_compat"}
        assert source.get("model", "") == ""
        assert set(source) <= {"type", "endpoint", "model", "api_key_env"}
    assert any(isinstance(each.source, DelegatedSource) for each in curated().templates)
