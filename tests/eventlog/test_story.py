"""A story that the checker takes is whole; every way to spoil one is found."""

from itertools import count

import pytest

from car_rpc.eventlog.story import problems
from car_rpc.wire.log import LogEvent

RESULT = {"text": "Hello"}


def told(*events, session_id="ses_1"):
    seq = count(1)
    return [
        LogEvent(
            seq=next(seq),
            ts="2026-01-31T08:30:00.000Z",
            session_id=session_id,
            trace_id="tr_1",
            type=kind,
            data=data,
            **({"attempt": attempt} if attempt else {}),
        )
        for kind, data, attempt in events
    ]


def deltas(*events):
    return {"events": [*events], "at_ms": [0 for _ in events]}


def text(*parts):
    return deltas(*({"type": "text_delta", "text": part} for part in parts))


ASKED = {"request_id": 1, "method": "generate", "params": {}, "privacy": "redacted"}
REQUEST = ("request", ASKED, 0)
ROUTE = ("route", {"model": "a", "reason": "b", "fallbacks": []}, 0)
INTERRUPTION = ("interruption", {"cause": "idle_stall", "bytes_received": 3}, 1)
END = ("completion", {"outcome": "success", "result": RESULT}, 2)
GOOD = [
    REQUEST,
    ROUTE,
    ("attempt", {"model": "a"}, 1),
    ("deltas", text("Hel"), 1),
    INTERRUPTION,
    ("recovery", {"cause": "idle_stall", "plan": "continue"}, 1),
    ("attempt", {"model": "a"}, 2),
    ("deltas", text("l", "o"), 2),
    END,
]
FAILED = ("completion", {"outcome": "failed", "kind": "timeout", "error": {}}, 0)


@pytest.mark.parametrize(
    "events",
    [
        GOOD,
        GOOD[:4],  # its process was killed
        [REQUEST, FAILED],
        [REQUEST, ROUTE, ("resumed", {"resumed_trace_id": "tr_0"}, 0), FAILED],
        [
            *GOOD[:4],
            ("deltas", deltas({"type": "stream_reset"}), 1),
            ("deltas", text("Hello"), 1),
            (*END[:2], 1),
        ],
        [
            REQUEST,
            ROUTE,
            ("attempt", {"model": "a"}, 1),
            ("deltas", {"events": {"bytes": 9}, "at_ms": [0]}, 1),
            ("completion", {"outcome": "success", "result": {"bytes": 9}}, 1),
        ],
        [
            ("request", {**ASKED, "method": "embed"}, 0),
            ("completion", {"outcome": "success", "latency_ms": 1.0, "result_bytes": 9}, 0),
        ],
        [REQUEST, ("of_a_later_version", {}, 0), FAILED],
    ],
)
def test_a_whole_story_has_no_problems(events):
    assert list(problems(told(*events))) == []


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([], "does not begin"),
        (GOOD[1:], "does not begin"),
        ([*GOOD, END], "after the end"),
        ([REQUEST, *GOOD], "second `request`"),
        ([REQUEST, ("attempt", {"model": "a"}, 1), FAILED], "before the route"),
        ([REQUEST, ROUTE, (*INTERRUPTION[:2], 0)], "before any attempt"),
        ([*GOOD[:2], ("attempt", {"model": "a"}, 2)], "is of attempt 2, which is 1"),
        ([*GOOD[:3], ("deltas", text("x"), 0)], "is of attempt 0, which is 1"),
        ([*GOOD[:7], END], "the deltas say"),
        ([("request", {"request_id": 1, "method": "generate"}, 0)], "has no `params`"),
        ([REQUEST, ("completion", {"outcome": "unknown"}, 0)], "outcome is 'unknown'"),
        ([REQUEST, ("completion", {"outcome": "failed", "kind": "timeout"}, 0)], "no error"),
        ([REQUEST, ("completion", {"outcome": "success", "error": {}}, 0)], "has an error"),
        ([REQUEST, ("completion", {"outcome": "success"}, 0)], "has no result"),
    ],
)
def test_a_spoiled_story_is_found(events, problem):
    assert any(problem in each for each in problems(told(*events)))


def test_events_of_another_session_or_out_of_order_are_found():
    mine, others = told(*GOOD), told(*GOOD, session_id="ses_2")
    assert any("another session" in each for each in problems([*mine[:4], *others[4:]]))
    assert any("stands behind" in each for each in problems([*mine[:3], mine[3], mine[2]]))
