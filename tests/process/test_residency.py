"""Models that come into memory and leave it, as a client sees it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from car_rpc.client import CarClient, RemoteError

pytestmark = pytest.mark.process

CHAT = "demo/tiny-chat:gguf"
EMBED = "demo/tiny-embed:gguf"


def started(tmp_path: Path, *configuration: str) -> Any:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    (state / "config.toml").write_text("\n".join(configuration))
    return CarClient.start(arguments=["--state-dir", str(state)])


def workers_of(car: CarClient) -> set[int]:
    return {child.pid for child in psutil.Process(car.pid).children(recursive=True)}


async def loaded(car: CarClient) -> list[str]:
    return [model.model_id for model in (await car.admission_status()).loaded]


@pytest.mark.llama
async def test_a_model_is_loaded_before_it_is_needed_and_unloading_ends_its_process(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as car:
        assert (await car.load_model(CHAT)).load_ms > 0
        status = await car.admission_status()
        (model,) = status.loaded
        assert (model.model_id, model.requests) == (CHAT, 0)
        assert model.memory_bytes > 10 * 2**20
        assert (status.memory_budget_bytes or 0) > model.memory_bytes
        (pid,) = workers_of(car)
        await car.generate(prompt="Hello!", model=CHAT, params={"max_tokens": 2})
        assert workers_of(car) == {pid}, "it is the one that was loaded"
        unloaded = await car.unload_model(CHAT)
        assert unloaded.was_loaded
        assert unloaded.freed_bytes > 10 * 2**20
        assert not psutil.pid_exists(pid)
        assert await loaded(car) == []
        assert not (await car.unload_model(CHAT)).was_loaded


@pytest.mark.llama
async def test_warming_up_has_one_result_for_each_model_whatever_happens(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        await car.register_model(
            {
                "id": "a/gone:1",
                "source": {"type": "local", "path": "/gone"},
                "capabilities": ["embed"],
            }
        )
        await car.register_model(
            {"id": "a/app:1", "source": {"type": "delegated"}, "capabilities": ["generate"]}
        )
        wanted = [EMBED, "nobody/knows:it", "a/gone:1", "a/app:1", EMBED]
        results = await car.warm_up(wanted)
        assert [result.model for result in results] == wanted
        assert [result.loaded for result in results] == [True, False, False, True, True]
        assert results[1].message == "warm_up: unknown schema id nobody/knows:it"
        assert results[2].kind == "io_error"
        assert await loaded(car) == [EMBED]


@pytest.mark.llama
async def test_a_rule_about_a_model_binds_loading_and_warming_up_too(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        rule = {"id": "no", "action": "deny", "match": {"models": [EMBED]}}
        await car.call("policy.set", {"rules": [rule]})
        with pytest.raises(RemoteError) as caught:
            await car.load_model(EMBED)
        assert caught.value.kind == "policy_denied"
        allowed, refused = await car.warm_up([CHAT, EMBED])
        assert allowed.loaded
        assert (refused.loaded, refused.kind) == (False, "policy_denied")
        assert await loaded(car) == [CHAT]


@pytest.mark.llama
async def test_within_a_small_budget_a_model_makes_room_for_the_next(tmp_path: Path) -> None:
    async with started(tmp_path, "[models]", "memory_bytes = 1000") as car:
        await car.load_model(CHAT)
        await car.load_model(EMBED)
        assert await loaded(car) == [EMBED]
        answers = await asyncio.gather(
            car.generate(prompt="Hello!", model=CHAT, params={"max_tokens": 2}),
            car.embed(["a"], model=EMBED),
            car.generate(prompt="Hello!", model=CHAT, params={"max_tokens": 2}),
        )
        assert len(answers) == 3


@pytest.mark.llama
async def test_a_request_may_take_its_model_out_of_memory_when_it_ends(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        await car.generate(prompt="Hello!", model=CHAT, params={"max_tokens": 2}, keep_alive_ms=0)
        async with asyncio.timeout(30):
            while workers_of(car):
                await loaded(car)
        assert await loaded(car) == []


async def test_a_script_that_always_crashes_is_left_alone_at_last(tmp_path: Path) -> None:
    async with started(tmp_path, "[models]", "max_crashes = 2", "crash_backoff_ms = 1") as car:
        await car.register_model(
            {
                "id": "a/crash:1",
                "source": {"type": "fake", "script": [{"crash": True}]},
                "capabilities": ["generate"],
            }
        )
        errors: list[RemoteError] = []
        for _ in range(3):
            with pytest.raises(RemoteError) as caught:
                await car.generate(prompt="x", model="a/crash:1", recovery="none")
            errors.append(caught.value)
        assert {error.kind for error in errors} == {"worker_crashed"}
        assert "quarantined" not in errors[1].data
        assert errors[2].data["quarantined"] is True
        assert errors[2].data["retry_after_ms"] > 0
