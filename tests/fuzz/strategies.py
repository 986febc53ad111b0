"""Messages as nobody should send them, and the ways in which their bytes may arrive."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import strategies as st

from car_rpc.protocol.framing import Framing, wrap

#: Longest message that the judged peers take, in bytes.
LIMIT = 20_000

#: Few, so that dialogues use them twice.
GOOD_IDS = [0, 1, 1, 1, "1", "", "", "\u2028", "\N{GRINNING FACE}", 2**53 - 1, 1 - 2**53, "x" * 300]
good_ids = st.sampled_from(GOOD_IDS).map(lambda each: json.dumps(each, ensure_ascii=False).encode())
bad_ids = st.sampled_from(
    [
        b"null", b"true", b"1.5", b"1.0", b"1e2", b"-", b"01", b"{}", b"[1]", b'"\xff"',
        b'"\\ud800"', b'"cut', b"%d" % 2**53, b"-%d" % 2**53, b"%d" % 2**63, b"9" * 400,
    ]
)  # fmt: skip
methods = st.sampled_from(
    [
        b'"ping"', b'"ping"', b'"generate"', b'"generate"', b'"no.such"', b'"models.list"',
        b'"models.get"', b'"eventlog.query"', b'"runner.event"', b'"$/x"', b'""', b"5", b"null",
    ]
)  # fmt: skip
VALUES = [
    b"{}", b"null", b"[]", b"3", b'"x"', b"NaN", b"-Infinity", b"1e400", b"-0", b"tru",
    b"[tru]", b'{"a":[01]}', b'{"id":9}', b'{"id":9,"a":NaN}', b'[{"jsonrpc":"2.0","id":9}]',
    b'{"jsonrpc":"2.0","id":9,"method":"ping"}', b'"\\ud800"', b'["\\udc00x"]',
    b'{"\\ud83d":1}', b'"\\ud83d\\ude00"', b'"\xff"', b'{"\xc3":1}',
    b'"\xed\xa0\x80"', b'"\x00"', b'"\\u0000"',
    b'"a\tb"', b'"\\q"', b'"}]"', b'"[{\\"', '"\u2028\u2029\u0085\v\f"'.encode(),
    b'{"prompt":""}', b'{"prompt":""}', b'{"prompt":"","stream":true}', b'{"a":1,"a":2}',
    b"[" * 127 + b"]" * 127, b"[" * 200 + b"]" * 200, b"[" * 5000, b'{"a":' * 200 + b"}" * 200,
    b"[" * 200 + b"tru" + b"]" * 200, b'["%b"]' % (b"[" * 500), b"]]]]", b"9" * 5000,
    b'"%b"' % (b"x" * LIMIT), b'[" %b"' % (b"," * LIMIT), b"[1,]", b'{"a":1,}', b"{1:2}",
]  # fmt: skip
values = st.sampled_from(VALUES)
spaces = st.sampled_from([b"", b"", b"", b" ", b"\t", b"\r"])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Something like a request: its members in any order, some missing, double or odd."""
    method = draw(methods)
    if draw(st.integers(0, 3)):
        # Mostly it is the request that it seems to be.
        params = draw(st.sampled_from([b"{}", b'{"prompt":""}', b'{"prompt":"","stream":true}']))
    else:
        params = draw(values)
    members = [
        (b'"jsonrpc"', b'"2.0"'),
        (b'"id"', draw(st.one_of(good_ids, good_ids, good_ids, bad_ids))),
        (b'"method"', method),
        (b'"params"', params),
    ]
    if draw(st.booleans()):
        members = draw(st.permutations(members))
    if not draw(st.integers(0, 3)):
        del members[draw(st.integers(0, 3))]
    if not draw(st.integers(0, 3)):
        names = [b'"id"', b'"result"', b'"error"', b'"x"', b'"\\u0069d"', b'"\\u0072esult"']
        extra = (draw(st.sampled_from(names)), draw(st.one_of(good_ids, values)))
        members.insert(draw(st.integers(0, len(members))), extra)
    space = draw(spaces)
    text = (b"," + space).join(space.join([name, b":", value]) for name, value in members)
    return b"{" + text + space + b"}"


cancels = good_ids.map(
    lambda raw: b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%b}}' % raw
)
answers = good_ids.map(lambda raw: b'{"jsonrpc":"2.0","id":%b,"result":{}}' % raw)
stalls = st.builds(
    lambda raw, more: (
        b'{"jsonrpc":"2.0","id":%b,"method":"generate","params":{"prompt":""%b}}' % (raw, more)
    ),
    good_ids,
    st.sampled_from([b"", b',"stream":true']),
)
pings = good_ids.map(lambda raw: b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % raw)
texts = st.sampled_from(
    [
        b"", b" ", b"\x0b", b"hello world", b"{}", b"[]", b"[[]]", b"42", b"null", b'"x"', b"{",
        b"[1,", b"[" * 3000, b"\xef\xbb\xbf", b"\x00\xff", b"Content-Length: 5", b"{}{}", b"1 2",
    ]
)  # fmt: skip
singles = st.one_of(objects(), objects(), pings, stalls, stalls, cancels, answers, texts)
batches = st.lists(singles, min_size=1, max_size=5).map(lambda parts: b"[%b]" % b",".join(parts))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message with one wound."""
    text = draw(st.one_of(singles, batches))
    at = draw(st.integers(0, len(text)))
    to = min(len(text), at + draw(st.integers(0, 8)))
    new = draw(st.sampled_from([b"", b'"', b"}", b",", b"\n", b"\\"]) | st.binary(max_size=3))
    tail = b"" if not draw(st.integers(0, 3)) else text[to:]
    return text[:at] + new + tail


#: What may stand between two messages with headers, and how many complaints it gets.
NOISE = {
    b"\r\n": 0,
    b"X-Extra: 5\r\n": 0,
    b"hello world\r\n": 1,
    b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n': 1,
    b"Content-Length 5\r\n": 1,
    b"Content-Length: abc\r\n\r\n": 1,
    b"Content-Length: -5\r\n\r\n": 1,
    b"Content-Length: 4294967296\r\n\r\n": 1,
    b"\0" * 9000 + b"\n": 2,
}
noise = st.sampled_from([*NOISE])
payloads = st.one_of(singles, singles, batches, damaged(), noise, st.binary(max_size=40))


def dialogues(size: int) -> st.SearchStrategy[list[bytes]]:
    """What one client sends, message by message."""
    return st.lists(payloads, min_size=1, max_size=size)


def on_wire(payload: bytes, framing: Framing) -> bytes:
    """One message as it is sent; noise between headers goes without one."""
    return payload if framing == "lsp" and payload in NOISE else wrap(payload, framing)


def chunks(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The bytes, cut at these places (modulo their number)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


cuts = st.lists(st.integers(0, 1 << 20), max_size=6)

_CANCEL = b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":0}}'
#: Where a fuzzer that follows the code may begin.
SEEDS = [
    *(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":%b}' % value for value in VALUES),
    *(b'{"x":%b,"id":"","jsonrpc":"2.0","method":"generate"}' % value for value in VALUES),
    b'{"jsonrpc":"2.0","id":1,"method":"generate"}\n{"jsonrpc":"2.0","id":1,"method":"ping"}\n{"id":1',
    b'[{"jsonrpc":"2.0","id":0,"method":"generate"},1,{"jsonrpc":"2.0","id":"car-1","result":null}]',
    b'{"jsonrpc":"2.0","id":0,"method":"generate"}\n%b' % _CANCEL,
]
