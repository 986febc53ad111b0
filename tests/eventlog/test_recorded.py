"""What a request asked and got can be read from its story, or it is said why not."""

import msgspec
import pytest
from msgspec import structs

from car_rpc.errors import CarError
from car_rpc.eventlog.recorded import RecordedEvent, recorded
from car_rpc.wire.base import decode_object
from tests.eventlog.test_story import ASKED, ROUTE, deltas, told

TEXT = [{"type": "text_delta", "text": text} for text in ("Hel", "lo")]
RESULT = {"text": "Hello", "tool_calls": [], "model_used": "a"}
ERROR = {"code": 1004, "message": "timeout: x", "data": {"kind": "timeout", "retryable": True}}
FAILED = ("completion", {"outcome": "failed", "kind": "timeout", "error": ERROR}, 1)
BEGUN = [("request", ASKED, 0), ROUTE, ("attempt", {"model": "a"}, 1)]
GOOD = [
    *BEGUN,
    ("deltas", {"events": TEXT, "at_ms": [5, 41]}, 1),
    ("completion", {"outcome": "success", "result": RESULT}, 1),
]


def at(story, *seconds):
    """The story, with the time of each event; the rest happens with the last one."""
    seconds = [*seconds, *[seconds[-1]] * (len(story) - len(seconds))]
    return [
        structs.replace(event, ts=f"2026-01-31T08:30:{second:06.3f}Z")
        for event, second in zip(story, seconds, strict=True)
    ]


def failure(story):
    with pytest.raises(CarError) as caught:
        recorded("tr_1", story)
    return caught.value


def test_the_stream_of_a_request_is_read_event_by_event():
    found = recorded("tr_1", at(told(*GOOD), 0, 0, 0.004, 0.06))
    assert found.events == [
        RecordedEvent(4, {"type": "attempt", "attempt": 1, "trace_id": "tr_1", "model": "a"}),
        RecordedEvent(5, TEXT[0]),
        RecordedEvent(41, TEXT[1]),
        RecordedEvent(60, {"type": "done", "text": "Hello", "tool_calls": []}),
    ]
    assert (found.method, found.params) == ("generate", {})
    assert (found.answered().result, found.answered_ms) == (RESULT, 60)
    assert not found.redacted


def test_a_failure_ends_the_stream_and_is_the_answer():
    found = recorded("tr_1", told(*GOOD[:-1], FAILED))
    assert found.answered().error == ERROR
    assert found.events[-1].event == {"type": "error", "kind": "timeout", "message": "timeout: x"}


def test_further_attempts_stand_where_they_began_and_say_why():
    again = ("attempt", {"model": "b", "reason": "fallback: timeout"}, 2)
    found = recorded("tr_1", told(*GOOD[:-1], again, (*GOOD[-1][:2], 2)))
    event = found.events[3].event
    assert (event["attempt"], event["model"], event["reason"]) == (2, "b", "fallback: timeout")


def test_times_never_go_back_when_the_clock_was_set():
    found = recorded("tr_1", at(told(*GOOD), 30, 30, 10, 10))
    assert [event.at_ms for event in found.events] == [0, 5, 41, 41]


def test_other_methods_have_an_answer_and_no_stream():
    result = {"embeddings": [[1.0]]}
    embed = ("request", {**ASKED, "method": "embed", "params": {"texts": ["a"]}}, 0)
    found = recorded(
        "tr_1", told(embed, ("completion", {"outcome": "success", "result": result}, 0))
    )
    assert (found.method, found.params, found.events) == ("embed", {"texts": ["a"]}, [])
    assert found.answered().result == result


def test_media_whose_files_are_gone_are_told():
    blobs = [{"at": "/params/audio_b64", "sha256": "9f86", "bytes": 4}]
    assert recorded("tr_1", told(("request", {**ASKED, "blobs": blobs}, 0))).lacks_media
    assert not recorded("tr_1", told(("request", ASKED, 0))).lacks_media


def test_numbers_stay_as_they_were_written():
    params = b'{"seed":12345678901234567890123,"x":1.50}'
    story = told(("request", {**ASKED, "params": decode_object(params)}, 0), (*FAILED[:2], 0))
    assert msgspec.json.encode(recorded("tr_1", story).params) == params


def test_what_was_replaced_is_flagged():
    flagged = ("deltas", {**GOOD[3][1], "redacted": True}, 1)
    assert recorded("tr_1", told(*GOOD[:3], flagged, GOOD[-1])).redacted


def test_a_request_without_an_answer_is_read_and_says_that_it_has_none():
    found = recorded("tr_1", told(*GOOD[:-1]))
    assert [event.event for event in found.events[1:]] == TEXT
    with pytest.raises(CarError, match="has no answer") as caught:
        found.answered()
    assert caught.value.kind == "not_replayable"


def test_a_trace_that_is_not_there_is_not_found():
    assert failure([]).kind == "not_found"


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([("request", {**ASKED, "privacy": "metadata"}, 0), (*FAILED[:2], 0)], "only metadata"),
        (GOOD[1:], "does not begin with `request`"),  # the rest was deleted for its age
        ([*BEGUN, ("deltas", deltas(TEXT[0]), 1), GOOD[-1]], "the deltas say"),
        ([*GOOD[:-1], ("completion", {"outcome": "success", "result_bytes": 9}, 1)], "too long"),
        ([*BEGUN, ("deltas", {"events": TEXT, "at_ms": [1]}, 1), FAILED], "malformed"),
        ([*BEGUN, ("deltas", {"events": 1, "at_ms": 1}, 1), FAILED], "malformed"),
        ([*BEGUN, ("completion", {**FAILED[1], "error": {"code": 1}}, 1)], "malformed"),
    ],
)
def test_what_is_not_whole_is_not_replayable(events, reason):
    error = failure(told(*events))
    assert error.kind == "not_replayable"
    assert reason in error.message
    assert error.extra["trace_id"] == "tr_1"
