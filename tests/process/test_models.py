"""The registry of a real process: its catalog, this machine, and files that come and go."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from car_rpc.client import CarClient, RemoteError
from tests.process.conftest import ROOT

pytestmark = pytest.mark.process

GGUF = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"
REPO = "models--Qwen--Qwen3-0.6B-GGUF"
SMALLEST = "qwen/qwen3-0.6b:q8_0"


def started(tmp_path: Path) -> Any:
    return CarClient.start(
        arguments=["--state-dir", str(tmp_path / "state"), "--models-dir", str(tmp_path / "models")]
    )


async def test_the_catalog_is_known_and_nothing_of_it_claims_to_be_here(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        known = [model for model in await car.models() if model.downloads_weights]
        assert len(known) > 50
        assert not any(model.available or model.weights_ready for model in known)
        assert {model.trust_tier for model in known} == {"curated"}
        with pytest.raises(RemoteError) as caught:
            await car.generate(prompt="x", model="Qwen3-0.6B")
        assert caught.value.kind == "model_load_failed"
        assert "Qwen/Qwen3-0.6B-GGUF" in str(caught.value)
        source = {"type": "fake", "script": [{"echo": True}]}
        model = {"id": "zz/echo:1", "source": source, "capabilities": ["generate"]}
        await car.register_model(model)
        assert (await car.generate(prompt="Hi")).model_used == "zz/echo:1"


async def test_a_search_is_judged_by_this_machine(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        result = await car.search_models(query="qwen3", capability="generate", limit=5)
        assert len(result.models) == 5
        assert result.machine.memory_total_bytes > 0
        assert result.machine.cores_usable > 0
        for model in result.models:
            assert model.fit.memory_bytes > 0
        fitting = await car.search_models(fits=True, source="local", limit=1000)
        assert all(model.fit.fits for model in fitting.models)
        elsewhere = await car.search_models(query="openrouter")
        assert [template.name for template in elsewhere.templates] == ["openrouter"]
        with pytest.raises(RemoteError) as caught:
            await car.search_models(source="telepathy")
        assert caught.value.kind == "invalid_params"
        assert await car.model_upgrades() == []


@pytest.mark.llama
async def test_a_download_of_the_hubs_own_client_is_found_while_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    async with started(tmp_path) as car:
        assert not (await car.model(SMALLEST)).weights_ready
        snapshot = tmp_path / "hub" / REPO / "snapshots" / "aaaa"
        snapshot.mkdir(parents=True)
        (snapshot / "Qwen3-0.6B-Q8_0.gguf").symlink_to(GGUF)
        model = await car.model("QWEN3-0.6b")
        assert (model.weights_ready, model.available) == (True, True)
        assert (await car.search_models(query="qwen3")).models[0].id == SMALLEST
        result = await car.generate(prompt="Hi", params={"max_tokens": 1})
        assert result.model_used == SMALLEST, "real models go before toys"


async def test_a_file_that_is_not_there_is_named_by_whoever_tells_of_its_model(
    tmp_path: Path,
) -> None:
    gone = tmp_path / "models" / "gone.gguf"
    source = {"type": "local", "path": "gone.gguf"}
    (tmp_path / "models").mkdir()
    async with started(tmp_path) as car:
        kept = await car.register_model(
            {"id": "me/gone:1", "source": source, "capabilities": ["generate"]}
        )
        assert kept.model.reason == f"{gone} is not there"
        health = await car.model_health()
        assert [each.reason for each in health.models if each.model_id == "me/gone:1"] == [
            kept.model.reason
        ]
        gone.symlink_to(GGUF)
        assert (await car.model("me/gone:1")).reason is UNSET


async def test_a_registered_file_tells_of_itself(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        model = {
            "id": "me/mine:1",
            "source": {"type": "local", "path": str(GGUF)},
            "capabilities": ["generate"],
            "family": "own",
        }
        kept = (await car.register_model(model)).model
        assert (kept.family, kept.context_length, kept.quantization) == ("own", 1024, "F16")
        assert kept.cost.size_bytes == GGUF.stat().st_size
        assert kept.weights_ready
        assert not kept.downloads_weights
    async with started(tmp_path) as car:
        assert await car.model("mine") == kept
