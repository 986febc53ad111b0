"""The promises of a connection, against a model of it, for any order of what can happen."""

import json
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from car_rpc.errors import CarError
from car_rpc.protocol.connection import Answered, CancelRequested, Connection, Refused
from car_rpc.protocol.messages import Notification, Request

MAX_IN_FLIGHT = 6
LINE_BREAKS = "\u2028\u2029\u0085"

ids = st.sampled_from([0, 1, 2, "", "1", "a"])
methods = st.sampled_from(["initialize", "ping", "shutdown", "work", "work", "work"])
hostile = st.sampled_from(
    [
        b"hello",
        b"[]",
        b"{}",
        b"[" * 500,
        b"\xff",
        b"x" * 5000,
        b'{"jsonrpc":"2.0","id":1.5,"method":"m"}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":',
        b'{"id":"a","method":"m"}',
    ]
)


class Entry:
    """A request that was let in."""

    def __init__(self, serial: int, batch: "Owed | None") -> None:
        self.serial = serial
        self.batch = batch
        self.events = 0


class Owed:
    """A batch of theirs: the ids it must answer, in one array, once nothing is outstanding."""

    def __init__(self) -> None:
        self.ids: list[Any] = []


def key(value: Any) -> str:
    return json.dumps(value)


class ConnectionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.connection: Connection[str] = Connection(4096, None, MAX_IN_FLIGHT)
        self.state = "new"
        self.in_flight: dict[str, Entry] = {}
        self.serial = 0
        self.owed: Counter[str] = Counter()  # by id: answers that must come, outside batches
        self.owed_batches: list[Owed] = []
        self.events_seen: Counter[int] = Counter()
        self.events_sent: dict[int, int] = {}
        self.answered: set[int] = set()
        self.pending: dict[str, str] = {}
        self.our_calls_seen: list[str] = []

    # What the peer does

    def feed(self, data: bytes) -> list[Any]:
        return list(self.connection.receive(data + b"\n"))

    @rule(request_id=ids, method=methods)
    def they_send_a_request(self, request_id: int | str, method: str) -> None:
        self.expect(self.request(request_id, method), [(request_id, method)], None)

    @rule(entries=st.lists(st.tuples(ids, methods), min_size=1, max_size=4), notify=st.booleans())
    def they_send_a_batch(self, entries: list[tuple[int | str, str]], *, notify: bool) -> None:
        parts = [self.request(request_id, method) for request_id, method in entries]
        if notify:
            parts.append(b'{"jsonrpc":"2.0","method":"note"}')
        batch = Owed()
        batch.ids = [request_id for request_id, _ in entries]
        self.owed_batches.append(batch)
        self.expect(b"[" + b",".join(parts) + b"]", entries, batch)

    def request(self, request_id: int | str, method: str) -> bytes:
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {"id": 99}}
        return json.dumps(message).encode()

    def expect(self, data: bytes, entries: list[tuple[int | str, str]], batch: Owed | None) -> None:
        # A message is judged in the state that the one before it left behind, so the events are
        # taken one by one and acted upon.
        waiting = list(entries)
        for event in self.connection.receive(data + b"\n"):
            if isinstance(event, Notification | Refused):
                continue
            assert isinstance(event, Request)
            while (wanted := waiting.pop(0)) != (event.id, event.method):
                self.refused(*wanted, batch)
            assert self.refusal(*wanted, batch) is None
            self.serial += 1
            self.in_flight[key(event.id)] = Entry(self.serial, batch)
            self.events_sent[self.serial] = 0
            if event.method in ("initialize", "shutdown") and self.state != "draining":
                self.act(event)
        for wanted in waiting:
            self.refused(*wanted, batch)
        assert len(self.connection.in_flight) == len(self.in_flight)

    def act(self, event: Request) -> None:
        if event.method == "initialize" and self.state == "new":
            self.connection.step("initialize")
            self.state = "ready"
        elif event.method == "shutdown":
            self.connection.step("shutdown")
            self.state = "draining"

    def refusal(self, request_id: int | str, method: str, batch: Owed | None) -> str | None:
        if key(request_id) in self.in_flight:
            return "duplicate_id"
        if self.state == "new" and method in ("work", "shutdown"):
            return "not_initialized"
        if self.state == "draining" and method not in ("ping", "shutdown"):
            return "shutting_down"
        if batch is not None and method == "initialize":
            return "malformed_message"
        full = len(self.in_flight) >= MAX_IN_FLIGHT and method not in ("ping", "shutdown")
        return "overloaded" if full else None

    def refused(self, request_id: int | str, method: str, batch: Owed | None) -> None:
        assert self.refusal(request_id, method, batch) is not None
        if batch is None:
            self.owed[key(request_id)] += 1

    @rule(data=hostile)
    def they_send_garbage(self, data: bytes) -> None:
        before = len(self.in_flight)
        assert self.feed(data) == []
        assert len(self.connection.in_flight) == before
        known = {b'{"jsonrpc":"2.0","id":1,"': "1", b'{"id":"a","method":"m"}': '"a"'}
        found = next((value for start, value in known.items() if data.startswith(start)), "null")
        self.owed["null" if found in self.in_flight else found] += 1

    @rule(request_id=ids)
    def they_cancel(self, request_id: int | str) -> None:
        params = {"id": request_id}
        note = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": params}
        expected = [CancelRequested(request_id)] if key(request_id) in self.in_flight else []
        assert self.feed(json.dumps(note).encode()) == expected

    @rule(request_id=st.sampled_from([None, 1.5, "car-1", [], {"id": True}]))
    def they_cancel_nonsense(self, request_id: Any) -> None:
        note = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": request_id}}
        assert self.feed(json.dumps(note).encode()) == []

    @rule(data=st.data(), known=st.booleans())
    def they_answer(self, data: st.DataObject, *, known: bool) -> None:
        target: Any = data.draw(ids)
        if known and self.pending:
            target = data.draw(st.sampled_from(sorted(self.pending)))
        unexpected = self.connection.pending.unexpected
        answer = {"jsonrpc": "2.0", "id": target, "result": 1}
        events = self.feed(json.dumps(answer).encode())
        if target in self.pending:
            (event,) = events
            assert isinstance(event, Answered)
            assert event.waiting == self.pending.pop(target)
        else:
            assert events == []
            assert self.connection.pending.unexpected == unexpected + 1

    # What we do

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), failed=st.booleans())
    def we_answer(self, data: st.DataObject, *, failed: bool) -> None:
        self.answer(data.draw(st.sampled_from(sorted(self.in_flight))), failed=failed)

    def answer(self, name: str, *, failed: bool) -> None:
        entry = self.in_flight.pop(name)
        if failed:
            result: bytes | CarError = CarError("internal", LINE_BREAKS, serial=entry.serial)
        else:
            result = json.dumps({"serial": entry.serial, "t": LINE_BREAKS}).encode()
        self.connection.respond(json.loads(name), result)
        if entry.batch is None:
            self.owed[name] += 1

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), count=st.integers(1, 5))
    def we_stream(self, data: st.DataObject, count: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.in_flight)))
        serial = self.in_flight[name].serial
        for _ in range(count):
            text = json.dumps({"serial": serial, "seq": self.events_sent[serial]})
            params = text[:-1] + ',"t":"' + LINE_BREAKS + '"}'
            self.connection.notify("event", params.encode(), stream=json.loads(name))
            self.events_sent[serial] += 1

    @rule()
    def we_call(self) -> None:
        waiting = f"waiter {len(self.our_calls_seen)} {self.serial} {len(self.pending)}"
        request_id = self.connection.call("runner.run", b"{}", waiting)
        assert isinstance(request_id, str)
        assert request_id not in self.pending
        self.pending[request_id] = waiting

    @rule()
    def we_log(self) -> None:
        self.connection.notify("log", json.dumps({"t": LINE_BREAKS}, ensure_ascii=False).encode())

    @rule(limit=st.sampled_from([1, 200, 100_000]))
    def the_writer_takes(self, limit: int) -> None:
        has_output = self.connection.has_output
        data = self.connection.take_output(limit)
        assert bool(data) is has_output
        assert data.endswith(b"\n") or not data
        for line in data.decode().split("\n")[:-1]:
            assert line.splitlines() == [line], "a reader could see two lines"
            self.check(json.loads(line))

    def check(self, message: Any) -> None:
        if isinstance(message, list):
            self.check_batch(message)
        elif message.get("method") == "event":
            params = message["params"]
            assert params["serial"] not in self.answered, "an event after its response"
            assert params["seq"] == self.events_seen[params["serial"]]
            self.events_seen[params["serial"]] += 1
            assert params["t"] == LINE_BREAKS
        elif message.get("method") == "runner.run":
            self.our_calls_seen.append(message["id"])
        elif "method" not in message:
            name = key(message["id"])
            assert self.owed[name] > 0, "nobody asked for this answer"
            self.owed[name] -= 1
            self.check_answer(message)

    def check_answer(self, message: Any) -> None:
        outcome = message["result"] if "result" in message else message["error"]["data"]
        serial = outcome.get("serial")
        if serial is not None:
            assert serial not in self.answered, "answered twice"
            assert self.events_seen[serial] == self.events_sent[serial], "before its last event"
            self.answered.add(serial)

    def check_batch(self, messages: list[Any]) -> None:
        found = Counter(key(message["id"]) for message in messages)
        batch = next(b for b in self.owed_batches if Counter(map(key, b.ids)) == found)
        self.owed_batches.remove(batch)
        for message in messages:
            self.check_answer(message)

    def teardown(self) -> None:
        for name in sorted(self.in_flight):
            self.answer(name, failed=False)
        while self.connection.has_output:
            self.the_writer_takes(1)
        assert +self.owed == Counter(), "requests without an answer"
        assert self.owed_batches == []
        assert len(self.answered) == self.serial
        assert set(self.pending) <= set(self.our_calls_seen)
        assert len(set(self.our_calls_seen)) == len(self.our_calls_seen)


TestConnectionMachine = ConnectionMachine.TestCase
