import io
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from car_rpc.host.logs import (
    MAX_LINE_CHARS,
    MAX_WAITING_LINES,
    ForwardHandler,
    StderrHandler,
    take_captured,
)


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("car_rpc.x", level, "file", 1, text, None, None)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader_fd, writer_fd = os.pipe()
    yield reader_fd, writer_fd
    for fd in (reader_fd, writer_fd):
        try:
            os.close(fd)
        except OSError:
            continue


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    reader_fd, writer_fd = pipe
    handler = StderrHandler(writer_fd)
    for number in range(100):
        handler.emit(record(f"line {number}"))
    handler.flush_within(10)
    assert os.read(reader_fd, 1 << 16).decode().splitlines() == [f"line {n}" for n in range(100)]


def test_a_reader_that_stalls_costs_the_oldest_lines_and_is_told_how_many(
    pipe: tuple[int, int],
) -> None:
    reader_fd, writer_fd = pipe
    handler = StderrHandler(writer_fd)
    long = "x" * (MAX_LINE_CHARS + 10)
    for _ in range(3 * MAX_WAITING_LINES):
        handler.emit(record(long))
    handler.flush_within(0)  # it is bounded, although nobody reads
    handler.emit(record("the last one"))
    text = io.BytesIO()
    while not text.getvalue().endswith(b"the last one\n"):
        text.write(os.read(reader_fd, 1 << 20))
    lines = text.getvalue().decode().splitlines()
    assert len(lines) <= 2 * MAX_WAITING_LINES + 10
    assert any(line.endswith("log lines were dropped)") for line in lines)
    assert max(map(len, lines)) == MAX_LINE_CHARS


def test_a_reader_that_is_gone_ends_the_writing_and_nothing_else(pipe: tuple[int, int]) -> None:
    reader_fd, writer_fd = pipe
    os.close(reader_fd)
    handler = StderrHandler(writer_fd)
    handler.emit(record("x"))
    handler.flush_within(0.01)
    handler.emit(record("y"))
    assert threading.current_thread().is_alive()


def test_a_client_gets_level_message_and_source_from_its_level_on() -> None:
    told: list[tuple[str, str, str]] = []
    logger = logging.getLogger("car_rpc.test")
    logger.setLevel("DEBUG")
    handler = ForwardHandler("warning", lambda *line: told.append(line))
    logger.addHandler(handler)
    logger.info("quiet")
    logger.warning("loud %s", "x" * MAX_LINE_CHARS)
    logger.removeHandler(handler)
    assert [(level, len(message), source) for level, message, source in told] == [
        ("warning", MAX_LINE_CHARS, "car_rpc.test")
    ]


def test_what_native_code_printed_becomes_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        take_captured(b"one\ntwo \xff\n")
    lines: list[Any] = [r.getMessage() for r in caplog.records if r.name == "car_rpc.captured"]
    assert lines == ["one", "two \ufffd"]
