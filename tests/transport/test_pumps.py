"""Both variants over real pipes: polled and with threads."""

import asyncio
import fcntl
import os
import termios
import threading
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from car_rpc.transport import pumps
from car_rpc.transport.pumps import (
    MAX_UNDELIVERED,
    READ_BYTES,
    PolledReader,
    PolledWriter,
    ThreadReader,
    ThreadWriter,
)

MIB = 1024 * 1024
READERS = [PolledReader, ThreadReader]
WRITERS = [PolledWriter, ThreadWriter]


#: What a number of a closed end stands for.
NOTHING = os.open(os.devnull, os.O_RDWR)


class Pipe:
    """A pipe whose ends are closed once.

    Their numbers stay taken: a thread of one test may be about to read or write, and would do so in
    the next test's pipe.
    """

    def __init__(self) -> None:
        self.reader_fd, self.writer_fd = os.pipe()
        self._open = {self.reader_fd, self.writer_fd}

    def close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            os.dup2(NOTHING, fd)

    def close_all(self) -> None:
        self.close(self.writer_fd)  # this wakes a thread that blocks in a read
        self.close(self.reader_fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close_all()


class Sink:
    """Collects what a reader delivers."""

    def __init__(self) -> None:
        self.data = b""
        self.ends = 0
        self.changed = asyncio.Event()

    def on_data(self, data: bytes) -> None:
        assert 0 < len(data) <= READ_BYTES
        assert self.ends == 0
        self.data += data
        self.changed.set()

    def on_eof(self) -> None:
        self.ends += 1
        self.changed.set()

    async def until(self, size: int | None = None) -> None:
        async with asyncio.timeout(10):
            while self.ends == 0 if size is None else len(self.data) < size:
                self.changed.clear()
                await self.changed.wait()


@pytest.mark.parametrize("kind", READERS)
async def test_a_reader_delivers_all_bytes_in_order_and_one_end(kind: Any, pipe: Pipe) -> None:
    sink = Sink()
    kind(pipe.reader_fd, sink.on_data, sink.on_eof)
    payload = os.urandom(3 * MIB)
    writing = asyncio.create_task(asyncio.to_thread(write_all, pipe, payload))
    await sink.until()
    await writing
    assert sink.data == payload
    assert sink.ends == 1


def write_all(pipe: Pipe, payload: bytes) -> None:
    view = memoryview(payload)
    while view:
        view = view[os.write(pipe.writer_fd, view) :]
    pipe.close(pipe.writer_fd)


@pytest.mark.parametrize("kind", READERS)
async def test_a_paused_reader_holds_back_and_resumes_without_a_loss(kind: Any, pipe: Pipe) -> None:
    sink = Sink()
    reader = kind(pipe.reader_fd, sink.on_data, sink.on_eof)
    os.write(pipe.writer_fd, b"a")
    await sink.until(1)
    reader.pause()
    os.write(pipe.writer_fd, b"b")  # a thread that is in its read already may still deliver this
    await turns()
    held = len(sink.data)
    os.write(pipe.writer_fd, b"c" * 10)
    await turns()
    assert len(sink.data) <= 2
    assert held in (1, 2)
    reader.resume()
    await sink.until(12)
    assert sink.data == b"ab" + b"c" * 10


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", READERS)
async def test_a_closed_reader_delivers_nothing_more(kind: Any, pipe: Pipe) -> None:
    sink = Sink()
    reader = kind(pipe.reader_fd, sink.on_data, sink.on_eof)
    reader.close()
    os.write(pipe.writer_fd, b"late")
    pipe.close(pipe.writer_fd)
    await turns()
    assert (sink.data, sink.ends) == (b"", 0)


async def test_a_reader_takes_a_broken_descriptor_for_the_end() -> None:
    sink = Sink()
    folder = os.open("/", os.O_RDONLY)
    try:
        ThreadReader(folder, sink.on_data, sink.on_eof)
        await sink.until()
        assert sink.ends == 1
    finally:
        os.close(folder)


class Source:
    """Gives chunks to a writer, as a connection does."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.written = 0
        self.broken = asyncio.Event()
        self.breaks = 0

    def take(self, limit: int) -> bytes:
        del limit
        return self.chunks.pop(0) if self.chunks else b""

    def on_written(self) -> None:
        self.written += 1

    def on_broken(self) -> None:
        self.breaks += 1
        self.broken.set()


def open_writer(kind: Any, pipe: Pipe, source: Source) -> Any:
    return kind(pipe.writer_fd, source.take, source.on_written, source.on_broken)


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_writer_writes_everything_in_order_past_a_slow_reader(
    kind: Any, pipe: Pipe
) -> None:
    chunks = [os.urandom(size) for size in (1, 300_000, 0, 2 * MIB, 7)]
    chunks = [chunk for chunk in chunks if chunk]
    source = Source(*chunks)
    writer = open_writer(kind, pipe, source)
    writer.kick()
    writer.kick()
    sink = Sink()
    await turns()  # the pipe is full by now
    ThreadReader(pipe.reader_fd, sink.on_data, sink.on_eof)
    await sink.until(sum(map(len, chunks)))
    await writer.flush(10)
    assert sink.data == b"".join(chunks)
    assert source.written > 0
    assert source.breaks == 0


@pytest.mark.parametrize("kind", WRITERS)
async def test_what_comes_later_is_written_after_another_kick(kind: Any, pipe: Pipe) -> None:
    source = Source(b"one")
    writer = open_writer(kind, pipe, source)
    writer.kick()
    await writer.flush(10)
    source.chunks.append(b"two")
    writer.kick()
    await writer.flush(10)
    assert os.read(pipe.reader_fd, 100) == b"onetwo"


async def test_what_may_be_polled_is_written_within_the_call(pipe: Pipe) -> None:
    writer = open_writer(PolledWriter, pipe, Source(b"now"))
    writer.write()
    assert waiting_bytes(pipe) == 3


@pytest.mark.parametrize("kind", WRITERS)
async def test_what_a_full_pipe_leaves_of_a_write_follows_when_it_is_read(
    kind: Any, pipe: Pipe
) -> None:
    source = Source(b"x" * 2 * MIB)
    writer = open_writer(kind, pipe, source)
    writer.write()
    writer.write()
    sink = Sink()
    assert not await writer.flush(0.05)
    ThreadReader(pipe.reader_fd, sink.on_data, sink.on_eof)
    await sink.until(2 * MIB)
    assert await writer.flush(10)


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_write_and_a_kick_of_the_same_turn_write_everything_once(
    kind: Any, pipe: Pipe
) -> None:
    source = Source(b"one", b"two")
    writer = open_writer(kind, pipe, source)
    writer.kick()
    writer.write()
    assert await writer.flush(10)
    assert os.read(pipe.reader_fd, 100) == b"onetwo"


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_write_that_nobody_reads_breaks_like_a_kick(kind: Any, pipe: Pipe) -> None:
    pipe.close(pipe.reader_fd)
    source = Source(b"x")
    writer = open_writer(kind, pipe, source)
    writer.write()
    await asyncio.wait_for(source.broken.wait(), 10)
    writer.write()
    assert source.breaks == 1


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_kick_without_anything_to_write_is_idle(kind: Any, pipe: Pipe) -> None:
    writer = open_writer(kind, pipe, Source())
    async with asyncio.timeout(10):
        await writer.flush(60)
        writer.kick()
        await writer.flush(60)


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_flush_that_nobody_reads_ends_after_its_time(kind: Any, pipe: Pipe) -> None:
    source = Source(b"x" * 2 * MIB)
    writer = open_writer(kind, pipe, source)
    writer.kick()
    async with asyncio.timeout(10):
        await writer.flush(0.05)
    pipe.close(pipe.reader_fd)
    await asyncio.wait_for(source.broken.wait(), 10)


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_broken_pipe_is_told_once_and_ends_a_flush(kind: Any, pipe: Pipe) -> None:
    pipe.close(pipe.reader_fd)
    source = Source(b"x", b"y")
    writer = open_writer(kind, pipe, source)
    writer.kick()
    async with asyncio.timeout(10):
        await source.broken.wait()
        await writer.flush(60)
    writer.kick()
    await turns()
    assert source.breaks == 1


async def test_a_flood_leaves_turns_for_the_rest_of_the_loop(pipe: Pipe) -> None:
    source = Source(*[b"x" * 200_000] * 60)
    sink = Sink()
    writer = open_writer(PolledWriter, pipe, source)
    ThreadReader(pipe.reader_fd, sink.on_data, sink.on_eof)
    writer.kick()
    between = 0
    async with asyncio.timeout(20):
        while source.chunks:
            between += 1
            await asyncio.sleep(0)
    assert between > 5
    await sink.until(60 * 200_000)


async def test_a_thread_that_reads_does_not_run_away_from_a_busy_loop(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumps, "READ_BYTES", 1)
    sink = Sink()
    ThreadReader(pipe.reader_fd, sink.on_data, sink.on_eof)
    os.write(pipe.writer_fd, b"x" * 100)
    # Nothing is awaited here: this is a loop that is busy.
    assert happens(lambda: waiting_bytes(pipe) == 100 - MAX_UNDELIVERED, 10)
    assert not happens(lambda: waiting_bytes(pipe) < 100 - MAX_UNDELIVERED, 0.1)
    pipe.close(pipe.writer_fd)
    await sink.until()
    assert sink.data == b"x" * 100


def happens(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether something happens in other threads while this one waits."""
    never = threading.Event()
    return any(condition() or never.wait(0.01) for _ in range(int(within_s / 0.01)))


def waiting_bytes(pipe: Pipe) -> int:
    """What is in the pipe and was not read yet."""
    count = array("i", [0])
    fcntl.ioctl(pipe.reader_fd, termios.FIONREAD, count)
    return count[0]


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_flush_tells_whether_everything_was_written(kind: Any, pipe: Pipe) -> None:
    source = Source(b"x" * 2 * MIB)
    writer = open_writer(kind, pipe, source)
    assert await writer.flush(10)
    writer.kick()
    assert not await writer.flush(0.05)
    pipe.close(pipe.reader_fd)
    await asyncio.wait_for(source.broken.wait(), 10)
    assert not await writer.flush(10)


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_flush_also_waits_for_what_comes_while_it_is_woken(kind: Any, pipe: Pipe) -> None:
    source = Source(b"one")
    later = [b"two"]

    def add() -> None:
        source.chunks.append(later.pop())
        writer.kick()

    def take(limit: int) -> bytes:
        chunk = source.take(limit)
        if later and not chunk:
            asyncio.get_running_loop().call_soon(add)
        return chunk

    writer = kind(pipe.writer_fd, take, source.on_written, source.on_broken)
    writer.kick()
    assert await writer.flush(10)
    assert os.read(pipe.reader_fd, 100) == b"onetwo"
