"""Cores that are broken on purpose, each in one place: the dialogues have to notice.

    python tests/spec/mutants.py NAME serve ...

runs the real core with the defect NAME.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import msgspec

from car_rpc.__main__ import main
from car_rpc.backends import delegated
from car_rpc.cassette import tape
from car_rpc.engine import generation, output, policing, redriven, stream
from car_rpc.errors import CarError
from car_rpc.eventlog import recorded
from car_rpc.host import deck, double, replay, runner, server, session
from car_rpc.host import stream as host_stream
from car_rpc.policy import content, rules
from car_rpc.protocol import connection, framing, lifecycle, messages, outbox
from car_rpc.wire.events import TextDelta
from car_rpc.wire.inference import Usage


class Mutant(NamedTuple):
    """A defect, and the dialogue that notices it.

    Attributes:
        family: What is broken.
        dialogue: Who notices.
        framing: In which framing.
        at_handshake: Whether already the handshake shows it.
        install: Breaks it.
    """

    family: str
    dialogue: str
    framing: str
    at_handshake: bool
    install: Callable[[], None]


MUTANTS: dict[str, Mutant] = {}


def mutant(
    family: str, dialogue: str, framing: str = "ndjson", *, at_handshake: bool = False
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(install: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[install.__name__] = Mutant(family, dialogue, framing, at_handshake, install)
        return install

    return add


def replace(owner: Any, name: str, value: Any) -> None:
    """Replace what is there; a mutant that breaks nothing would prove nothing."""
    assert hasattr(owner, name), f"{owner} has no {name}"
    setattr(owner, name, value)


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Put a function around a method; it gets the original first."""
    replace(owner, name, functools.partialmethod(_call, wrapper, getattr(owner, name)))


def _call(
    self: Any, wrapper: Callable[..., Any], original: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    return wrapper(functools.partial(original, self), self, *args, **kwargs)


# Framing


@mutant("framing", "text")
def lines_end_at_other_breaks() -> None:
    def whole(original: Any, _: Any, lines: list[bytes]) -> list[Any]:
        return original([part for line in lines for part in line.split("\u2028".encode())])

    wrap(framing.Splitter, "_whole", whole)


@mutant("framing", "last-line-without-end")
def a_last_line_without_end_is_lost() -> None:
    replace(framing.Splitter, "receive_eof", lambda _: [])


@mutant("framing", "split-writes")
def a_chunk_is_a_message() -> None:
    wrap(framing.Splitter, "receive", lambda original, _, data: original(data + b"\n"))


@mutant("framing", "hello", "lsp", at_handshake=True)
def answers_come_in_lines() -> None:
    replace(framing, "wrap", lambda payload, _: payload + b"\n")


@mutant("framing", "text")
def line_breaks_stay_raw() -> None:
    replace(connection, "escape_line_breaks", lambda payload: payload)


@mutant("framing", "not-json")
def what_is_no_message_gets_no_answer() -> None:
    replace(connection.Connection, "_answer_violation", lambda *_: None)


@mutant("framing", "generate-plain", at_handshake=True)
def a_library_prints() -> None:
    def take(original: Any, self: Any, limit: int) -> bytes:
        noise = b"" if hasattr(self, "printed") else b"warning: something is deprecated\n"
        self.printed = True
        return noise + original(limit)

    wrap(connection.Connection, "take_output", take)


# Ids


@mutant("id echo", "ids")
def ids_become_text() -> None:
    write = connection.write_result
    replace(connection, "write_result", lambda request_id, raw: write(str(request_id), raw))


@mutant("id echo", "ids")
def an_id_of_zero_is_none() -> None:
    write = connection.write_result
    replace(connection, "write_result", lambda request_id, raw: write(request_id or "none", raw))


@mutant("id echo", "too-large")
def ids_of_what_is_too_large_are_lost() -> None:
    replace(connection, "recover_id", lambda _: None)


@mutant("id echo", "not-json")
def ids_are_taken_from_anywhere() -> None:
    def recover(data: bytes) -> str | None:
        found = re.search(rb'"id":"(\w+)"', data)
        return found[1].decode() if found else None

    replace(messages, "recover_id", recover)


@mutant("id echo", "id-duplicate")
def a_broken_message_answers_for_a_request_in_flight() -> None:
    def answer(self: Any, violation: Any, batch: Any) -> None:
        self._reply(batch, connection.write_error(violation.id, violation.error))

    replace(connection.Connection, "_answer_violation", answer)


@mutant("duplicate id", "id-duplicate")
def a_duplicate_is_served() -> None:
    def refuse(original: Any, _: Any, *args: Any) -> CarError | None:
        error = original(*args)
        return None if error and error.kind == "duplicate_id" else error

    wrap(connection.Connection, "_refusal", refuse)


# Order


@mutant("order", "no-delta-dropped")
def an_answer_overtakes_its_events() -> None:
    replace(outbox.Outbox, "finish_lane", lambda *_: None)


@mutant("order", "ping-in-flood")
def an_answer_waits_for_the_streams_of_others() -> None:
    def respond(original: Any, self: Any, request_id: Any, outcome: Any) -> None:
        if len(self.in_flight) > 1 and request_id in self.in_flight:
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, self.respond, request_id, outcome)
        else:
            original(request_id, outcome)

    wrap(connection.Connection, "respond", respond)


@mutant("order", "generate-stream")
def events_are_counted_from_one() -> None:
    def init(original: Any, self: Any, *args: Any) -> None:
        original(*args)
        self._seq = 1

    wrap(host_stream.Stream, "__init__", init)


@mutant("order", "runner-order")
def runner_events_are_tasks() -> None:
    delays = count()

    def handle(original: Any, _: Any, notification: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(next(delays) % 2 / 1000, original, notification)

    wrap(session.Session, "_handle_notification", handle)


@mutant("order", "changes-seen-at-once")
def changes_are_seen_when_they_are_done() -> None:
    replace(session, "REGISTRY_CHANGES", frozenset[str]())


@mutant("flow", "runner-backpressure")
def reading_stops_because_of_a_stream() -> None:
    replace(connection.Connection, "wants_input", property(lambda self: not self._outbox._lanes))


@mutant("flow", "no-delta-dropped")
def deltas_that_are_not_read_are_dropped() -> None:
    def put(original: Any, self: Any, lane: Any, payload: bytes, **options: Any) -> int:
        if self.lane_bytes(lane) < 100_000 or b"text_delta" not in payload:
            return original(lane, payload, **options)
        return self.lane_bytes(lane)

    wrap(outbox.Outbox, "put_in_lane", put)


# Cancelling


@mutant("cancel", "cancel-midstream")
def a_cancel_is_ignored() -> None:
    wrap(session.Session, "_cancel", lambda *_: None)


@mutant("cancel", "cancel-midstream")
def a_cancelled_request_gets_no_answer() -> None:
    def respond(original: Any, _: Any, request_id: Any, outcome: Any) -> None:
        if not (isinstance(outcome, CarError) and outcome.kind == "cancelled"):
            original(request_id, outcome)

    wrap(connection.Connection, "respond", respond)


@mutant("cancel", "cancel-midstream")
def a_cancelled_request_is_answered_twice() -> None:
    def respond(original: Any, self: Any, request_id: Any, outcome: Any) -> None:
        original(request_id, outcome)
        if isinstance(outcome, CarError) and outcome.kind == "cancelled":
            self._reply(None, connection.write_error(request_id, outcome))

    wrap(connection.Connection, "respond", respond)


@mutant("cancel", "cancel-midstream")
def a_cancel_does_not_tell_what_was_there() -> None:
    replace(generation.Generation, "_partial", lambda _: {})


@mutant("cancel", "cancel-same-write")
def a_cancel_in_the_same_write_is_lost() -> None:
    fresh: set[Any] = set()

    def start(original: Any, _: Any, request: Any, work: Any) -> Any:
        fresh.add(request.id)
        asyncio.get_running_loop().call_soon(fresh.discard, request.id)
        return original(request, work)

    wrap(session.Session, "_start", start)
    wrap(
        session.Session,
        "_cancel",
        lambda original, _, request_id: None if request_id in fresh else original(request_id),
    )


@mutant("cancel", "cancel-behind-registration")
def a_cancel_does_not_tell_that_nothing_was_there() -> None:
    replace(session, "NOTHING", {})


@mutant("cancel", "cancel-while-loading")
def what_waits_for_the_start_is_not_cancelled() -> None:
    def cancel(original: Any, self: Any, request_id: Any) -> None:
        if request_id in self._tasks:
            original(request_id)

    wrap(session.Session, "_cancel", cancel)


@mutant("order", "stream-never-began")
def a_stream_that_never_began_has_no_end() -> None:
    replace(session, "wanted_stream", lambda _: (False, None))


# The cascade to the app


@mutant("cascade", "runner-cancel")
def the_app_is_not_told_of_a_cancel() -> None:
    replace(runner.RunnerHost, "_cancel", lambda *_: None)


@mutant("cascade", "runner-cancel-awaited")
def the_app_is_not_waited_for() -> None:
    replace(runner, "CANCEL_TIMEOUT_S", 0)


@mutant("cascade", "runner-cancel-unanswered")
def the_app_is_waited_for_without_bound() -> None:
    replace(runner, "CANCEL_TIMEOUT_S", 1e6)


# Policy


@mutant("policy", "policy-deny")
def a_model_that_is_refused_is_asked() -> None:
    replace(policing.Guard, "refusal", lambda *_: None)


@mutant("policy", "policy-deny")
def a_rule_that_allows_is_asked_last() -> None:
    wrap(
        rules.Rules,
        "__init__",
        lambda original, _, each=(): original(sorted(each, key=lambda r: r.action == "allow")),
    )


@mutant("policy", "policy-cap")
def each_attempt_may_take_all_tokens() -> None:
    def left(_: Any, self: Any, model: Any) -> int | None:
        cap = self._verdict(model).caps.tokens
        return None if cap is None else int(cap.value)

    wrap(policing.Guard, "tokens_left", left)


@mutant("policy", "policy-content")
def nothing_is_held_back() -> None:
    def push(original: Any, self: Any, text: str) -> str:
        told = original(text)
        told += self._text
        self._offset += len(self._text)
        self._text = ""
        return told

    wrap(content.ContentFilter, "push", push)


@mutant("policy", "policy-content")
def only_the_stream_is_screened() -> None:
    replace(output.Output, "answer", property(lambda self: self._accumulator))


@mutant("policy", "policy-tools")
def a_call_is_told_before_its_arguments_are_whole() -> None:
    replace(policing.Guard, "judges_calls", lambda *_: False)


@mutant("policy", "policy-approve")
def an_app_that_says_no_approves() -> None:
    def approved(original: Any, self: Any, verdict: Any, *args: Any, **kwargs: Any) -> Any:
        return original(verdict._replace(approvals=()), *args, **kwargs)

    wrap(policing.Guard, "_approved", approved)


@mutant("policy", "policy-rules")
def rules_that_were_set_bind_their_own_removal() -> None:
    replace(policing.Policing, "with_rules", lambda self, _: self)


# Limits


@mutant("limits", "too-large")
def a_message_may_have_any_size() -> None:
    wrap(framing.Splitter, "__init__", lambda original, _, __, *rest: original(2**40, *rest))


@mutant("limits", "too-deep")
def a_message_may_have_any_depth() -> None:
    replace(messages, "deeper_than", lambda *_: False)


@mutant("limits", "batch-too-large")
def a_batch_may_have_any_length() -> None:
    replace(messages, "MAX_BATCH", 10**9)


@mutant("limits", "in-flight-limit")
def any_number_of_requests_may_be_in_flight() -> None:
    def init(original: Any, self: Any, *args: Any) -> None:
        original(*args)
        replace(self, "_max_in_flight", 10**9)

    wrap(connection.Connection, "__init__", init)


@mutant("limits", "runner-backpressure")
def a_runner_may_run_ahead_without_limit() -> None:
    replace(runner, "RUNNER_BUFFER_BYTES", 10**12)


# The lifecycle


@mutant("pre-initialize", "before-initialize")
def everything_is_served_before_initialize() -> None:
    replace(lifecycle, "ALLOWED_REQUESTS", {**lifecycle.ALLOWED_REQUESTS, "new": None})
    replace(connection, "ALLOWED_REQUESTS", lifecycle.ALLOWED_REQUESTS)


@mutant("pre-initialize", "initialize-other-version")
def every_version_is_spoken() -> None:
    decode = session.decode_params

    def decode_as_ours(*args: Any) -> Any:
        params = decode(*args)
        ours = {"protocol_version": 1} if hasattr(params, "protocol_version") else {}
        return msgspec.structs.replace(params, **ours)

    replace(session, "decode_params", decode_as_ours)


@mutant("pre-initialize", "initialize-twice")
def initialize_may_come_twice() -> None:
    def initialize(original: Any, self: Any, request: Any) -> bytes:
        self._connection.state = "new"
        return original(request)

    wrap(session.Session, "_initialize", initialize)


@mutant("lifecycle", "shutdown-drains")
def shutdown_does_not_wait() -> None:
    async def shutdown(_: Any) -> bytes:
        return b"null"

    replace(session.Session, "_shutdown", shutdown)


@mutant("lifecycle", "shutdown-drains")
def new_work_is_taken_after_shutdown() -> None:
    replace(lifecycle, "ALLOWED_REQUESTS", {**lifecycle.ALLOWED_REQUESTS, "draining": None})
    replace(connection, "ALLOWED_REQUESTS", lifecycle.ALLOWED_REQUESTS)


@mutant("lifecycle", "exit-without-shutdown")
def every_exit_is_a_success() -> None:
    wrap(server._Server, "exit", lambda original, _, __: original(0))


# Batches and notifications


@mutant("batch", "batch")
def entries_of_a_batch_are_answered_one_by_one() -> None:
    wrap(
        connection.Connection,
        "_reply",
        lambda original, _, __, payload, **options: original(None, payload, **options),
    )


@mutant("batch", "request-without-id")
def a_request_without_id_is_executed() -> None:
    def handle(original: Any, self: Any, notification: Any) -> None:
        if notification.method == "models.register":
            self._connection.in_flight["ghost"] = None
            self._handle_request(
                messages.Request("ghost", notification.method, notification.params)
            )
        else:
            original(notification)

    wrap(session.Session, "_handle_notification", handle)


# What a stream is made of


@mutant("concatenation", "generate-stream")
def a_delta_is_lost() -> None:
    def send(original: Any, self: Any, event: Any) -> bool:
        return (isinstance(event, TextDelta) and self._seq == 2) or original(event)

    wrap(host_stream.Stream, "send", send)


@mutant("concatenation", "runner-deltas-win")
def done_wins_over_deltas() -> None:
    def fill(original: Any, self: Any, done: Any) -> list[Any]:
        events = original(done)
        self._text = [done.text or "".join(self._text)]
        return events

    wrap(stream.Accumulator, "_fill", fill)


@mutant("concatenation", "runner-result-only")
def a_bare_answer_has_no_events() -> None:
    replace(delegated, "_events_of", lambda *_, **__: [])


@mutant("concatenation", "generate-plain")
def unknown_counts_are_zero() -> None:
    zeros = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    replace(stream.Accumulator, "usage", property(lambda _: zeros))


# The runner's slot


@mutant("slot", "runner-slot")
def a_runner_stays_when_it_is_unregistered() -> None:
    replace(runner.RunnerHost, "unregister", lambda _: None)


@mutant("slot", "runner-slot")
def nobody_is_ever_replaced() -> None:
    wrap(runner.RunnerHost, "register", lambda original, _: bool(original() and False))


@mutant("slot", "runner-slot")
def a_new_runner_ends_the_runs_of_the_old() -> None:
    def register(original: Any, self: Any) -> bool:
        for run in self._runs.values():
            run.fail(CarError("runner_failed", "another runner has come"))
        return original()

    wrap(runner.RunnerHost, "register", register)


@mutant("runner", "runner-stream")
def defaults_are_filled_in_for_a_runner() -> None:
    def params(original: Any, _: Any, call: Any) -> Any:
        request = msgspec.Raw(msgspec.json.encode(call.request))
        return msgspec.structs.replace(original(call), request=request)

    wrap(delegated.DelegatedBackend, "_params", params)


@mutant("runner", "runner-late-events")
def late_events_are_welcome() -> None:
    def event(original: Any, _: Any, *args: Any, **options: Any) -> Any:
        return msgspec.structs.replace(original(*args, **options), emitted=True)

    wrap(runner.RunnerHost, "event", event)


@mutant("runner", "runner-event-malformed")
def malformed_events_are_ignored() -> None:
    replace(runner, "_decode_tag", lambda _: msgspec.defstruct("Tag", ["type"])("unknown"))


# Replays


@mutant("replay", "replay-recorded")
def a_replay_belongs_to_the_request_of_then() -> None:
    replace(replay, "_shown", shown_for(replay._shown, request_id=3))


def shown_for(original: Any, request_id: Any) -> Any:
    def shown(services: Any, scope: Any, *rest: Any) -> Any:
        session = scope.open_stream.func.__self__
        stream = functools.partial(session._open_stream, request_id)
        return original(services, scope._replace(open_stream=stream), *rest)

    return shown


@mutant("replay", "replay-failed")
def a_failed_request_is_shown_as_a_result() -> None:
    wrap(recorded.Recorded, "answered", lambda original, _: original()._replace(error=None))


@mutant("replay", "replay-redacted")
def replacements_are_not_told() -> None:
    def read(trace_id: str, story: Any) -> Any:
        return read_story(trace_id, story)._replace(redacted=False)

    read_story = recorded.recorded
    replace(replay, "recorded", read)


@mutant("replay", "replay-verify")
def decisions_are_never_what_they_were() -> None:
    replace(redriven, "_agree", lambda *_: False)


@mutant("replay", "replay-rerun")
def differences_are_not_told() -> None:
    replace(replay, "differences", lambda *_: [])


# Cassettes


@mutant("cassettes", "cassette-replay")
def equal_requests_get_the_first_answer() -> None:
    wrap(tape.Tape, "_first_like", lambda _, self, asked: self._by_key[asked.key][0])


@mutant("cassettes", "cassette-replay")
def a_reference_of_then_is_echoed() -> None:
    replace(double, "_answer", lambda interaction, _: interaction.answer)


@mutant("cassettes", "cassette-missing")
def what_is_missing_gets_the_nearest_answer() -> None:
    wrap(tape.Tape, "_first_like", lambda _, __, ___: 4)


@mutant("cassettes", "cassette-strict-unused")
def strict_takes_any_order() -> None:
    wrap(tape.Tape, "_next", lambda _, self, asked: self._first_like(asked))


@mutant("cassettes", "cassette-strict-unused")
def strict_forgets_what_was_not_made() -> None:
    wrap(deck.Deck, "eject", lambda original, _: original() or True)


@mutant("cassettes", "cassette-timed")
def a_timed_replay_takes_no_time() -> None:
    wrap(double._Playback, "_until", lambda original, self, _: original(self._clock.now_ms()))


if __name__ == "__main__":
    name = sys.argv.pop(1)
    if name != "none":
        MUTANTS[name].install()
    main()
