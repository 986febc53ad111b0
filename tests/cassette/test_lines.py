"""The file: what is written is what is read, and is an export of the event log."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.cassette.lines import EVENTS_PER_LINE, head_line, read
from car_rpc.errors import KINDS, CarError
from car_rpc.eventlog.imported import import_lines
from car_rpc.eventlog.shapes import KNOWN
from car_rpc.eventlog.store import Store, select
from car_rpc.eventlog.story import problems
from car_rpc.wire.events import (
    Attempt,
    Done,
    ErrorEvent,
    Recovery,
    Stop,
    StreamEvent,
    StreamReset,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)
from car_rpc.wire.log import EventlogQueryParams
from tests.cassette.conftest import NOON, Recorder, result

KEY = "sk-" + "a1B2" * 10
ATTEMPT = Attempt(attempt=1, trace_id="tr_1", model="a/b:1")

texts = st.text("a .\n\u2028\N{GRINNING FACE}", max_size=6)
#: A secret in two deltas, cut anywhere.
secrets = st.integers(0, len(KEY)).map(lambda cut: [f" {KEY[:cut]}", f"{KEY[cut:]} "])
deltas = st.lists(
    texts.map(lambda text: [TextDelta(text=text)])
    | secrets.map(lambda parts: [TextDelta(text=part) for part in parts])
    | st.just([StreamReset(reason="x")]),
    max_size=8,
).map(lambda parts: [event for part in parts for event in part])


def answer_of(events: list[Any]) -> dict[str, Any]:
    """The result that these events add up to."""
    text = ""
    for event in events:
        text = "" if isinstance(event, StreamReset) else text + getattr(event, "text", "")
    return result(text)


def timed(events: list[StreamEvent]) -> list[tuple[float, StreamEvent]]:
    return [(float(number), event) for number, event in enumerate(events)]


def told(interaction: Any) -> list[StreamEvent]:
    return [msgspec.convert(event, StreamEvent) for _, event in interaction.recorded.events]


@given(deltas)
def test_a_stream_comes_back_with_its_times_and_without_secrets(events: list[Any]) -> None:
    record = Recorder()
    answer = answer_of(events)
    stream = [ATTEMPT, *events, Done(text=answer["text"], tool_calls=[])]
    interaction = record("generate", {"prompt": "a", "stream": True}, answer, timed(stream), 999.0)
    assert KEY not in b"\n".join(interaction.lines).decode()

    found = told(interaction)
    assert [type(event) for event in found] == [type(event) for event in stream]
    assert [at for at, _ in interaction.recorded.events] == [
        *map(float, range(len(events) + 1)),
        999,
    ]
    recorded = interaction.recorded.answered().result
    assert answer_of(found[1:-1])["text"] == recorded["text"] == found[-1].text  # type: ignore[union-attr]  # it is `done`
    if not interaction.recorded.redacted:
        assert found == stream
        assert recorded == answer


@given(st.lists(st.sampled_from(["generate", "embed", "models.list"]), max_size=8), st.data())
def test_a_file_comes_back_as_it_was(methods: list[str], data: Any) -> None:
    record = Recorder()
    interactions = [
        record(method, {"prompt": data.draw(texts)}, {"text": "", "tool_calls": []})
        for method in methods
    ]
    head = head_line("ses_1", NOON, {"version": "1"})
    lines = [head, *(line for each in interactions for line in each.lines)]
    written = read(lines, "c.jsonl", KNOWN)
    assert written.interactions == interactions
    assert written.head == (head, {"version": "1"})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_error_comes_back_as_it_was(record: Any, kind: str) -> None:
    error = CarError(kind, "a detail: {}", path="$.a", retryable=True, partial={"text": "so far"})
    ended = ErrorEvent(kind=kind, message=error.message)
    params = {"prompt": "a", "stream": True}
    interaction = record("generate", params, error, timed([ATTEMPT, ended]))
    found = interaction.answer
    assert (found.code, found.message) == (error.code, error.message)
    assert [*found.data.items()] == [*error.data.items()]
    assert told(interaction) == [ATTEMPT, ended]


def test_numbers_come_back_to_the_letter(record: Any) -> None:
    raw = b'{"embeddings":[[0.1,1.0,1e-7,123456789012345678901234567890]],"dimensions":4}'
    interaction = record("embed", {"texts": ["a"]}, msgspec.Raw(raw))
    assert interaction.answer == raw


def test_a_long_stream_is_several_lines(record: Any) -> None:
    events = timed([TextDelta(text="x")] * (EVENTS_PER_LINE + 1))
    answer = answer_of([event for _, event in events])
    interaction = record("generate", {"prompt": "a", "stream": True}, answer, events)
    types = [json.loads(line)["type"] for line in interaction.lines]
    assert types == ["request", "deltas", "deltas", "completion"]
    assert [json.loads(line)["seq"] for line in interaction.lines] == [1, 2, 3, 4]


def test_recoveries_come_back_in_their_place(record: Any) -> None:
    events = [
        ATTEMPT,
        TextDelta(text="one "),
        Recovery(cause="connection_reset", plan="text_continuation", attempt=2),
        Attempt(attempt=2, trace_id="tr_1", model="a/b:1", reason="recovery"),
        TextDelta(text="two"),
        Stop(reason="end_turn"),
        Done(text="one two", tool_calls=[]),
    ]
    answer = result("one two")
    interaction = record("generate", {"prompt": "a", "stream": True}, answer, timed(events))
    assert told(interaction) == events


def test_a_cassette_is_taken_into_a_log_and_its_stories_are_good(
    record: Any, tmp_path: Path
) -> None:
    answer = result("hi")
    call = {"id": "c", "name": "f", "arguments": {"a": 1}}
    called: list[tuple[float, StreamEvent]] = [
        (1.0, ATTEMPT),
        (2.0, ToolCallStart(index=0, id="c", name="f")),
        (3.0, ToolCallDelta(index=0, id="c", arguments_delta='{"a":1}')),
    ]
    interactions = [
        record(
            "generate", {"prompt": "b", "stream": True}, {**result(), "tool_calls": [call]}, called
        ),
        record("generate", {"prompt": "b"}, {**result(), "tool_calls": [call]}),
        record("generate", {"prompt": "a", "stream": True}, answer, [(1.0, TextDelta(text="hi"))]),
        record("models.list", {}, {"models": []}),
        record("embed", {"texts": []}, CarError("invalid_params", "no texts", path="$.texts")),
    ]
    lines = [head_line("ses_1", NOON, {"version": "1"})]
    lines += [line for each in interactions for line in each.lines]
    path = tmp_path / "car.db"
    store = Store.open(path)
    assert import_lines(store, lines) == len(lines)
    store.close()
    for each in interactions:
        wanted = EventlogQueryParams(trace_id=each.recorded.trace_id)
        story = select(path, wanted).events
        assert [*problems(story)] == []
        assert len(story) == len(each.lines)


def test_an_export_of_the_log_is_a_cassette() -> None:
    """Its requests may be interleaved, and those without an answer are left out."""

    def line(seq: int, trace_id: str | None, type_: str, **data: Any) -> bytes:
        ts = (NOON + timedelta(milliseconds=seq)).isoformat().replace("+00:00", "Z")
        event = {"seq": seq, "ts": ts, "session_id": "ses_9", "trace_id": trace_id}
        attempt = {"attempt": 1} if type_ in ("attempt", "deltas", "completion") else {}
        return msgspec.json.encode({**event, **attempt, "type": type_, "data": data})

    def request(prompt: str) -> dict[str, Any]:
        params = {"prompt": prompt, "client_ref": "x", "stream": True}
        return {"request_id": 1, "method": "generate", "params": params, "privacy": "redacted"}

    route = {"model": "a/b:1", "reason": "explicit model", "fallbacks": []}
    event = {"type": "text_delta", "text": "hi"}
    lines = [
        line(1, None, "session_start", version="0"),
        line(2, "tr_a", "request", **request("one")),
        line(3, "tr_b", "request", **request("killed")),
        line(4, "tr_a", "route", **route),
        line(5, "tr_a", "attempt", model="a/b:1"),
        b"",
        line(6, "tr_a", "deltas", events=[event], at_ms=[4]),
        line(7, "tr_a", "completion", outcome="success", result=result("hi")),
    ]
    (interaction,) = read(lines, "export.jsonl", KNOWN).interactions
    assert interaction.asked.params == {"prompt": "one", "stream": True}
    assert [event["type"] for _, event in interaction.recorded.events] == [
        "attempt",
        "text_delta",
        "done",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line[:-9], "line 1 is no event"),
        (lambda _: b'{"a":1}', "line 1 is no event"),
        (lambda _: b"\xff", "line 1 is no event"),
        (lambda line: line.replace(b'"generate"', b'"dance"'), "there is no method 'dance'"),
        (lambda line: line.replace(b'"redacted"', b'"metadata"'), "only metadata were kept"),
    ],
)
def test_a_file_that_is_no_cassette_is_refused(record: Any, change: Any, said: str) -> None:
    first, *rest = record("generate", {"prompt": "a"}, result()).lines
    with pytest.raises(CarError, match=r"c\.jsonl") as caught:
        read([change(first), *rest], "c.jsonl", KNOWN)
    assert caught.value.kind == "io_error"
    assert said in caught.value.message


def test_an_error_of_a_kind_that_a_newer_version_knows_is_refused(record: Any) -> None:
    request, completion = record("embed", {"texts": []}, CarError("timeout", "x")).lines
    with pytest.raises(CarError, match="unknown kind"):
        read([request, completion.replace(b'"timeout"', b'"too_sunny"')], "c.jsonl", KNOWN)


def test_the_same_answer_at_another_time_is_the_same(record: Any) -> None:
    def again(text: str, ms: float, trace_id: str) -> Any:
        events: Any = [(ms, ATTEMPT), (2 * ms, TextDelta(text=text))]
        answer = {**result(text), "trace_id": trace_id, "latency_ms": ms}
        return record("generate", {"prompt": "a", "stream": True}, answer, events)

    assert again("hi", 1.0, "tr_1").says_the_same(again("hi", 7.0, "tr_2"))
    assert not again("hi", 1.0, "tr_1").says_the_same(again("ho", 1.0, "tr_1"))
