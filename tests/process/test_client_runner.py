"""The Python client as the runner of delegated models, against the real process."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from car_rpc.client import CarClient, RemoteError, RunnerFailure, RunnerRun
from car_rpc.wire.events import Heartbeat, TextDelta
from car_rpc.wire.runner import RunnerResult
from tests.process.conftest import WAIT_S

pytestmark = pytest.mark.process


@asynccontextmanager
async def started(state_dir: Path, runner: Any) -> AsyncIterator[CarClient]:
    """A client with a runner and the model `t/app:1`, within the time that any test may take."""
    arguments = ("--state-dir", str(state_dir))
    with anyio.fail_after(WAIT_S):
        async with CarClient.start(arguments=arguments, runner=runner) as car:
            source = {"type": "delegated", "hint": "any"}
            model = {"id": "t/app:1", "source": source, "capabilities": ["generate"]}
            await car.register_model(model)
            yield car


async def test_the_app_runs_delegated_models(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    async def runner(run: RunnerRun) -> RunnerResult:
        seen.append(run.request)
        await run.notify(TextDelta(text="one "))
        assert await run.emit(TextDelta(text="two"))
        return RunnerResult(stop_reason="end_turn")

    async with started(tmp_path, runner) as car:
        async with car.stream(model="t/app:1", prompt="hi", unknown={"kept": 1}) as stream:
            texts = [each.text async for each in stream if isinstance(each, TextDelta)]
            assert (await stream.result()).text == "".join(texts) == "one two"
        assert seen[0]["unknown"] == {"kept": 1}
        assert "temperature" not in str(seen[0])
        await car.unregister_runner()
        with pytest.raises(RemoteError) as caught:
            await car.generate(model="t/app:1", prompt="")
        assert caught.value.kind == "no_runner"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (RunnerFailure("none for it", "runner_declined"), "runner_declined"),
        (RunnerFailure("slow", "rate_limited", retry_after_ms=5), "rate_limited"),
        (RunnerFailure("full", "overloaded", retryable=False), "overloaded"),
        (RunnerFailure("odd", "no such kind"), "runner_failed"),
    ],
)
async def test_a_failure_of_the_runner_keeps_its_kind(
    tmp_path: Path, failure: Exception, kind: str
) -> None:
    async def runner(run: RunnerRun) -> str:
        raise failure

    async with started(tmp_path, runner) as car:
        with pytest.raises(RemoteError) as caught:
            await car.generate(model="t/app:1", prompt="")
        assert caught.value.kind == kind
        assert caught.value.message.endswith(f": {failure}")


async def test_a_cancel_reaches_the_runner(tmp_path: Path) -> None:
    begun, stopped = anyio.Event(), anyio.Event()

    async def runner(run: RunnerRun) -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        raise AssertionError

    async with started(tmp_path, runner) as car:
        async with car.stream(model="t/app:1", prompt=""):
            await begun.wait()
        await stopped.wait()
        await car.call("ping")


async def test_a_runner_that_raises_fails_its_run_and_tells_only_its_own_program_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def runner(run: RunnerRun) -> str:
        await run.notify(TextDelta(text="so far"))
        raise ValueError("the key is sk-1234567890abcdef1234")

    with caplog.at_level(logging.ERROR):
        async with started(tmp_path, runner) as car:
            for _ in range(2):
                with pytest.raises(RemoteError) as caught:
                    await car.generate(model="t/app:1", prompt="", recovery="none")
                assert caught.value.message == "runner failed: ValueError"
    assert "the key is" in caplog.text


async def test_an_answer_that_is_no_json_fails_its_run_alone(tmp_path: Path) -> None:
    answers: list[Any] = [object(), 5, "fine"]

    async def runner(run: RunnerRun) -> Any:
        return answers.pop(0)

    async with started(tmp_path, runner) as car:
        for _ in range(2):
            with pytest.raises(RemoteError) as caught:
                await car.generate(model="t/app:1", prompt="", recovery="none")
            assert caught.value.kind == "runner_failed"
        assert (await car.generate(model="t/app:1", prompt="")).text == "fine"


async def test_events_that_are_awaited_arrive_in_order_however_many(tmp_path: Path) -> None:
    async def runner(run: RunnerRun) -> None:
        for index in range(1000):
            assert await run.emit(TextDelta(text=f"{index} "))
            if index % 100 == 0:
                await run.notify(Heartbeat())

    async with started(tmp_path, runner) as car:
        async with car.stream(model="t/app:1", prompt="") as stream:
            texts = [each.text async for each in stream if isinstance(each, TextDelta)]
        assert texts == [f"{index} " for index in range(1000)]


async def test_a_runner_that_does_not_let_itself_be_cancelled_is_told_to_stop(
    tmp_path: Path,
) -> None:
    begun, told = anyio.Event(), anyio.Event()

    async def runner(run: RunnerRun) -> str:
        with anyio.CancelScope(shield=True):
            while await run.emit(TextDelta(text="x")):
                begun.set()
            told.set()
        return "too late"

    async with started(tmp_path, runner) as car:
        async with car.stream(model="t/app:1", prompt="") as stream:
            await begun.wait()
        with pytest.raises(RemoteError) as caught:
            await stream.result()
        assert caught.value.kind == "cancelled"
        await told.wait()
        status = (await car.call("ping"))["runner"]
    assert status["runs"] == 0
    assert status["late_events"] >= 1


async def test_another_runner_takes_the_place_of_the_first_and_leaves_its_runs_alone(
    tmp_path: Path,
) -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    texts: list[str] = []

    async def first(run: RunnerRun) -> str:
        begun.set()
        await go_on.wait()
        return "first"

    async def second(run: RunnerRun) -> str:
        return "second"

    async with started(tmp_path, first) as car:

        async def ask() -> None:
            texts.append((await car.generate(model="t/app:1", prompt="")).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await begun.wait()
            await car.register_runner(second, name="the second")
            await ask()
            go_on.set()
    assert texts == ["second", "first"]
