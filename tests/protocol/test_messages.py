"""The hostile corpus: what each frame is taken for, and which id its answer carries."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.errors import CarError
from car_rpc.protocol.framing import PREFIX_BYTES
from car_rpc.protocol.messages import (
    MAX_BATCH,
    MAX_DEPTH,
    Batch,
    Notification,
    Request,
    Response,
    Violation,
    compact,
    decode,
    escape_line_breaks,
    write_error,
    write_notification,
    write_request,
    write_result,
)

MAX = 2**53 - 1


def request(request_id: bytes = b"7", params: bytes = b"{}") -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"method":"m","params":%b}' % (request_id, params)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"0", 0),
        (b"-0", 0),
        (b'""', ""),
        (b'"1"', "1"),
        (b"1", 1),
        (b"%d" % MAX, MAX),
        (b"-%d" % MAX, -MAX),
        (rb'"\u00e9\n"', "é\n"),
        (rb'"\ud83d\ude00"', "😀"),
        (b'"\xf0\x9f\x98\x80"', "😀"),
    ],
)
def test_strings_and_safe_integers_are_ids(raw: bytes, expected: int | str) -> None:
    message = decode(request(raw))
    assert message == Request(expected, "m", b"{}")
    assert type(message.id) is type(expected)


@pytest.mark.parametrize(
    "raw",
    [
        b"null",
        b"1.5",
        b"1.0",
        b"1e2",
        b"true",
        b"false",
        b"[1]",
        b"{}",
        b"%d" % (MAX + 1),
        b"-%d" % (MAX + 1),
        b"%d" % 2**63,
        b"9" * 40,
    ],
)
def test_other_ids_are_malformed_and_answered_without_id(raw: bytes) -> None:
    assert_violation(decode(request(raw)), None, "malformed_message")


DEEP = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
CUT = b'{"jsonrpc":"2.0","id":7,"method":"m"'


@pytest.mark.parametrize(
    ("frame", "expected_id", "kind"),
    [
        # not JSON
        (b"hello", None, "parse_error"),
        (b"", None, "parse_error"),
        (b"{", None, "parse_error"),
        (CUT, 7, "parse_error"),
        (CUT + b"} x", 7, "parse_error"),
        (CUT + b"}}", 7, "parse_error"),
        (CUT + b",}", 7, "parse_error"),
        (b'{"jsonrpc":"2.0","id":7', None, "parse_error"),
        (b'{"jsonrpc":"2.0","id":"ab', None, "parse_error"),
        (b"{'jsonrpc':'2.0','id':7}", None, "parse_error"),
        (b'\x00{"jsonrpc":"2.0","id":7,"method":"m"}', None, "parse_error"),
        (request(params=b'{"a":NaN}'), 7, "parse_error"),
        (request(params=b'{"a":Infinity}'), 7, "parse_error"),
        (request(params=b'{"a":01}'), 7, "parse_error"),
        (request(params=b'{"a":"x\ty"}'), 7, "parse_error"),
        (request(params=b'{"a":"x\ny"}'), 7, "parse_error"),
        (request(params=b'{"a":"\x00"}'), 7, "parse_error"),
        (request(params=rb'{"a":"\q"}'), 7, "parse_error"),
        # broken text
        (request(params=b'{"a":"\xff"}'), 7, "parse_error"),
        (request(params=b'{"\xff":1}'), 7, "parse_error"),
        (request(params=b'{"a":"\xed\xa0\x80"}'), 7, "parse_error"),
        (request(b'"\xff"'), None, "parse_error"),
        (b'{"x":"\xff","jsonrpc":"2.0","id":7,"method":"m"}', None, "parse_error"),
        (request(params=rb'{"a":"\ud800"}'), 7, "parse_error"),
        (request(params=rb'{"a":"\udc00 and more"}'), 7, "parse_error"),
        (request(params=rb'{"\ud800 and more":1}'), 7, "parse_error"),
        (request(rb'"\ud800 and more"'), None, "parse_error"),
        # too deep
        (request(params=b"[" * MAX_DEPTH + b"]" * MAX_DEPTH), 7, "parse_error"),
        (request(params=b"[" * 200_000), 7, "parse_error"),
        (b"[" * 200_000, None, "parse_error"),
        # an id is taken from before the damage only, and from the top level only
        (b'{"params":{"a":NaN},"id":7,"jsonrpc":"2.0"}', None, "parse_error"),
        (b'{"a":tru,"id":7}', None, "parse_error"),
        (b'{"id":7,"a":tru,"id":8}', 7, "parse_error"),
        (b'{"params":{"id":7},"method":"m"', None, "parse_error"),
        (b'{"params":{"id":7},"id":8,"method":"m"', 8, "parse_error"),
        (b'{"params":[{"x":"}]"}],"id":8,"method":', 8, "parse_error"),
        (b'{"p":"\\"}","id":8,"method":', 8, "parse_error"),
        (b'{"id":1,"params":{"p":"a\tb}, "id":7,"x":"y"},"z":0}', 1, "parse_error"),
        (b'[{"jsonrpc":"2.0","id":7,"method":"m"}', None, "parse_error"),
        (b'{"id":7,"id":{"a":1},"method":', None, "parse_error"),
        (b'{"id":true,"method":', None, "parse_error"),
        (b'{"id":%d,"method":' % 2**53, None, "parse_error"),
        (b'{"\\u0069d":7,"method":', 7, "parse_error"),
        (b'{"a":[tru],"id":7,"b":NaN}', None, "parse_error"),
        (b'{"a":[tru],"id":7,"b":"\xff"}', None, "parse_error"),
        (b'{"a":{"b" 1},"id":7,"c":' + b"[" * 200, None, "parse_error"),
        (b'{"a":[1}],"id":7,"c":' + b"[" * 200, None, "parse_error"),
        (b'{"a":"\\ud800","id":7,"c":' + b"[" * 200, None, "parse_error"),
        (b'{"a":%b%b,"id":7}' % (b"[" * 2000, b"]" * 2000), 7, "parse_error"),
        (b'{"a":%btru%b,"id":7}' % (b"[" * 2000, b"]" * 2000), None, "parse_error"),
        # whatever looks like an answer gets no id back: it is ours, not theirs
        (b'{"jsonrpc":"2.0","id":7,"result":{"a":', None, "parse_error"),
        (b'{"jsonrpc":"2.0","id":7,"error":{"code":1', None, "parse_error"),
        (b'{"jsonrpc":"2.0","result":1,"id":7,', None, "parse_error"),
        (b'{"jsonrpc":"2.0","\\u0072esult":1,"id":7,', None, "parse_error"),
        # not JSON-RPC 2.0
        (b"5", None, "malformed_message"),
        (b'"x"', None, "malformed_message"),
        (b"null", None, "malformed_message"),
        (b"{}", None, "malformed_message"),
        (b'{"id":7,"method":"m"}', 7, "malformed_message"),
        (b'{"jsonrpc":"1.0","id":7,"method":"m"}', 7, "malformed_message"),
        (b'{"jsonrpc":2.0,"id":7,"method":"m"}', 7, "malformed_message"),
        (b'{"jsonrpc":2.0,"\\u0069d":7,"method":"m"}', 7, "malformed_message"),
        (b'{"jsonrpc":2.0,"x":"%b","id":7}' % (b"x" * PREFIX_BYTES), 7, "malformed_message"),
        (b'{"\\u0072esult":0,"id":7,"method":"m"}', None, "malformed_message"),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', 7, "malformed_message"),
        (b'{"jsonrpc":"2.0","id":7,"method":null}', 7, "malformed_message"),
        (b'{"jsonrpc":"2.0","id":7}', 7, "malformed_message"),
        (b'{"jsonrpc":"2.0","result":1}', None, "malformed_message"),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","result":1}', None, "malformed_message"),
        (b"[]", None, "malformed_message"),
        (b"[" + b"1," * MAX_BATCH + b"1]", None, "malformed_message"),
    ],
)
def test_hostile_frames_get_one_error_each(
    frame: bytes, expected_id: int | None, kind: str
) -> None:
    assert_violation(decode(frame), expected_id, kind)


def assert_violation(message: object, expected_id: int | str | None, kind: str) -> None:
    assert isinstance(message, Violation)
    assert (message.id, message.error.kind) == (expected_id, kind)


@pytest.mark.parametrize(
    "params",
    [
        DEEP,
        b'{"jsonrpc":"1.0","method":"x","id":9,"result":1}',
        b'{"a":1e400}',
        b'{"a":%d}' % 2**70,
        b'{"a":1,"a":2}',
        b'"\xc2\x85\xe2\x80\xa8\xe2\x80\xa9"',
        b"[]",
    ],
)
def test_parameters_stay_as_the_client_wrote_them(params: bytes) -> None:
    assert decode(request(params=params)) == Request(7, "m", params)


def test_parameters_that_are_null_count_as_none() -> None:
    assert decode(request(params=b"null")) == Request(7, "m", b"{}")


def test_a_null_error_beside_a_result_is_no_error() -> None:
    frame = b'{"jsonrpc":"2.0","id":7,"result":{"text":"x"},"error":null}'
    assert decode(frame) == Response(7, b'{"text":"x"}', None)


@pytest.mark.parametrize("error", [b"5", b'{"code":1.5,"message":"x"}', b'{"code":1}'])
def test_a_malformed_error_still_ends_the_call_that_it_answers(error: bytes) -> None:
    decoded = decode(b'{"jsonrpc":"2.0","id":7,"error":%b}' % error)
    assert isinstance(decoded, Response)
    assert decoded.error is not None
    assert decoded.error.message.startswith("the error object is malformed")


def test_unknown_members_are_ignored_and_absent_params_are_an_empty_object() -> None:
    frame = b' {"x":[],"method":"m","id":1,"jsonrpc":"2.0"}\r'
    assert decode(frame) == Request(1, "m", b"{}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"jsonrpc":"2.0","method":0,"method":"m"}', Notification("m", b"{}")),
        (b'{"jsonrpc":1,"jsonrpc":"2.0","id":[],"id":7,"method":"m"}', Request(7, "m", b"{}")),
    ],
)
def test_the_last_of_two_equal_keys_counts_also_where_the_first_is_wrong(
    text: bytes, message: Request | Notification
) -> None:
    assert decode(text) == message


def test_the_last_of_two_equal_keys_counts() -> None:
    assert decode(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}') == Request(2, "m", b"{}")


def test_a_message_without_an_id_is_a_notification() -> None:
    assert decode(b'{"jsonrpc":"2.0","method":"m"}') == Notification("m", b"{}")


def test_responses_are_told_from_requests() -> None:
    assert decode(b'{"jsonrpc":"2.0","id":"a","result":null}') == Response("a", b"null", None)
    answer = decode(b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"no","data":[1]}}')
    assert isinstance(answer, Response)
    assert answer.id is None
    assert answer.error is not None
    assert (answer.error.code, answer.error.message, answer.error.data) == (1, "no", [1])


def test_each_entry_of_a_batch_is_judged_on_its_own() -> None:
    batch = decode(b" [" + b",".join([request(), b"1", b"[]", b"{}", request(b"null")]) + b"]")
    assert isinstance(batch, Batch)
    assert batch.messages[0] == Request(7, "m", b"{}")
    for message in batch.messages[1:]:
        assert_violation(message, None, "malformed_message")


def test_a_batch_holds_up_to_its_limit() -> None:
    batch = decode(b"[" + b",".join([request()] * MAX_BATCH) + b"]")
    assert isinstance(batch, Batch)
    assert len(batch.messages) == MAX_BATCH


fragments = st.sampled_from(
    rb"""{ } [ ] , : " \ \u \ud800 \udc00 1e999 - 0 . null true NaN "a":"b" "jsonrpc":"2.0" "id":7
    "method":"m" "params": "result": "error": {"jsonrpc":"2.0","id":7,"method":"m","params":
    """.split()
) | st.sampled_from([b"\xff", b"\xc2\x85", b"\xe2\x80\xa8", b"\n", b"\r", b"\t", b" ", b"\x00"])


@given(st.lists(fragments | st.binary(max_size=4), max_size=24).map(b"".join))
def test_decoding_never_raises_and_what_is_let_in_can_be_passed_on(frame: bytes) -> None:
    decoded = decode(frame)
    for message in decoded.messages if isinstance(decoded, Batch) else [decoded]:
        if isinstance(message, Request | Notification):
            flat = compact(message.params)
            assert b"\n" not in flat
            assert b"\r" not in flat
            msgspec.json.format(write_request(1, message.method, flat))


@given(st.lists(fragments, max_size=10).map(b"".join))
def test_an_id_that_is_recovered_is_one_of_the_top_level(tail: bytes) -> None:
    message = decode(b'{"id":"mine","x":[{"id":"inner"},' + tail)
    if isinstance(message, Violation):
        assert message.id in ("mine", 7, None)


def test_pretty_printed_parameters_lose_only_their_layout() -> None:
    assert compact(b'{\r\n  "a": [1,\n 2.50],\n "b": "x\\n"\n}') == b'{"a":[1,2.50],"b":"x\\n"}'
    assert compact(b'{ "a": 1 }') == b'{ "a": 1 }'


def test_line_breaks_of_other_alphabets_are_escaped_and_keep_their_value() -> None:
    text = "a\u2028b\u2029c\u0085d é 😀"
    escaped = escape_line_breaks(msgspec.json.encode(text))
    assert msgspec.json.decode(escaped) == text
    assert not {"\u2028", "\u2029", "\u0085"} & set(escaped.decode())
    assert escape_line_breaks(b'"plain"') == b'"plain"'


def test_what_is_written_is_read_back() -> None:
    assert decode(write_request("car-1", "m", b"[1]")) == Request("car-1", "m", b"[1]")
    assert decode(write_notification("n", b"{}")) == Notification("n", b"{}")
    assert decode(write_result(0, b"[]")) == Response(0, b"[]", None)
    answer = decode(write_error(None, CarError("internal", "x", model="a/b:c")))
    assert isinstance(answer, Response)
    assert answer.error is not None
    assert answer.error.code == -32603
    assert answer.error.data == {"kind": "internal", "retryable": False, "model": "a/b:c"}
