import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.backends.openai_compat.sse import MAX_EVENT_BYTES, EventParser, ServerEvent
from car_rpc.errors import CarError


def events_of(*chunks: bytes) -> list[ServerEvent]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.close()


def data_of(*chunks: bytes) -> list[bytes]:
    return [event.data for event in events_of(*chunks)]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_may_end_in_each_of_three_ways(end: bytes) -> None:
    assert data_of(end.join([b"data: a", b"", b"data: b", b"", b""])) == [b"a", b"b"]


def test_lines_of_data_are_joined_with_a_line_feed() -> None:
    assert data_of(b"data: a\ndata:b\ndata:\ndata:  c\n\n") == [b"a\nb\n\n c"]


def test_comments_and_other_fields_say_nothing() -> None:
    assert data_of(b": keep-alive\n\nid: 7\nretry: 10\ndata: a\n: more\nnonsense\n\n:\n\n") == [
        b"a"
    ]


def test_an_event_has_the_type_that_it_names() -> None:
    stream = b"event: error\ndata: a\n\ndata: b\n\nevent: lost\n\ndata: c\n\n"
    assert events_of(stream) == [
        ServerEvent("error", b"a"),
        ServerEvent("message", b"b"),
        ServerEvent("message", b"c"),
    ]


def test_a_byte_order_mark_counts_only_at_the_start() -> None:
    mark = b"\xef\xbb\xbf"
    assert data_of(mark + b"data: a\n\n" + mark + b"data: b\n\n") == [b"a"]
    assert data_of(b"\xef", b"\xbb", b"\xbfdata: a\n\n") == [b"a"]


def test_an_event_needs_no_blank_line_before_the_end() -> None:
    assert data_of(b"data: a\n\ndata: [DONE]") == [b"a", b"[DONE]"]
    assert data_of(b"data: a\n") == [b"a"]


def test_a_line_without_a_colon_is_a_field_without_a_value() -> None:
    assert data_of(b"data\n\n", b"data\ndata\n\n") == [b"", b"\n"]


def test_an_event_is_given_as_soon_as_it_is_complete() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\r\n\r") == [ServerEvent("message", b"a")]
    assert parser.feed(b"\ndata: b\n") == []
    assert parser.feed(b"\n") == [ServerEvent("message", b"b")]


@pytest.mark.parametrize(
    "piece", [b"x" * 65536, b"data: x\n" * 8192, b"data\n" * 16384], ids=["line", "lines", "empty"]
)
def test_an_event_that_is_too_long_is_refused_long_before_the_memory_is_full(piece: bytes) -> None:
    limit = 1024 * 1024
    parser = EventParser(limit)
    parser.feed(b"data: ")
    pieces = [piece] * (2 * limit // len(piece))
    with pytest.raises(CarError, match=f"more than {limit} bytes") as caught:
        all(parser.feed(piece) == [] for piece in pieces)
    assert caught.value.kind == "provider_error"


def test_a_long_stream_of_short_events_is_no_long_event() -> None:
    parser = EventParser(max_event_bytes=64)
    for _ in range(100):
        assert parser.feed(b": a comment of some length\nevent: e\ndata: " + b"x" * 30 + b"\n\n")


@pytest.mark.parametrize("size", [1, 4096, 65536])
def test_a_line_of_ten_megabytes_is_taken_in_however_many_pieces_it_comes(size: int) -> None:
    """Byte by byte it is the end of the line that is split."""
    whole = b"data: " + b"x" * 10_000_000
    cut = len(whole) - 100 if size == 1 else 0
    rest = whole[cut:] + b"\r\n\r\n"
    pieces = [rest[start : start + size] for start in range(0, len(rest), size)]
    assert [len(data) for data in data_of(whole[:cut], *pieces)] == [10_000_000]


def test_an_event_of_almost_the_limit_is_taken() -> None:
    line = b"data: " + b"x" * (MAX_EVENT_BYTES - 6)
    assert [len(data) for data in data_of(line, b"\n\n")] == [MAX_EVENT_BYTES - 6]


LINE = st.one_of(
    st.sampled_from([b"", b"data", b"data:", b"data: [DONE]", b":", b"event: error", b"id: 1"]),
    st.binary(max_size=12).map(lambda text: b"data: " + re.sub(rb"[\r\n]", b"", text)),
    st.binary(max_size=12),
)
LINES = st.lists(st.tuples(LINE, st.sampled_from([b"\n", b"\r", b"\r\n"]))).map(
    lambda lines: b"".join(text + end for text, end in lines)
)
STREAM = st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"]), LINES).map(b"".join)


def reference(stream: bytes) -> list[ServerEvent]:
    """The standard's algorithm over a whole stream, with our rule for its end."""
    events: list[ServerEvent] = []
    data: list[bytes] = []
    kind = ""
    lines = re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in [*lines, b""]:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if not line:
            events += [ServerEvent(kind or "message", b"\n".join(data))] if data else []
            data, kind = [], ""
        elif name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value.decode(errors="replace")
    return events


@given(STREAM, st.lists(st.integers(1, 7), min_size=1))
def test_however_a_stream_is_split_its_events_are_the_same(stream: bytes, sizes: list[int]) -> None:
    chunks: list[bytes] = []
    rest = stream
    while rest:
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(rest[:size])
        rest = rest[size:]
    assert events_of(*chunks) == events_of(stream) == reference(stream)
