from car_rpc.cli.replay import MAX_VALUE_CHARS, report
from car_rpc.wire.replay import Difference, Divergence, ReplayRunResult


def test_a_streamed_answer_is_not_said_twice():
    result = ReplayRunResult(method="generate", result={"text": "Hello"})
    assert [*report(result, was_streamed=True)] == []


def test_a_result_without_a_stream_is_shown_and_a_replacement_is_told():
    result = ReplayRunResult(method="embed", result={"dimensions": 2}, redacted=True)
    assert [*report(result, was_streamed=False)] == [
        '{\n  "dimensions": 2\n}',
        "(secrets were replaced before this was written)",
    ]


def test_differences_are_shown_value_by_value_and_long_ones_in_part():
    diff = [
        Difference(path="$.text", recorded="a" * 1000, now="b"),
        Difference(path="$.reasoning", now="hm"),
    ]
    lines = [*report(ReplayRunResult(method="generate", result=1, diff=diff), was_streamed=True)]
    assert lines[:2] == ["differences: 2", "$.text"]
    assert len(lines[2]) == MAX_VALUE_CHARS + len("  - …")
    assert lines[3:] == ['  + "b"', "$.reasoning", "  - (not there)", '  + "hm"']


def test_a_decision_that_is_otherwise_is_shown_with_its_event():
    diverged = Divergence(at=7, recorded={"plan": "a"}, now=None)
    result = ReplayRunResult(method="generate", diverged=diverged)
    assert [*report(result, was_streamed=False)] == [
        "event 7 is decided otherwise",
        '  - {"plan":"a"}',
        "  + null",
    ]
    same = ReplayRunResult(method="generate", diverged=None)
    assert [*report(same, was_streamed=False)] == ["all is decided as it was"]
