"""Decide again what was decided for a request, from what was known then.

The engine's own code runs, in a world that is made of the log: models say and fail what they said
and how they failed, the router knows what it knew, and time passes as it passed. Nobody is asked
anything. Each decision is compared with the recorded one; the first that differs ends it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import msgspec

from car_rpc.engine.breaker import Breaker, BreakerPolicy, Breakers, Permit
from car_rpc.engine.candidates import Veto
from car_rpc.engine.checkpoint import Checkpoint
from car_rpc.engine.generation import Generation, Origin
from car_rpc.engine.metering import Metering, NothingLearned
from car_rpc.engine.permits import Admission
from car_rpc.engine.policing import NobodyToAsk, Policing, no_rules
from car_rpc.engine.ports import Backend, Clock, GenerateCall, LogEntry
from car_rpc.engine.premises import Own, Premises, PremisesLog, Snapshot, restored
from car_rpc.engine.privacy import Privacy
from car_rpc.engine.recording import Recorder
from car_rpc.engine.routing import MAX_LOGGED_CANDIDATES, Route, asked_of
from car_rpc.engine.spending import Spending
from car_rpc.errors import CarError
from car_rpc.router.scores import Known
from car_rpc.wire.events import Recovery, StreamEvent
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.log import LogEvent
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.replay import Divergence

#: What is decided, by the type of the event that holds it, and what of its data is compared. What
#: the router thought of models that could not answer is none of it.
DECISIONS: dict[str, tuple[str, ...]] = {
    "route": (
        *("model", "reason", "fallbacks", "strategy", "task", "complexity", "predicted_quality"),
        *("propensity", "needs_compaction", "input_tokens", "output_tokens", "candidates"),
    ),
    "attempt": ("model", "reason"),
    "interruption": ("cause", "bytes_received"),
    "recovery": ("cause", "plan"),
    "fallback": ("model", "kind"),
    "completion": ("outcome", "kind"),
}

#: How a request ends for a reason that is none of its models'.
FROM_OUTSIDE = frozenset({"cancelled", "internal", "io_error", "policy_denied", "timeout"})

#: Numbers that differ by no more are equal: they are worked out with floats.
EQUAL = 1e-9


class _Ended(BaseException):
    """There is nothing more to decide. No failure: what handles these must not see it."""


class Past(NamedTuple):
    """An attempt as it was.

    Attributes:
        events: What the model said.
        failure: How it failed.
        failed_at_ms: When, in milliseconds from the request.
    """

    events: list[StreamEvent]
    failure: CarError | None = None
    failed_at_ms: float = 0.0


class Story:
    """What the log tells of a request.

    Args:
        events: All of it, in order.

    Attributes:
        attempts: Its attempts, by their number.
        continues: Which models could go on from the beginning of an answer.
        opened: The models whose circuit breaker it opened.
        is_open: Whether it ended for a reason that is no decision, or not at all.
        is_exact: Whether all is as it was said.

    Raises:
        msgspec.ValidationError: It is malformed.
        KeyError: An error in it is of a kind that this version does not know.
        CarError: ``not_replayable``: rules had a say in what was decided.
    """

    def __init__(self, events: Sequence[LogEvent]) -> None:
        self.attempts: dict[int, Past] = {}
        self.continues: dict[str, bool] = {}
        self.opened: set[str] = set()
        self.is_exact = not any(
            event.data.get("redacted") or event.data.get("decision") == "redacted"
            for event in events
        )
        self.events = events
        self._over: set[int] = set()
        resumes = any(event.type == "resumed" for event in events)
        for event in events:
            number = event.attempt if isinstance(event.attempt, int) else 0
            match event.type:
                case "attempt":
                    self.attempts[number] = Past([])
                case "deltas":
                    self._add(number, event.data["events"])
                case "failure":
                    failure = CarError.restored(event.data["error"])
                    past = self.attempts[number]
                    self.attempts[number] = Past(past.events, failure, event.data["at_ms"])
                case "recovery" if resumes and number == 1:
                    # Before it, what the earlier request had got was shown again.
                    self.attempts[1].events.clear()
                    resumes = False
                case "continues":
                    self.continues[event.data["model"]] = event.data["can"]
                case "policy" if event.data.get("decision") == "capped":
                    detail = f"{event.trace_id}: a rule capped it, and rules are not asked again"
                    raise CarError("not_replayable", detail, trace_id=event.trace_id)
                case "breaker" if event.data["state"] == "open":
                    self.opened.add(event.data["model"])
                case _:
                    pass
        self.is_open = self._is_open(events[-1])

    def _is_open(self, end: LogEvent) -> bool:
        if end.type != "completion":
            return True
        kind = end.data.get("kind")
        last = self.attempts[max(self.attempts)].failure if self.attempts else None
        return kind is not None and (last is None or (kind in FROM_OUTSIDE and kind != last.kind))

    def _add(self, number: int, events: list[Any]) -> None:
        past = self.attempts[number]
        for event in msgspec.convert(events, list[StreamEvent]):
            if past.failure is not None or number in self._over:
                return
            if isinstance(event, Recovery):
                # What comes behind that of the next attempt is the engine's, as behind a failure.
                self._over |= {number} if event.attempt > number else set()
            else:
                past.events.append(event)


class _Decisions:
    """Takes the event log's place, and compares."""

    def __init__(self, story: Story) -> None:
        self.divergence: Divergence | None = None
        self._story = story
        self._last_seq = story.events[-1].seq
        self._left = deque(
            event
            for event in story.events
            if event.type == "skipped"
            or (event.type in DECISIONS and not (story.is_open and event.type == "completion"))
        )

    def passes_over(self, model_id: str) -> bool:
        """Whether the request passed over a model here, because of its breaker."""
        if not self._left or self._left[0].type != "skipped":
            return False
        return self._left[0].data["model"] == model_id and bool(self._left.popleft())

    def append(self, entry: LogEntry) -> None:
        if entry.type not in DECISIONS or self.divergence is not None:
            return
        now = self._comparable(entry.type, msgspec.json.decode(msgspec.json.encode(entry.data)))
        if not self._left:
            if self._story.is_open:
                raise _Ended
            self._diverges(self._last_seq, None, now)
        event = self._left.popleft()
        then = self._comparable(event.type, event.data)
        if not _agree(then, now):
            self._diverges(event.seq, then, now)

    async def commit(self, *entries: LogEntry) -> None:
        for entry in entries:
            self.append(entry)

    @property
    def lost(self) -> int:
        return 0

    @property
    def has_room(self) -> bool:
        return True

    async def room(self) -> None:
        pass

    async def story(self, trace_id: str) -> list[LogEvent]:
        return []

    def _comparable(self, event_type: str, data: dict[str, Any]) -> dict[str, Any]:
        shown = {name: data[name] for name in DECISIONS[event_type] if name in data}
        if event_type == "route":
            usable = {data["model"], *data["fallbacks"]}
            shown["candidates"] = [c for c in data["candidates"] if c["model_id"] in usable]
        elif event_type == "interruption" and not self._story.is_exact:
            del shown["bytes_received"]
        return {"type": event_type, **shown}

    def _diverges(self, at: int, then: dict[str, Any] | None, now: dict[str, Any]) -> None:
        self.divergence = Divergence(at=at, recorded=then, now=now)
        raise _Ended


def _agree(then: Any, now: Any) -> bool:
    match then, now:
        case dict(), dict():
            one, other = cast("dict[str, Any]", then), cast("dict[str, Any]", now)
            return one.keys() == other.keys() and all(_agree(one[n], other[n]) for n in one)
        case list(), list():
            items = cast("list[list[Any]]", [then, now])
            return len(items[0]) == len(items[1]) and all(map(_agree, *items))
        case ((float() | int()), (float() | int())):
            return math.isclose(then, now, rel_tol=EQUAL, abs_tol=EQUAL)
        case _:
            return bool(then == now)


class _Clock:
    """Time as it passed: it goes on when somebody waits, and to where an attempt ended."""

    def __init__(self) -> None:
        self._now_ms = 0.0

    def now_ms(self) -> float:
        return self._now_ms

    async def sleep_ms(self, ms: float) -> None:
        self._now_ms += ms

    def reach(self, ms: float) -> None:
        self._now_ms = max(self._now_ms, ms)


class _Ids:
    def new(self, prefix: str) -> str:
        return prefix


class _Models:
    """All models: they say what they said. Only what a ``generate`` asks of a backend is there."""

    def __init__(self, story: Story, clock: _Clock) -> None:
        self._story = story
        self._clock = clock

    def continues_turns(self, model: ModelSchema, request: GenerateRequest) -> bool:
        return self._story.continues.get(model.id, False)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        past = self._story.attempts[call.attempt]
        for event in past.events:
            yield event
        if past.failure is not None:
            self._clock.reach(past.failed_at_ms)
            raise past.failure
        if self._story.is_open and call.attempt == max(self._story.attempts):
            raise _Ended


class _Breaker(Breaker):
    """Lets through what was let through."""

    def __init__(self, model_id: str, decisions: _Decisions) -> None:
        super().__init__(BreakerPolicy())
        self._model_id = model_id
        self._decisions = decisions

    def admit(self, now_ms: float) -> Permit | None:
        return None if self._decisions.passes_over(self._model_id) else self.bypass()


class _Breakers(Breakers):
    def __init__(self, decisions: _Decisions) -> None:
        super().__init__(BreakerPolicy())
        self._decisions = decisions

    def of(self, model_id: str) -> Breaker:
        return _Breaker(model_id, self._decisions)


class _Routing:
    """Chooses among what there was."""

    def __init__(self, premises: Premises, shut_off: set[str]) -> None:
        self._premises = premises
        self._shut_off = shut_off

    def generate(
        self,
        request: GenerateRequest,
        trace_id: str,
        veto: Veto | None = None,
    ) -> Route:
        ask = asked_of(request)
        premises = self._premises
        return Route(*premises.decided(ask, trace_id, Known(), MAX_LOGGED_CANDIDATES), premises)

    def moves(self, chosen: Route, model: ModelSchema, failure: CarError) -> bool:
        return chosen.moves(model, failure, breaker_open=model.id in self._shut_off)


class _Parts:
    """An engine in that world."""

    def __init__(self, story: Story, decisions: _Decisions, own: Own, shared: Snapshot) -> None:
        clock = _Clock()
        models = cast("Backend", _Models(story, clock))
        self.clock: Clock = clock
        self.backend_of: Callable[[ModelSchema], Backend] = lambda _model: models
        self.breakers: Breakers = _Breakers(decisions)
        self.retry_policy = shared.retry
        admission = Admission(self.clock)
        self.metering = Metering(self.clock, NothingLearned(), Spending(None), admission)
        self.routing = _Routing(restored(own, shared), story.opened | {*own.shut_off})
        self.premises = PremisesLog(shared.retry)
        self.policing = Policing(self.clock, _Ids(), no_rules, NobodyToAsk())


class _Redriven(Generation):
    def _limit(self, timeout_ms: int | None) -> asyncio.Timeout:
        return asyncio.timeout(None)


async def first_divergence(
    params: bytes,
    story: Story,
    own: Own,
    shared: Snapshot,
    checkpoint: Checkpoint | None,
) -> Divergence | None:
    """The first decision for a ``generate`` request that is not made as it was.

    Args:
        params: What was asked.
        story: What the log tells of it.
        own: What its choice of a model rested on.
        shared: The rest of that.
        checkpoint: What it went on from.

    Raises:
        msgspec.ValidationError: What was asked is no request any more.
    """
    request = msgspec.json.decode(params, type=GenerateRequest)
    decisions = _Decisions(story)
    parts = _Parts(story, decisions, own, shared)
    trace_id = story.events[0].trace_id or ""
    recorder = Recorder(decisions, parts.clock, trace_id, privacy=Privacy(level="full"))
    origin = Origin(0, "generate", params)
    with suppress(CarError, _Ended):
        await _Redriven(parts, request, origin, None, recorder, checkpoint).result()
    return decisions.divergence
