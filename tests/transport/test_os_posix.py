import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from car_rpc.transport.os_layer import OsLayer, os_layer
from car_rpc.transport.pumps import PolledReader, PolledWriter, ThreadReader, ThreadWriter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this is the layer of the others")

SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def layer() -> OsLayer:
    return os_layer()


@pytest.fixture
def child() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts processes that wait for the end of their input."""
    children: list[subprocess.Popen[bytes]] = []

    def start(script: str = SLEEPER, **options: object) -> "subprocess.Popen[bytes]":
        children.append(
            subprocess.Popen(  # pyright: ignore[reportCallIssue] - the options are a layer's own
                [sys.executable, "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                **options,  # pyright: ignore[reportArgumentType] - see above
            )
        )
        return children[-1]

    yield start
    for process in children:
        process.kill()
        process.communicate()


def test_the_parent_and_its_parents_are_ancestors(layer: OsLayer) -> None:
    assert layer.is_ancestor(os.getppid())
    assert layer.is_ancestor(1) or os.getppid() != 1
    assert not layer.is_ancestor(os.getpid())
    assert not layer.is_ancestor(0)
    assert not layer.is_ancestor(2**22 + 1)


@pytest.mark.process
def test_a_child_is_no_ancestor_and_a_grandparent_is(
    layer: OsLayer, child: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    assert not layer.is_ancestor(child().pid)
    script = (
        "import os, subprocess, sys; from car_rpc.transport.os_layer import os_layer;"
        "print(os_layer().is_ancestor(int(sys.argv[1])))"
    )
    between = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}, *sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", between, str(os.getpid())],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == b"True"


@pytest.mark.process
async def test_the_death_of_a_process_is_told_once(
    layer: OsLayer, child: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    process = child()
    died = asyncio.Event()
    calls: list[int] = []

    def on_death() -> None:
        calls.append(1)
        died.set()

    layer.watch_process(process.pid, on_death)
    assert not died.is_set()
    process.kill()
    process.wait()
    await asyncio.wait_for(died.wait(), 10)
    assert calls == [1]


@pytest.mark.process
async def test_a_process_that_is_gone_already_is_told_too(
    layer: OsLayer, child: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    done = child("")
    done.wait()
    died = asyncio.Event()
    layer.watch_process(done.pid, died.set)
    await asyncio.wait_for(died.wait(), 10)


@pytest.mark.process
async def test_a_tree_is_killed_as_a_whole(
    layer: OsLayer, child: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    script = (
        "import subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], stdin=subprocess.PIPE);"
        "p.wait()"
    )
    process = child(script, **layer.spawn_options())
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == b"up\n"
    layer.lower_priority(process.pid)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) >= os.getpriority(os.PRIO_PROCESS, 0)
    layer.kill_tree(process.pid)
    # The grandchild held the pipe, too: it ends only when both are gone.
    assert await asyncio.wait_for(asyncio.to_thread(process.stdout.read), 10) == b""
    process.wait()
    layer.kill_tree(process.pid)


def test_a_pipe_without_its_reader_is_noticed(layer: OsLayer) -> None:
    reader_fd, writer_fd = os.pipe()
    try:
        assert not layer.reader_gone(writer_fd)
        os.close(reader_fd)
        assert layer.reader_gone(writer_fd)
    finally:
        os.close(writer_fd)


@pytest.mark.parametrize("threads", [False, True])
async def test_pipes_are_polled_unless_threads_are_asked_for(
    layer: OsLayer, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if threads:
        monkeypatch.setenv("CAR_RPC_THREAD_IO", "1")
    reader_fd, writer_fd = os.pipe()
    reader = layer.open_reader(reader_fd, lambda _: None, lambda: None)
    writer = layer.open_writer(writer_fd, lambda _: b"", lambda: None, lambda: None)
    assert isinstance(reader, ThreadReader if threads else PolledReader)
    assert isinstance(writer, ThreadWriter if threads else PolledWriter)
    reader.close()
    os.close(writer_fd)
    if not threads:
        os.close(reader_fd)


async def test_files_are_read_with_threads(layer: OsLayer, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"hello")
    over = asyncio.Event()
    data: list[bytes] = []
    fd = os.open(tmp_path / "in", os.O_RDONLY)
    try:
        assert isinstance(layer.open_reader(fd, data.append, over.set), ThreadReader)
        await asyncio.wait_for(over.wait(), 10)
        assert data == [b"hello"]
    finally:
        os.close(fd)
