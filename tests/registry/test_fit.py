from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from car_rpc.registry.curated import curated
from car_rpc.registry.fit import (
    CACHES_BYTES,
    PROCESS_BYTES,
    SHORT_CONTEXT_TOKENS,
    Fitting,
    fits,
    lasting_bytes,
    memory_bytes,
    parameters,
    recommended,
    weights_bytes,
    with_fit,
)
from car_rpc.testing import scripted_model
from car_rpc.wire.models import Cost, DelegatedSource, Fit, LocalSource, MlxSource, ModelSchema
from car_rpc.wire.search import Accelerator, Machine

GIB = 1024**3


def local(model_id: str = "a/b:1", **fields: Any) -> ModelSchema:
    fields = {"source": LocalSource(path="/b.gguf"), **fields}
    return msgspec.structs.replace(scripted_model(model_id, []), **fields)


def machine(gib: float, *kinds: Any) -> Machine:
    cards = [Accelerator(kind=kind) for kind in kinds]
    return Machine(memory_total_bytes=round(gib * GIB), accelerators=cards)


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ("4B", (4e9, 4e9)),
        ("0.6B", (0.6e9, 0.6e9)),
        ("137M", (137e6, 137e6)),
        ("30b-a3b", (30e9, 3e9)),
        ("116.8B-A5.1B", (116.8e9, 5.1e9)),
        ("large", None),
        ("", None),
        (UNSET, None),
    ],
)
def test_parameters_are_read_as_model_cards_write_them(said: Any, counted: Any) -> None:
    assert parameters(local(param_count=said)) == counted


def test_weights_that_are_not_here_are_estimated() -> None:
    assert weights_bytes(local(param_count="8B", quantization="Q8_0")) == 8_500_000_000
    assert weights_bytes(local(param_count="8B", quantization="8bit")) == 8_500_000_000
    given = Cost(size_bytes=7)
    assert weights_bytes(local(param_count="8B", quantization="Q8_0", cost=given)) == 7
    assert weights_bytes(local(param_count="8B")) is None
    assert weights_bytes(local(quantization="Q8_0")) is None
    assert weights_bytes(local(source=DelegatedSource())) == 0


@pytest.mark.parametrize("entry", curated().models, ids=lambda model: model.id)
def test_an_estimate_is_near_the_size_that_is_known(entry: ModelSchema) -> None:
    """Within a quarter: embeddings and mixtures are packed otherwise than the average."""
    if entry.cost is UNSET or entry.cost.size_bytes is UNSET:
        return
    estimated = weights_bytes(msgspec.structs.replace(entry, cost=UNSET))
    assert estimated == pytest.approx(entry.cost.size_bytes, rel=0.25)


def test_memory_is_that_of_weights_caches_and_process() -> None:
    small = Cost(size_bytes=GIB, kv_bytes_per_token=1000)
    assert memory_bytes(local(cost=small)) == GIB + CACHES_BYTES + PROCESS_BYTES
    large = Cost(size_bytes=GIB, kv_bytes_per_token=1024**2)
    short = SHORT_CONTEXT_TOKENS * 1024**2
    assert memory_bytes(local(cost=large)) == GIB + 8 * GIB + short + PROCESS_BYTES
    trained = local(cost=large, context_length=2048)
    assert memory_bytes(trained) == 3 * GIB + short + PROCESS_BYTES
    asked = LocalSource(path="/b.gguf", context_length=4096)
    assert memory_bytes(local(cost=large, source=asked)) == 5 * GIB + short + PROCESS_BYTES
    mlx = MlxSource(path="/b")
    assert memory_bytes(local(cost=large, source=mlx)) == GIB + 8 * GIB + PROCESS_BYTES
    embeds = local(cost=Cost(size_bytes=GIB), capabilities=["embed"])
    assert memory_bytes(embeds) == GIB + PROCESS_BYTES
    assert memory_bytes(local(cost=Cost(size_bytes=GIB, ram_bytes=5))) == 5
    assert memory_bytes(local()) is None


def test_a_loaded_model_comes_to_its_weights_and_one_conversation() -> None:
    large = Cost(size_bytes=GIB, kv_bytes_per_token=1024**2)
    short = SHORT_CONTEXT_TOKENS * 1024**2
    assert lasting_bytes(local(cost=large)) == GIB + 8 * GIB + short
    assert lasting_bytes(local(cost=Cost(size_bytes=GIB))) == GIB
    assert lasting_bytes(local(cost=Cost(size_bytes=GIB, ram_bytes=5))) == 5
    assert lasting_bytes(local()) == 0


def test_a_model_fits_when_the_machine_keeps_a_quarter_for_the_rest() -> None:
    needs_three = local(cost=Cost(ram_bytes=3 * GIB))
    judged = with_fit(needs_three, machine(4))
    assert judged.fit == Fit(fits=True, memory_bytes=3 * GIB)
    assert fits(judged)
    assert not fits(with_fit(needs_three, machine(3.9)))
    assert not fits(with_fit(needs_three, machine(4, "metal"))), "it shares its memory"
    assert fits(with_fit(needs_three, machine(4.6, "metal")))


def test_whether_a_model_fits_follows_what_is_known_of_it_and_of_the_machine() -> None:
    fits = Fitting()
    large = local(cost=Cost(size_bytes=12 * 1024**3))
    assert fits(large), "nothing is known yet"
    fits.machine = machine(16)
    assert not fits(large)
    assert fits(local(cost=Cost(size_bytes=1024**3)))
    fits.machine = machine(64)
    assert fits(large)
    assert fits(local())


def test_nothing_is_said_where_nothing_is_known() -> None:
    unknown = with_fit(local(), machine(4))
    assert unknown.fit is UNSET
    assert not fits(unknown)
    assert with_fit(local(cost=Cost(ram_bytes=1)), Machine()).fit is UNSET
    elsewhere = with_fit(local(source=DelegatedSource()), machine(4))
    assert elsewhere.fit is UNSET
    assert fits(elsewhere)


@pytest.mark.parametrize(
    ("given", "model_id"),
    [
        (machine(2), None),
        (machine(4), "qwen/qwen3-0.6b:q8_0"),
        (machine(8), "qwen/qwen3-1.7b:q8_0"),
        (machine(16), "qwen/qwen3-4b-instruct-2507:q4_k_m"),
        (machine(16, "cuda"), "qwen/qwen3-8b:q4_k_m"),
        (machine(16, "metal"), "qwen/qwen3-8b:mlx-4bit"),
        (machine(32), "openai/gpt-oss-20b:mxfp4"),
        (machine(64, "metal"), "qwen/qwen3-30b-a3b-instruct-2507:mlx-4bit"),
        (Machine(), None),
    ],
    ids=str,
)
def test_each_machine_has_its_model(given: Machine, model_id: str | None) -> None:
    found = recommended(curated().models, given)
    assert (found.id if found else None) == model_id


@pytest.mark.parametrize("engines", [["mlx"], ["local"], ["local", "mlx"], []], ids=str)
def test_a_model_is_recommended_that_an_installed_engine_runs(engines: list[str]) -> None:
    plain = recommended(curated().models, machine(16, "cuda"), engines)
    apples = recommended(curated().models, machine(16, "metal"), engines)
    assert plain is not None
    assert apples is not None
    form = {"local": "q4_k_m", "mlx": "mlx-4bit"}
    assert plain.id == f"qwen/qwen3-8b:{form['mlx' if engines == ['mlx'] else 'local']}"
    assert apples.id == f"qwen/qwen3-8b:{form['local' if engines == ['local'] else 'mlx']}"


def test_a_tight_machine_gets_the_smallest_model_that_fits() -> None:
    models = [
        local(f"a/{gib}:1", cost=Cost(ram_bytes=gib * GIB), tags=["default"]) for gib in (3, 5, 7)
    ]
    found = recommended(models, machine(4))
    assert found is not None
    assert found.id == "a/3:1"
