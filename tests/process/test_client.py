"""The Python client against the real process."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from car_rpc.client import CarClient, ProcessEnded, RemoteError
from car_rpc.wire.events import Attempt, Done, ErrorEvent, TextDelta
from car_rpc.wire.lifecycle import LogParams
from tests.process.conftest import IN_WORKER, ROOT, WAIT_S, assert_gone, event

pytestmark = pytest.mark.process


@asynccontextmanager
async def started(state_dir: Path, *arguments: str, **options: Any) -> AsyncIterator[CarClient]:
    """A client within the time that any test may take."""
    with anyio.fail_after(WAIT_S):
        arguments = ("--state-dir", str(state_dir), *arguments)
        async with CarClient.start(arguments=arguments, **options) as car:
            yield car


async def fake(car: CarClient, model_id: str, *script: object) -> str:
    source = {"type": "fake", "script": list(script)}
    await car.register_model({"id": model_id, "source": source, "capabilities": ["generate"]})
    return model_id


async def test_a_stream_gives_its_events_and_its_result(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        model = await fake(car, "t/echo:1", {"echo": True})
        async with car.stream(model=model, prompt="one two three") as stream:
            events = [each async for each in stream]
            result = await stream.result()
        assert isinstance(events[0], Attempt)
        assert isinstance(events[-1], Done)
        text = "".join(each.text for each in events if isinstance(each, TextDelta))
        assert text == result.text == "one two three"
        assert (await car.generate(model=model, prompt="again")).text == "again"
        assert [m.id for m in await car.models() if m.provider == "t"] == [model]
        assert (await car.query_log(types=["completion"])).events
        assert await car.unregister_model(model) == model


async def test_a_request_is_shown_again_and_runs_again(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        model = await fake(car, "t/echo:1", {"echo": True})
        async with car.stream(model=model, prompt="one two three") as stream:
            events = [each async for each in stream]
            result = await stream.result()
        async with car.stream_replay(result.trace_id, "recorded") as again:
            assert [each async for each in again] == events
            shown = await again.result()
        assert shown.result["text"] == result.text
        assert (await car.replay(result.trace_id, "rerun")).diff == []
        assert (await car.replay(result.trace_id, "verify")).diverged is None


async def test_how_a_model_did_and_what_it_cost_is_kept(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        usage = {"type": "usage", "prompt_tokens": 5, "completion_tokens": 10}
        await car.register_model(
            {
                "id": "t/priced:1",
                "source": {"type": "fake", "script": [{"emit": usage}]},
                "capabilities": ["generate"],
                "cost": {"input_per_mtok_usd": 1, "output_per_mtok_usd": 10},
            }
        )
        result = await car.generate(model="priced", prompt="x")
        assert result.cost_usd == 0.000105
        assert (await car.report_outcome(result.trace_id, outcome="accepted")).recorded
        pending = {"trace_id": result.trace_id, "success": True}
        resolved = await car.resolve_pending([pending])
        assert (resolved.recorded, resolved.resolved) == (1, 0)
        (row,) = await car.scoreboard(task="generate")
        assert (row.accepted_count, row.usd_per_success) == (1, result.cost_usd)
        (stats,) = await car.model_stats("priced")
        assert stats.success_rate == 1
        assert await car.import_profiles(await car.export_profiles()) == 1
        await car.set_spend_limits(max_usd_total=0.0002)
        assert (await car.spend_status()).total.used_usd == result.cost_usd
        with pytest.raises(RemoteError, match="spend limit exceeded"):
            await car.generate(model="priced", prompt="x")
        assert (await car.admission_status()).queued == 0


async def test_leaving_a_stream_early_cancels_it(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        model = await fake(car, "t/flood:1", {**event("x"), "repeat": 10**9})
        async with car.stream(model=model, prompt="") as stream:
            async for each in stream:
                if isinstance(each, TextDelta):
                    break
        with pytest.raises(RemoteError) as caught:
            await stream.result()
        assert caught.value.kind == "cancelled"
        assert caught.value.data["partial"]["text"].startswith("x")
        await car.call("ping")


async def test_cancelling_a_call_cancels_its_request(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        model = await fake(car, "t/stall:1", {"stall": True})
        with anyio.move_on_after(0.05) as scope:
            await car.generate(model=model, prompt="")
        assert scope.cancelled_caught
        (completion,) = [
            each
            for each in (await car.query_log(types=["completion"])).events
            if each.data["outcome"] == "failed"
        ]
        assert completion.data["error"]["data"]["kind"] == "cancelled"
        assert (await car.call("ping"))["in_flight"] == 1


async def test_a_failed_stream_ends_with_the_error_of_its_result(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        failure = {"kind": "rate_limited", "message": "slow down", "retry_after_ms": 70}
        model = await fake(car, "t/fail:1", event("a"), {"fail": failure})
        async with car.stream(model=model, prompt="", recovery="none") as stream:
            events = [each async for each in stream]
            with pytest.raises(RemoteError) as caught:
                await stream.result()
        assert isinstance(events[-1], ErrorEvent)
        assert events[-1].kind == caught.value.kind == "rate_limited"
        assert caught.value.data["retry_after_ms"] == 70
        with pytest.raises(RemoteError, match="no such") as caught:
            await car.generate(model="no such", prompt="")
        assert caught.value.kind == "model_not_found"


async def test_many_calls_at_once_get_their_own_answers(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        model = await fake(car, "t/echo:1", {"echo": True})
        texts: dict[int, str] = {}

        async def ask(index: int) -> None:
            texts[index] = (await car.generate(model=model, prompt=f"text {index}")).text

        async with anyio.create_task_group() as tasks:
            for index in range(200):
                tasks.start_soon(ask, index)
        assert texts == {index: f"text {index}" for index in range(200)}


async def test_the_death_of_the_process_reaches_every_call(tmp_path: Path) -> None:
    async with started(tmp_path) as car:
        model = await fake(car, "t/stall:1", event("a"), {"stall": True})
        async with car.stream(model=model, prompt="") as stream:
            async for each in stream:
                if isinstance(each, TextDelta):
                    os.kill(car.pid, signal.SIGKILL)
            with pytest.raises(ProcessEnded) as caught:
                await stream.result()
        assert caught.value.exit_code == -signal.SIGKILL
        with pytest.raises(ProcessEnded):
            await car.generate(model=model, prompt="")


async def test_leaving_the_client_leaves_no_process(tmp_path: Path) -> None:
    processes: list[psutil.Process] = []

    async def use() -> None:
        async with started(tmp_path, "--drain-ms", "0") as car:
            model = await fake(car, "t/stall:1", IN_WORKER, event("a"), {"stall": True})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: car.generate(model=model, prompt=""))
                async with car.stream(model=model, prompt="") as stream:
                    await anext(stream)
                    await anext(stream)
                    core = psutil.Process(car.pid)
                    processes.extend([core, *core.children(recursive=True)])
                    raise LookupError("the app's own")

    with pytest.RaisesGroup(LookupError):
        await use()
    assert len(processes) == 2
    assert_gone(processes)


async def test_an_exception_of_the_app_comes_out_as_it_was(tmp_path: Path) -> None:
    async def use() -> None:
        async with started(tmp_path) as car:
            processes.append(psutil.Process(car.pid))
            raise LookupError("mine")

    processes: list[psutil.Process] = []
    with pytest.raises(LookupError, match="mine"):
        await use()
    assert_gone(processes)


async def test_a_cancelled_app_asks_the_process_to_go_and_leaves_none(tmp_path: Path) -> None:
    processes: list[psutil.Process] = []
    async with anyio.create_task_group() as tasks, started(tmp_path) as car:
        model = await fake(car, "t/stall:1", {"stall": True})
        processes.append(psutil.Process(car.pid))
        async with car.stream(model=model, prompt="") as stream:
            await anext(stream)
            tasks.cancel_scope.cancel()
            await anyio.sleep_forever()
    assert_gone(processes)
    with contextlib.closing(sqlite3.connect(tmp_path / "car.db")) as db:
        (reason,) = db.execute(
            "SELECT data ->> 'reason' FROM events WHERE type = 'session_end'"
        ).fetchone()
    assert reason == "exit"  # not the end of its input, and not a kill


async def test_a_process_that_does_not_start_is_said(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import os; os.write(2, b'no luck today'); raise SystemExit(7)",
    ]
    with pytest.raises(ProcessEnded, match=r"\(exit code 7\):\nno luck today") as caught:
        async with started(tmp_path, command=command):
            pass
    assert caught.value.exit_code == 7
    with pytest.raises(ProcessEnded, match="its standard error says why"):
        async with started(tmp_path, command=command, stderr=subprocess.DEVNULL):
            pass


async def test_the_event_log_gives_back_what_was_nested_as_deep_as_the_core_accepts(
    tmp_path: Path,
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(120):
        deep = {"a": deep}
    async with started(tmp_path) as car:
        model = await fake(car, "t/echo:1", {"echo": True})
        await car.generate(model=model, prompt="x", unknown=deep)
        page = await car.query_log(types=["request"], order="desc", limit=1)
    assert page.events[0].data["params"]["unknown"] == deep


async def test_the_log_reaches_the_app(tmp_path: Path) -> None:
    lines: list[LogParams] = []
    async with started(tmp_path, on_log=lines.append) as car:
        model = await fake(car, "t/noisy:1", {"print": "native noise\n"}, event("x"))
        await car.generate(model=model, prompt="")
        while not any("native noise" in line.message for line in lines):
            await car.call("ping")


#: An app that dies while its core is at work; it prints the pids of the core and its worker.
DYING_APP = """
import os, signal, sys, anyio, psutil
from car_rpc.client import CarClient

async def main():
    async with CarClient.start(arguments=["--state-dir", sys.argv[1]]) as car:
        script = [{"print": "x"}, {"emit": {"type": "text_delta", "text": "a"}}, {"stall": True}]
        model = {"id": "t/s:1", "source": {"type": "fake", "script": script},
                 "capabilities": ["generate"]}
        await car.register_model(model)
        async with car.stream(model="t/s:1", prompt="") as stream:
            async for event in stream:
                if type(event).__name__ == "TextDelta":
                    core = psutil.Process(car.pid)
                    print(core.pid, core.children()[0].pid, flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main)
"""


def test_the_death_of_an_app_leaves_no_process(tmp_path: Path) -> None:
    app = subprocess.run(
        [sys.executable, "-c", DYING_APP, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        timeout=WAIT_S,
        check=False,
    )
    assert app.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in app.stdout.split()]
    assert len(pids) == 2
    left = []
    for pid in pids:
        try:
            left.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    assert_gone(left)
