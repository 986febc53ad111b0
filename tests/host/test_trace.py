"""A trace is a dialogue: what was said, in order, with variables for what the core makes up."""

import base64
import io
import json
from typing import Any

from car_rpc.host.trace import Trace


class File(io.BytesIO):
    """Keeps what was written when it is closed."""

    text = b""

    def close(self) -> None:
        self.text = self.getvalue() or self.text
        super().close()


class Recorded:
    """A trace with a clock that stands still, and its lines so far."""

    def __init__(self) -> None:
        self.file = File()
        self.trace = Trace(self.file, "t", lambda: 5.0, 1000, None)

    def client(self, *messages: Any) -> None:
        for message in messages:
            self.trace.received(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def core(self, *messages: Any) -> None:
        for message in messages:
            self.trace.sent(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    @property
    def steps(self) -> list[dict[str, Any]]:
        lines = (self.file.text or self.file.getvalue()).splitlines()
        return [json.loads(line) for line in lines][1:]


def test_the_first_line_is_the_head_of_a_dialogue() -> None:
    head = json.loads(Recorded().file.getvalue().splitlines()[0])

    assert head["dialogue"] == "t"
    assert head["handshake"] is False


def test_ids_become_variables_that_keep_what_they_were() -> None:
    recorded = Recorded()
    recorded.client({"id": "a", "method": "ping", "params": {}})
    recorded.core({"id": "a", "result": {}})

    assert recorded.steps == [
        {
            "client": {"id": "$request_1", "method": "ping", "params": {}},
            "at_ms": 0.0,
            "examples": {"request_1": "a"},
        },
        {"core": {"id": "$request_1", "result": {}}, "at_ms": 0.0},
    ]


def test_a_run_of_the_core_has_ids_of_its_own_and_names_its_parent() -> None:
    recorded = Recorded()
    recorded.client({"id": 1, "method": "generate", "params": {"prompt": "x"}})
    recorded.core(
        {"id": 1, "method": "runner.run", "params": {"call_id": "call_9", "parent_id": 1}},
        {"method": "$/cancelRequest", "params": {"id": 1}},
    )
    recorded.client(
        {"id": 1, "error": {"code": -32800, "message": "cancelled"}},
        {"method": "$/cancelRequest", "params": {"id": 1}},
    )

    run, cancel_by_core, answer, cancel_by_client = recorded.steps[1:]
    assert run["core"]["id"] == "$run_1"
    assert run["core"]["params"] == {"call_id": "$call_id_1", "parent_id": "$request_1"}
    assert cancel_by_core["core"]["params"] == {"id": "$run_1"}
    assert answer["client"]["id"] == "$run_1"
    assert cancel_by_client["client"]["params"] == {"id": "$request_1"}


def test_what_differs_from_run_to_run_is_a_variable_and_what_is_not_stays() -> None:
    recorded = Recorded()
    result = {"text": "hi", "trace_id": "tr_1", "latency_ms": 3.5, "usage": None}
    recorded.core({"id": 1, "result": result}, {"id": 2, "result": result})

    first, second = (step["core"]["result"] for step in recorded.steps)
    assert first == {**result, "trace_id": "$trace_id_1", "latency_ms": "$latency_ms_1"}
    assert second == {**result, "trace_id": "$trace_id_1", "latency_ms": "$latency_ms_2"}


def test_secrets_are_replaced_and_texts_that_look_like_variables_are_marked() -> None:
    recorded = Recorded()
    recorded.client(
        {
            "id": 1,
            "method": "generate",
            "params": {"prompt": "$five and sk-abcdefghijklmnopqrstuv", "api_key": "hidden"},
        }
    )

    params = recorded.steps[0]["client"]["params"]
    assert params == {"prompt": "$$five and [redacted:api_key]", "api_key": "***"}


def test_frames_that_hold_no_message_are_written_as_they_are() -> None:
    recorded = Recorded()
    recorded.trace.received(b"{no json\n\xff\n")

    text, binary = recorded.steps
    assert text["client_frame"] == "{no json"
    assert base64.b64decode(binary["client_frame"]["base64"]) == b"\xff"


def test_a_batch_stays_one_step() -> None:
    recorded = Recorded()
    recorded.trace.received(b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]\n')

    assert recorded.steps[0]["client"] == [{"id": "$request_1", "method": "ping"}]


def test_the_end_of_the_process_is_the_last_step() -> None:
    recorded = Recorded()
    recorded.trace.ended(3)
    recorded.client({"id": 1, "method": "ping"})

    assert recorded.steps == [{"exit": 3}]
