"""What a child process sends and writes, split."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.backends.local import child
from car_rpc.backends.local.child import MAX_STDERR_LINE_BYTES, Frames, Lines


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(stream) + 1) for place in places} | {len(stream)})
    return [stream[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(min_value=0)))
def test_any_chunks_of_a_stream_give_the_same_frames(
    bodies: list[bytes], places: list[int]
) -> None:
    stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    frames = Frames()
    assert [frame for chunk in cut(stream, places) for frame in frames.split(chunk)] == bodies


def test_a_frame_that_is_too_long_is_refused_before_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "MAX_WORKER_FRAME_BYTES", 3)
    frames = Frames()
    assert [*frames.split(struct.pack(">I", 3) + b"abc")] == [b"abc"]
    with pytest.raises(ValueError, match="4 bytes"):
        list(frames.split(struct.pack(">I", 4)))


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), st.data())
def test_any_chunks_of_a_stream_give_the_same_lines(
    lines: list[bytes], data: st.DataObject
) -> None:
    stream = b"\n".join(lines)
    chunks = cut(stream, data.draw(st.lists(st.integers(min_value=0))))
    splitter = Lines()
    got = [line for chunk in chunks for line in splitter.split(chunk)] + [*splitter.rest()]
    assert got == (lines[:-1] if lines and not lines[-1] else lines)


def test_a_line_without_an_end_comes_in_parts_and_is_not_kept() -> None:
    splitter = Lines()
    text = b"x" * (2 * MAX_STDERR_LINE_BYTES + 5)
    parts = [*splitter.split(text), *splitter.split(b"y\nz"), *splitter.rest()]
    assert [len(part) for part in parts] == [MAX_STDERR_LINE_BYTES, MAX_STDERR_LINE_BYTES, 6, 1]
    assert b"".join(parts) == text + b"yz"
