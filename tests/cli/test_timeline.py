"""What people see of a request, whatever was said in it."""

import pytest

from car_rpc.cli.timeline import LINE_CHARS, line, shortened, timeline
from car_rpc.wire.log import LogEvent


def logged(seq, kind, data, at_ms=0, attempt=None):
    numbered = {} if attempt is None else {"attempt": attempt}
    return LogEvent(
        seq=seq,
        ts=f"2026-01-31T08:30:00.{at_ms:03}Z",
        session_id="ses_1",
        trace_id="tr_1",
        conversation_id="talk",
        type=kind,
        data=data,
        **numbered,
    )


STORY = [
    logged(1, "request", {"request_id": 1, "method": "generate", "params": {"prompt": "tell me"}}),
    logged(2, "route", {"model": "a/b:1", "reason": "best", "fallbacks": ["c/d:1"]}, 1),
    logged(3, "attempt", {"model": "a/b:1"}, 2, 1),
    logged(
        4,
        "deltas",
        {
            "events": [
                {"type": "reasoning_delta", "text": "hm"},
                {"type": "text_delta", "text": "Hel"},
                {"type": "text_delta", "text": "lo\n"},
                {"type": "usage"},
            ]
        },
        40,
        1,
    ),
    logged(5, "interruption", {"cause": "idle_stall", "bytes_received": 5}, 50, 1),
    logged(6, "recovery", {"cause": "idle_stall", "plan": "continue"}, 60, 1),
    logged(7, "fallback", {"model": "a/b:1", "kind": "timeout"}, 70, 1),
    logged(
        8,
        "completion",
        {
            "outcome": "success",
            "result": {"model_used": "c/d:1", "latency_ms": 99.7, "stop_reason": "end_turn"},
        },
        100,
        2,
    ),
]


def test_a_request_reads_from_its_beginning_to_its_end() -> None:
    assert list(timeline(STORY)) == [
        "tr_1  generate  ses_1  conversation talk  2026-01-31T08:30:00.000Z",
        '        0 ms     request          "tell me"',
        "        1 ms     route            a/b:1 (best), else c/d:1",
        "        2 ms  #1 attempt          a/b:1",
        '       40 ms  #1 deltas           reasons "hm", "Hello\\n", usage',
        "       50 ms  #1 interruption     idle_stall after 5 bytes",
        "       60 ms  #1 recovery         continue because of idle_stall",
        "       70 ms  #1 fallback         a/b:1 failed: timeout",
        "      100 ms  #2 completion       success, end_turn, c/d:1, 100 ms",
    ]


def test_what_has_no_end_or_failed_says_so() -> None:
    failed = {"outcome": "failed", "kind": "timeout", "error": {"message": "timeout: too slow"}}
    *_, last = timeline([*STORY[:3], logged(4, "completion", failed)])
    assert last.endswith("failed: timeout: too slow")
    *_, last = timeline(STORY[:3])
    assert "runs still" in last
    assert list(timeline([])) == []


@pytest.mark.parametrize("member", ["request", "deltas", "completion"])
def test_what_was_not_kept_is_no_trouble(member: str) -> None:
    size = {"bytes": 12}
    data = {"params": size, "events": size, "outcome": "success", "result": size, "method": "x"}
    assert len(list(timeline([logged(1, member, data)]))) > 1


def test_nothing_that_was_said_reaches_the_terminal_as_a_command() -> None:
    evil = "\x1b[2J\r\n\u202e\x9b31m\x00"
    params = {"prompt": evil}
    story = [logged(1, "request", {"method": evil, "params": params}), logged(2, evil, {})]
    for shown in [*timeline(story), line(story[1]), shortened(evil)]:
        assert shown.isprintable(), repr(shown)


def test_a_line_is_never_wider_than_the_terminal() -> None:
    event = logged(1, "t", {"text": "\x1b" * 10_000})
    assert len(line(event)) == LINE_CHARS
    assert line(event).endswith("…")
