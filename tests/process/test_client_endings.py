"""The Python client beside a core that hangs."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from car_rpc.client import CarClient, ProcessEnded, connection
from tests.process.conftest import WAIT_S, assert_gone

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that pass within a test."""
    for name in ("CANCEL_TIMEOUT_S", "WRITE_TIMEOUT_S", "EXIT_TIMEOUT_S"):
        monkeypatch.setattr(connection, name, 0.2)


@asynccontextmanager
async def hung(state_dir: Path) -> AsyncIterator[CarClient]:
    """A client whose core has stopped for good; leaving it leaves no process."""
    with anyio.fail_after(WAIT_S):
        async with CarClient.start(arguments=["--state-dir", str(state_dir)]) as car:
            process = psutil.Process(car.pid)
            os.kill(car.pid, signal.SIGSTOP)
            yield car
    assert_gone([process])


async def test_leaving_a_core_that_hangs_kills_it(tmp_path: Path) -> None:
    async with hung(tmp_path):
        pass


async def test_an_exception_beside_a_core_that_hangs_comes_out_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with hung(tmp_path):
            raise LookupError("mine")


async def test_a_call_to_a_core_that_hangs_can_be_cancelled(tmp_path: Path) -> None:
    async with hung(tmp_path) as car:
        with anyio.move_on_after(0.05) as scope:
            await car.models()
        assert scope.cancelled_caught


async def test_a_stream_of_a_core_that_hangs_can_be_left(tmp_path: Path) -> None:
    async with hung(tmp_path) as car, car.stream(prompt="x"):
        pass


async def test_a_core_that_reads_no_more_is_no_place_to_wait(tmp_path: Path) -> None:
    async with hung(tmp_path) as car:
        with pytest.raises(ProcessEnded):
            await car.generate(prompt="x" * 4 * 1024 * 1024)
