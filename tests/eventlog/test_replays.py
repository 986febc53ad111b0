"""The checker of the suite's own logs finds what would be shown otherwise than it was said."""

import copy

import pytest

from tests.eventlog.test_recorded import GOOD, RESULT, TEXT
from tests.eventlog.test_story import told
from tests.replays import check_replays, stories_of

ANSWER = {**RESULT, "trace_id": "tr_1"}
STORY = told(*GOOD[:-1], (GOOD[-1][0], {"outcome": "success", "result": ANSWER}, 1))
ATTEMPT = {"type": "attempt", "attempt": 1, "trace_id": "tr_1", "model": "a"}
EVENTS = [ATTEMPT, *TEXT, {"type": "done", "text": "Hello", "tool_calls": []}]
SAID = [
    *({"method": "generate.event", "params": {"request_id": 1, "event": e}} for e in EVENTS),
    {"id": 1, "result": ANSWER},
]


def test_an_answer_and_its_stream_are_both_compared():
    assert check_replays(stories_of(STORY), SAID) == 2
    assert check_replays(stories_of(STORY), [SAID]) == 2, "also as a batch"
    assert check_replays(stories_of(STORY), []) == 0


@pytest.mark.parametrize("spoiled", range(len(SAID)))
def test_whatever_is_otherwise_is_found(spoiled):
    said = copy.deepcopy(SAID)
    message = said[spoiled]
    (message.get("result") or message["params"]["event"])["text"] = "otherwise"
    with pytest.raises(AssertionError):
        check_replays(stories_of(STORY), said)


def test_an_event_that_is_missing_is_found():
    with pytest.raises(AssertionError):
        check_replays(stories_of(STORY), SAID[:1] + SAID[2:])
