"""Weights that come from a hub, an address or a folder, over lines that break, and go again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from car_rpc.client import CarClient, ProcessEnded, RemoteError
from car_rpc.wire.lifecycle import ProgressValue
from tests.process.conftest import ROOT
from tests.servers.hub import Hub, hub
from tests.workers.conftest import write_model

pytestmark = pytest.mark.process

DEMO = ROOT / "car_rpc" / "data" / "demo"
GGUF = (DEMO / "tiny-chat-Q8_0.gguf").read_bytes()
FILE = {"type": "local", "hf_repo": "acme/Small-GGUF", "hf_filename": "small-Q8.gguf"}
FOLDER = {"type": "mlx", "hf_repo": "acme/Small-4bit"}


@pytest.fixture
async def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Hub]:
    async with hub() as served:
        served.files["acme/Small-GGUF"] = {"small-Q8.gguf": GGUF, "README.md": b"# small"}
        served.files["acme/Small-4bit"] = {
            str(path.relative_to(DEMO / "mlx")): path.read_bytes()
            for path in (DEMO / "mlx").rglob("*")
            if path.is_file()
        }
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield served


def started(tmp_path: Path) -> Any:
    return CarClient.start(
        arguments=["--state-dir", str(tmp_path / "state"), "--models-dir", str(tmp_path / "models")]
    )


async def register(car: CarClient, source: dict[str, Any], model_id: str = "acme/small:q8") -> None:
    await car.register_model({"id": model_id, "source": source, "capabilities": ["generate"]})


def left_over(tmp_path: Path) -> list[Path]:
    return list(tmp_path.rglob("*.incomplete"))


@pytest.mark.llama
async def test_a_pulled_model_answers_at_once(tmp_path: Path, remote: Hub) -> None:
    async with started(tmp_path) as car:
        await register(car, FILE)
        with pytest.raises(RemoteError) as caught:
            await car.generate(prompt="Hello!", model="acme/small:q8")
        assert "car-rpc models pull acme/small:q8" in str(caught.value)
        result = await car.pull_model("small")
        assert result.downloaded_bytes == result.size_bytes == len(GGUF)
        assert result.model.available is True
        answer = await car.generate(
            prompt="Hello!", model="acme/small:q8", params={"max_tokens": 24}
        )
        assert answer.text
        again = await car.pull_model("acme/small:q8")
        assert again.downloaded_bytes == 0
    repo = tmp_path / "hf" / "hub" / "models--acme--Small-GGUF"
    assert (repo / "blobs" / hashlib.sha256(GGUF).hexdigest()).read_bytes() == GGUF
    assert next(repo.glob("snapshots/*/small-Q8.gguf")).is_symlink()
    assert (repo / "refs" / "main").is_file()
    assert len(remote.downloads()) == 1
    assert not left_over(tmp_path)


async def test_a_line_that_breaks_is_taken_up_where_it_broke(tmp_path: Path, remote: Hub) -> None:
    remote.files["acme/Small-GGUF"]["small-Q8.gguf"] = big = os.urandom(4 * 1024 * 1024)
    remote.cut_after = [1_500_000, 1_200_000]
    async with started(tmp_path) as car:
        await register(car, FILE)
        result = await car.pull_model("acme/small:q8")
    assert result.downloaded_bytes == len(big)
    begun = remote.downloads()
    assert begun[0] == 0
    assert len(begun) == 3
    assert begun == sorted(set(begun)), "nothing that was here is asked for again"


async def test_a_cancelled_pull_goes_on_in_the_next_process(tmp_path: Path, remote: Hub) -> None:
    remote.files["acme/Small-GGUF"]["small-Q8.gguf"] = big = os.urandom(4 * 1024 * 1024)
    remote.stall_after = 3 * 1024 * 1024
    async with started(tmp_path) as car:
        await register(car, FILE)
        pull = asyncio.create_task(car.pull_model("acme/small:q8"))
        async with asyncio.timeout(30):
            while not any(  # noqa: ASYNC110 - of another process
                part.stat().st_size for part in left_over(tmp_path)
            ):
                await asyncio.sleep(0.01)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        assert not (await car.model("acme/small:q8")).available
    (part,) = left_over(tmp_path)
    assert part.stat().st_size > 0
    begun = part.stat().st_size
    remote.stall_after = None
    async with started(tmp_path) as car:
        result = await car.pull_model("acme/small:q8")
    assert result.size_bytes == len(big)
    assert result.downloaded_bytes == len(big) - begun
    assert remote.downloads()[-1] == begun
    assert not left_over(tmp_path)


async def test_whatever_breaks_wherever_all_of_it_comes_and_hardly_anything_twice(
    tmp_path: Path, remote: Hub, proof_count: Callable[[int, int], int]
) -> None:
    rng = random.Random(20261128)
    remote.files["acme/Small-GGUF"]["small-Q8.gguf"] = big = rng.randbytes(8 * 1024 * 1024)
    async with started(tmp_path) as car:
        await register(car, FILE)
    breaks = proof_count(2, 30)
    for number in range(breaks):
        # The line breaks at any byte, then goes quiet at another; then somebody gives up.
        asked, known = len(remote.downloads()), kept_bytes(tmp_path)
        most = max(1, (len(big) - known) // 4)
        remote.cut_after = [rng.randrange(most)]
        remote.stall_after = rng.randrange(most)
        with contextlib.suppress(ProcessEnded):
            async with started(tmp_path) as car:
                pull = asyncio.create_task(car.pull_model("acme/small:q8"))
                async with asyncio.timeout(30):
                    while len(remote.downloads()) < asked + 2:  # noqa: ASYNC110 - of another process
                        await asyncio.sleep(0.01)
                if number % 2:
                    pull.cancel()
                else:
                    os.kill(car.pid, signal.SIGKILL)
                await asyncio.wait([pull])
                if not pull.cancelled():
                    pull.exception()  # it was looked at
        assert kept_bytes(tmp_path) >= known, "what had come stays"
    remote.cut_after, remote.stall_after = [], None
    known = kept_bytes(tmp_path)
    async with started(tmp_path) as car:
        result = await car.pull_model("acme/small:q8")
    assert result.downloaded_bytes == len(big) - known
    blobs = tmp_path / "hf" / "hub" / "models--acme--Small-GGUF" / "blobs"
    assert (blobs / hashlib.sha256(big).hexdigest()).read_bytes() == big
    begun = remote.downloads()
    assert begun == sorted(begun), "no try begins before what the one before it had kept"
    assert begun[-1] == known


def kept_bytes(tmp_path: Path) -> int:
    return sum(part.stat().st_size for part in left_over(tmp_path))


async def test_whoever_pulls_right_behind_a_cancel_is_not_cancelled(
    tmp_path: Path, remote: Hub
) -> None:
    remote.stall_after = 0
    async with started(tmp_path) as car:
        await register(car, FILE)
        pull = asyncio.create_task(car.pull_model("acme/small:q8"))
        async with asyncio.timeout(30):
            while not remote.downloads():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)
        remote.stall_after = None
        pull.cancel()
        again = asyncio.create_task(car.pull_model("acme/small:q8"))
        assert (await again).size_bytes == len(GGUF)


async def test_two_who_ask_at_once_get_one_download(tmp_path: Path, remote: Hub) -> None:
    async with started(tmp_path) as car, started(tmp_path) as other:
        await register(car, FILE)
        results = await asyncio.gather(
            *(each.pull_model("acme/small:q8") for each in (car, car, other))
        )
    assert {result.size_bytes for result in results} <= {len(GGUF), 0}
    assert len(remote.downloads()) == 1


async def test_progress_says_how_much_has_come(tmp_path: Path, remote: Hub) -> None:
    async with started(tmp_path) as car:
        await register(car, FILE)
        seen: list[ProgressValue] = []
        await car.pull_model("acme/small:q8", on_progress=seen.append)
    assert [seen[0].kind, seen[-1].kind] == ["begin", "end"]
    last = seen[-2]
    assert last.done_bytes == last.total_bytes == len(GGUF)
    assert last.percent == 100
    amounts = [int(value.done_bytes or 0) for value in seen[1:-1]]
    assert amounts == sorted(amounts)


async def test_what_came_wrong_is_not_kept(tmp_path: Path, remote: Hub) -> None:
    remote.corrupt = True
    async with started(tmp_path) as car:
        await register(car, FILE)
        with pytest.raises(RemoteError) as caught:
            await car.pull_model("acme/small:q8")
        assert caught.value.kind == "download_failed"
        assert "checksum" in str(caught.value)
        assert not left_over(tmp_path)
        remote.corrupt = False
        assert (await car.pull_model("acme/small:q8")).downloaded_bytes


async def test_a_download_that_would_fill_the_disk_does_not_begin(
    tmp_path: Path, remote: Hub
) -> None:
    remote.claimed_sizes["small-Q8.gguf"] = 10**15
    async with started(tmp_path) as car:
        await register(car, FILE)
        with pytest.raises(RemoteError) as caught:
            await car.pull_model("acme/small:q8")
    assert caught.value.kind == "io_error"
    assert caught.value.data["needed_bytes"] == 10**15
    assert not remote.downloads()


@pytest.mark.parametrize(
    ("break_it", "kind", "says"),
    [
        (lambda served: served.files.clear(), "not_found", "no such repository"),
        (
            lambda served: served.files["acme/Small-GGUF"].pop("small-Q8.gguf"),
            "not_found",
            "it has README.md",
        ),
        (lambda served: setattr(served, "gated", True), "unauthorized", "HF_TOKEN"),
    ],
)
async def test_what_cannot_be_had_is_said(
    break_it: Any, kind: str, says: str, tmp_path: Path, remote: Hub
) -> None:
    break_it(remote)
    async with started(tmp_path) as car:
        await register(car, FILE)
        with pytest.raises(RemoteError) as caught:
            await car.pull_model("acme/small:q8")
        assert caught.value.kind == kind
        assert says in str(caught.value)
        assert (await car.call("ping", {})) is not None


async def test_offline_nothing_is_asked_and_a_file_can_be_imported(
    tmp_path: Path, remote: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mine = tmp_path / "stick" / "model.bin"
    mine.parent.mkdir()
    mine.write_bytes(GGUF)
    async with started(tmp_path) as car:
        await register(car, FILE)
        with pytest.raises(RemoteError) as caught:
            await car.pull_model("acme/small:q8")
        assert caught.value.kind == "download_failed"
        assert "from_path" in str(caught.value)
        result = await car.pull_model("acme/small:q8", from_path=str(mine))
        assert result.model.available is True
        with pytest.raises(RemoteError) as missing:
            await car.pull_model("acme/small:q8", from_path="/nowhere")
        assert missing.value.kind == "not_found"
        await register(car, FILE, "acme/folder:q8")
        with pytest.raises(RemoteError) as folder:
            await car.pull_model("acme/folder:q8", from_path=str(mine.parent))
        assert folder.value.kind == "conflict"
    assert (tmp_path / "models" / "small" / "small-Q8.gguf").read_bytes() == GGUF
    assert mine.exists()
    assert not remote.asked


async def test_a_file_comes_from_any_address(tmp_path: Path, remote: Hub) -> None:
    url = f"{remote.url}/cdn/acme/Small-GGUF/resolve/main/small-Q8.gguf"
    digest = hashlib.sha256(GGUF).hexdigest()
    remote.cut_after = [100_000]
    async with started(tmp_path) as car:
        await register(car, {"type": "local", "url": url, "sha256": digest})
        result = await car.pull_model("acme/small:q8")
        assert result.model.available is True
        await register(car, {"type": "local", "url": url, "sha256": "0" * 64}, "acme/other:q8")
        with pytest.raises(RemoteError) as caught:
            await car.pull_model("acme/other:q8")
        assert caught.value.kind == "download_failed"
    assert (tmp_path / "models" / "small" / "small-Q8.gguf").read_bytes() == GGUF
    assert not (tmp_path / "models" / "other" / "small-Q8.gguf").exists()
    assert not any(asked.authorization for asked in remote.asked)


SPLIT = {
    "type": "local", "hf_repo": "acme/Split-GGUF", "hf_filename": "F32/split-00001-of-00003.gguf",
}  # fmt: skip


def write_parts(folder: Path) -> list[Path]:
    folder.mkdir()
    first = write_model(folder / "split.gguf", tensors_of_a_part=11)
    parts = sorted(folder.glob("split-*-of-00003.gguf"))
    assert parts[0] == first
    return parts


@pytest.mark.llama
async def test_a_split_model_comes_loads_counts_and_goes_whole(tmp_path: Path, remote: Hub) -> None:
    pytest.importorskip("llama_cpp")
    parts = write_parts(tmp_path / "made")
    size = sum(part.stat().st_size for part in parts)
    remote.files["acme/Split-GGUF"] = {f"F32/{part.name}": part.read_bytes() for part in parts}
    async with started(tmp_path) as car:
        await register(car, SPLIT)
        pulled = await car.pull_model("acme/small:q8")
        assert pulled.downloaded_bytes == pulled.size_bytes == size
        answer = await car.generate(
            prompt="Hello!", model="acme/small:q8", params={"max_tokens": 4, "ignore_eos": True}
        )
        assert answer.usage.completion_tokens == 4
        (loaded,) = (await car.admission_status()).loaded
        assert loaded.memory_bytes >= size
        await car.register_model(
            {"id": "acme/again:1", "source": SPLIT, "capabilities": ["generate"]}
        )
        told = await car.model("acme/again:1")
        assert told.cost.size_bytes == size
        removed = await car.remove_model("acme/small:q8")
        assert removed.freed_bytes >= size
        assert removed.also_used_by == ["acme/again:1"]
        assert not list((tmp_path / "hf" / "hub").glob("models--*"))


async def test_a_split_model_comes_from_an_address_or_a_folder_with_all_its_parts(
    tmp_path: Path, remote: Hub
) -> None:
    parts = write_parts(tmp_path / "made")
    remote.files["acme/Split-GGUF"] = {part.name: part.read_bytes() for part in parts}
    remote.cut_after = [parts[0].stat().st_size, 1000]
    url = f"{remote.url}/cdn/acme/Split-GGUF/resolve/main/{parts[0].name}"
    async with started(tmp_path) as car:
        await register(car, {"type": "local", "url": url}, "acme/there:1")
        assert (await car.pull_model("acme/there:1")).model.available is True
        await register(car, SPLIT, "acme/here:1")
        with pytest.raises(RemoteError) as caught:
            await car.pull_model("acme/here:1", from_path=str(parts[1]))
        assert "name the first part" in str(caught.value)
        result = await car.pull_model("acme/here:1", from_path=str(parts[0]))
        assert result.model.available is True
    for folder in ("there", "here/F32"):
        for part in parts:
            assert (tmp_path / "models" / folder / part.name).read_bytes() == part.read_bytes()
    assert not left_over(tmp_path)


async def test_another_model_s_file_is_not_imported(tmp_path: Path, remote: Hub) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(GGUF)
    digest = {"sha256": "0" * 64, "url": f"{remote.url}/small.gguf"}
    async with started(tmp_path) as car:
        with pytest.raises(RemoteError) as caught:
            await car.pull_model("qwen/qwen3-8b:q4_k_m", from_path=str(mine))
        assert (caught.value.kind, caught.value.data["path"]) == ("conflict", str(mine))
        assert caught.value.data["expected"]["quantization"] == "Q4_K_M"
        assert "qwen/qwen3-8b:q4_k_m" in str(caught.value)
        await register(car, {"type": "local", **digest})
        with pytest.raises(RemoteError) as summed:
            await car.pull_model("acme/small:q8", from_path=str(mine))
        assert summed.value.kind == "conflict"
        assert summed.value.data["found"] == hashlib.sha256(GGUF).hexdigest()
    assert mine.read_bytes() == GGUF
    assert not [path for path in (tmp_path / "models").rglob("*") if path.suffix == ".gguf"]
    assert not left_over(tmp_path)


async def test_removing_frees_what_it_says_and_nothing_else(tmp_path: Path, remote: Hub) -> None:
    async with started(tmp_path) as car:
        await register(car, FILE)
        await register(car, FOLDER, "acme/small:4bit")
        await car.pull_model("acme/small:q8")
        folder = await car.pull_model("acme/small:4bit")
        assert folder.model.weights_ready is True
        removed = await car.remove_model("acme/small:q8")
        assert removed.freed_bytes >= len(GGUF)
        assert removed.also_used_by == []
        assert not (tmp_path / "hf" / "hub" / "models--acme--Small-GGUF").exists()
        models = {
            model.id: model for model in await car.models() if model.id.startswith("acme/small")
        }
        assert not models["acme/small:q8"].weights_ready
        assert models["acme/small:4bit"].weights_ready
        again = await car.remove_model("acme/small:q8")
        assert (again.freed_bytes, again.removed) == (0, [])
        await car.remove_model("acme/small:4bit")
        own = tmp_path / "mine.gguf"
        own.write_bytes(GGUF)
        await register(car, {"type": "local", "path": str(own)}, "acme/mine:1")
        with pytest.raises(RemoteError) as caught:
            await car.remove_model("acme/mine:1")
        assert caught.value.kind == "conflict"
        assert own.exists()
    assert not list((tmp_path / "hf" / "hub").glob("models--*"))
