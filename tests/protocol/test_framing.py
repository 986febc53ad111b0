import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.protocol.framing import (
    MAX_HEADER_BYTES,
    MAX_SKIP_FACTOR,
    PREFIX_BYTES,
    Broken,
    FrameEvent,
    Framing,
    Splitter,
    wrap,
)

LIMIT = 64
BOM = b"\xef\xbb\xbf"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def split(*chunks: bytes, framing: Framing | None = None, limit: int = LIMIT) -> list[FrameEvent]:
    splitter = Splitter(limit, framing)
    events: list[FrameEvent] = []
    for chunk in chunks:
        events += splitter.receive(chunk)
    return events + splitter.receive_eof()


def frames(events: list[FrameEvent]) -> list[bytes]:
    return [event for event in events if isinstance(event, bytes)]


def breakage(events: list[FrameEvent]) -> list[str]:
    return [event.kind for event in events if isinstance(event, Broken)]


def lsp(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


PIECES = [
    PING,
    b"\n",
    b"\r\n",
    b"\n\n",
    b" ",
    b"\t",
    b"\r",
    BOM,
    BOM[:2],
    b"{}",
    b"x" * (LIMIT - 1),
    b"x" * LIMIT,
    b"x" * (LIMIT + 1),
    b"y" * 3 * LIMIT,
    b"Content-Length: 2\r\n\r\n{}",
    b"content-length:2\n\n{}",
    b"Content-Length: 40\r\nContent-Type: x; charset=utf-8\r\n\r\n" + PING,
    b"Content-Length: 3\r\nContent-Length: 2\r\n\r\n{}",
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 99999999999999999999\r\n\r\n",
    b"Content-Length: %d\r\n\r\n" % (LIMIT * MAX_SKIP_FACTOR + 1),
    b"Content-Length: %d\r\n\r\n" % (2 * LIMIT),
    b"Content-Length: 0\r\n\r\n",
    b"Content-Length: two\r\n\r\n",
    b"garbage Content-Length: 2\r\n\r\n{}",
    b"Cont",
    b"z" * MAX_HEADER_BYTES,
    b"\xff\xfe",
]


@given(
    stream=st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    framing=st.sampled_from([None, "ndjson", "lsp"]),
)
def test_any_chunking_of_the_same_bytes_gives_the_same_events(
    stream: bytes, cuts: list[int], framing: Framing | None
) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(places)]
    whole = split(stream, framing=framing)
    assert split(*chunks, framing=framing) == whole
    # A carriage return belongs to the line's ending, which the limit does not count.
    assert all(len(data.removesuffix(b"\r")) <= LIMIT for data in frames(whole))


@pytest.mark.parametrize(
    "stream",
    [
        BOM + PING + b"\r\n" + b"x" * (LIMIT + 1) + b"\n\n" + PING,
        BOM + lsp(PING) + b"what?\r\n\r\n" + lsp(b"x" * (LIMIT + 9)) + lsp(PING),
    ],
)
def test_a_stream_cut_at_any_byte_or_at_every_byte_gives_the_same_events(stream: bytes) -> None:
    whole = split(stream)
    assert frames(whole) in ([PING, PING], [PING + b"\r", PING])
    for cut in range(len(stream) + 1):
        assert split(stream[:cut], stream[cut:]) == whole
    assert split(*(bytes([byte]) for byte in stream)) == whole


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (PING + b"\n", [PING]),
        (PING, [PING]),
        (PING + b"\n" + PING + b"\n", [PING, PING]),
        (b"\n \r\n\t\n" + PING + b"\n\n", [PING]),
        (BOM + PING + b"\n", [PING]),
        (BOM, []),
        (b"", []),
        (b"{" + b"C" * 9 + b"\n", [b"{CCCCCCCCC"]),
        (lsp(PING), [PING]),
        (BOM + lsp(PING), [PING]),
        (b"content-length:2\n\n{}", [b"{}"]),
        (b"CONTENT-LENGTH : 2 \r\n\r\n{}", [b"{}"]),
        (b"Content-Type: a\r\nContent-Length: 2\r\nX-Y: b\r\n\r\n{}", [b"{}"]),
        (lsp(b"a\nb"), [b"a\nb"]),
        (b"Content-Length: 2\r\n \t\r\n{}", [b"{}"]),
        (b"Content-Length: 0\r\n\r\n" + lsp(b"{}"), [b"", b"{}"]),
        (lsp(b"{}") + b"\r\n\r\n" + lsp(b"[]"), [b"{}", b"[]"]),
        (lsp(b"{}") + b"Content-Len", [b"{}"]),
    ],
)
def test_well_formed_streams_split_without_complaint(stream: bytes, expected: list[bytes]) -> None:
    events = split(stream)
    assert [data.rstrip(b"\r") for data in frames(events)] == expected
    assert breakage(events) == []


def test_a_line_of_exactly_the_limit_is_accepted_with_either_line_ending() -> None:
    for ending in (b"\n", b"\r\n", b""):
        assert breakage(split(b"x" * LIMIT + ending)) == []
        assert breakage(split(b"x" * (LIMIT + 1) + ending)) == ["message_too_large"]


def test_an_oversize_line_is_told_once_and_the_next_message_is_found() -> None:
    huge = b'{"id":5,' + b"x" * 500
    events = split(*(huge[i : i + 7] for i in range(0, len(huge), 7)), b"more\n", PING + b"\n")
    assert breakage(events) == ["message_too_large"]
    assert frames(events) == [PING]
    assert isinstance(events[0], Broken)
    assert events[0].prefix == huge[:LIMIT]


def test_the_end_of_the_stream_inside_an_oversize_line_is_no_second_complaint() -> None:
    assert breakage(split(b"x" * 500)) == ["message_too_large"]


def test_no_more_of_an_oversize_message_is_kept_than_its_id_needs() -> None:
    for stream in (b"x" * (PREFIX_BYTES * 3), lsp(b"x" * (PREFIX_BYTES * 3))):
        events = split(stream, limit=PREFIX_BYTES * 2)
        assert [len(event.prefix) for event in events if isinstance(event, Broken)] == [
            PREFIX_BYTES
        ]


def test_an_oversize_body_is_skipped_and_the_next_message_is_found() -> None:
    events = split(lsp(b"x" * (LIMIT + 1)) + lsp(PING))
    assert breakage(events) == ["message_too_large"]
    assert frames(events) == [PING]


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n",
        b"Content-Length: -2\r\n\r\n",
        b"Content-Length: 2.0\r\n\r\n",
        b"Content-Length:\r\n\r\n",
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Content-Length: %d\r\n\r\n" % (LIMIT * MAX_SKIP_FACTOR + 1),
        b"\xff\xfe\x00\r\n",
    ],
)
def test_garbage_between_messages_is_told_and_the_next_message_is_found(garbage: bytes) -> None:
    events = split(lsp(b"{}") + garbage + lsp(PING))
    assert frames(events) == [b"{}", PING]
    assert breakage(events) == ["parse_error"]


def test_garbage_on_the_header_line_does_not_cost_the_message_behind_it() -> None:
    events = split(lsp(b"{}") + b"oops" + lsp(PING))
    assert frames(events) == [b"{}", PING]
    assert breakage(events) == ["parse_error"]


def test_a_header_line_without_end_is_cut_into_pieces_of_bounded_size() -> None:
    events = split(b"C" * (3 * MAX_HEADER_BYTES) + b"\r\n\r\n" + lsp(PING))
    assert frames(events) == [PING]
    assert all(len(e.prefix) <= MAX_HEADER_BYTES for e in events if isinstance(e, Broken))


def test_the_last_of_two_lengths_counts() -> None:
    assert frames(split(b"Content-Length: 9\r\nContent-Length: 2\r\n\r\n{}")) == [b"{}"]


def test_a_message_that_the_end_of_the_stream_cuts_is_told_with_what_there_was() -> None:
    assert split(lsp(PING)[:-5]) == [
        Broken("parse_error", "the stream ended inside a message", PING[:-5])
    ]


def test_a_fixed_framing_is_not_detected() -> None:
    assert frames(split(b"Content-Length: 2\n", framing="ndjson")) == [b"Content-Length: 2"]
    assert breakage(split(PING + b"\r\n", framing="lsp")) == ["parse_error"]
    assert frames(split(BOM + PING, framing="ndjson")) == [PING]


def test_the_framing_is_known_once_the_first_byte_is_there() -> None:
    splitter = Splitter(LIMIT)
    splitter.receive(BOM[:2])
    assert splitter.framing is None
    splitter.receive(BOM[2:] + b"C")
    assert splitter.framing == "lsp"


def test_half_a_byte_order_mark_is_a_line_of_its_own() -> None:
    assert frames(split(BOM[:2])) == [BOM[:2]]


def is_a_message(data: bytes) -> bool:
    return b"\n" not in data and bool(data.strip()) and not data.startswith(BOM)


@given(st.binary(max_size=200).filter(is_a_message))
def test_what_is_wrapped_is_split_into_the_same(payload: bytes) -> None:
    framings: tuple[Framing, ...] = ("ndjson", "lsp")
    for framing in framings:
        assert split(wrap(payload, framing) * 2, framing=framing, limit=200) == [
            payload,
            payload,
        ]
