"""Models that the app runs itself: the core asks its runner and listens to its events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import Any, Protocol, TypeAlias

from msgspec import UNSET, Raw

from car_rpc.backends.promises import held_to
from car_rpc.backends.unsupported import GenerateOnly
from car_rpc.engine.collected import collected_to_events
from car_rpc.engine.ports import Availability, GenerateCall, IdSource
from car_rpc.errors import HTTP_STATUS_KINDS, KINDS, CarError
from car_rpc.wire.events import (
    Done,
    ErrorEvent,
    Heartbeat,
    RunnerEvent,
    Stop,
    StreamEvent,
    TextDelta,
    UsageEvent,
)
from car_rpc.wire.models import DelegatedSource, ModelSchema
from car_rpc.wire.runner import RunnerResult, RunnerRunParams

#: How long a runner may take, in milliseconds, when the request sets no limit.
DEFAULT_DEADLINE_MS = 300_000

#: Kinds that a runner may fail with: all that a model can, and its own cancellation.
RUNNER_KINDS = frozenset(name for name, row in KINDS.items() if row.code > 0) | {"cancelled"}

_READY = Availability(available=True, weights_ready=True)
_ALONE = Availability(available=False, weights_ready=True)

#: What a run yields: the runner's events in order, then its one answer.
RunItem: TypeAlias = RunnerEvent | RunnerResult


class RunnerChannel(Protocol):
    """The way to the app's runner."""

    @property
    def registered(self) -> bool:
        """Whether there is a runner."""
        ...

    def run(self, params: RunnerRunParams) -> AsyncGenerator[RunItem, None]:
        """Start a run.

        Closing the generator cancels the run in the app and waits, bounded, for its answer.

        Raises:
            CarError: How the run failed.
        """
        ...


class DelegatedBackend(GenerateOnly):
    """Runs delegated models through the registered runner.

    Args:
        channel: The way to the app.
        ids: Source of call ids.
    """

    def __init__(self, channel: RunnerChannel, ids: IdSource) -> None:
        reason = "the app runs this model; use a local model for embeddings"
        super().__init__("delegated", reason)
        self._channel = channel
        self._ids = ids

    def availability(self, model: ModelSchema) -> Availability:
        """Available while a runner is registered; there are no weights to wait for."""
        return _READY if self._channel.registered else _ALONE

    def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        """Let the app run one attempt."""
        return held_to(call.request, "delegated", self._answer(call))

    async def _answer(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        if not self._channel.registered:
            detail = (
                "model declares ModelSource::Delegated but no inference runner is registered"
                " (call runner.register)"
            )
            raise CarError("no_runner", detail, model=call.model.id)
        # What the runner says at its end is only passed on where its other events lacked it.
        last_words: list[Done] = []
        stopped = False
        params = self._params(call)
        async with (
            _noted(call, params) as count,
            aclosing(self._channel.run(params)) as run,
        ):
            async for item in run:
                next(count)
                match item:
                    case TextDelta():  # as most are
                        yield item
                    case RunnerResult():
                        for event in _events_of(item, last_words, stopped=stopped):
                            yield event
                    case Done():
                        last_words.append(item)
                    case ErrorEvent():
                        raise runner_error(item.kind, item.message)
                    case Heartbeat():
                        pass
                    case _:
                        stopped = stopped or isinstance(item, Stop)
                        yield item

    def _params(self, call: GenerateCall) -> RunnerRunParams:
        source = call.model.source
        hint = source.hint if isinstance(source, DelegatedSource) else UNSET
        return RunnerRunParams(
            call_id=self._ids.new("call_"),
            parent_id=call.parent_id,
            trace_id=call.trace_id,
            attempt=call.attempt,
            hint=hint if isinstance(hint, str) else None,
            model=call.model.id,
            request=Raw(call.raw_request),
            deadline_ms=call.deadline_ms or DEFAULT_DEADLINE_MS,
        )


@asynccontextmanager
async def _noted(call: GenerateCall, params: RunnerRunParams) -> AsyncGenerator[Iterator[int]]:
    """Record a run; what it yields counts the items that came."""
    items = count()
    call.note("runner_request", call_id=params.call_id, hint=params.hint)
    outcome = "success"
    try:
        yield items
    except CarError as error:
        outcome = error.kind
        raise
    except BaseException:
        outcome = "cancelled"
        raise
    finally:
        call.note("runner_return", call_id=params.call_id, outcome=outcome, items=next(items))


def runner_error(
    kind: object, message: str, *, otherwise: str = "runner_failed", **data: Any
) -> CarError:
    """How a runner failed, in the core's own terms.

    Args:
        kind: A kind that a model can fail with. The kinds of the protocol itself are no such:
            they would tell the client of messages of its own.
        message: The runner's text, with or without the display text of its kind.
        otherwise: The kind when the runner named no such.
        data: Members of ``error.data``.
    """
    if not isinstance(kind, str) or kind not in RUNNER_KINDS:
        kind = otherwise
        meant = HTTP_STATUS_KINDS.get(data.get("status", 0))
        if meant is not None and not KINDS[meant].retryable:
            data.setdefault("retryable", False)  # a 403 stays one, however often it is tried
    return CarError(kind, message.removeprefix(KINDS[kind].display.removesuffix("{}")), **data)


def _events_of(result: RunnerResult, last_words: list[Done], *, stopped: bool) -> list[StreamEvent]:
    """The runner's reply as events; its own ``done`` and ``stop`` win over the reply."""
    reply = Done(
        text=result.text if isinstance(result.text, str) else "",
        tool_calls=result.tool_calls if isinstance(result.tool_calls, list) else [],
    )
    usage = result.usage if isinstance(result.usage, UsageEvent) else None
    stop_reason = None if stopped or result.stop_reason is UNSET else result.stop_reason
    return [*last_words, reply, *collected_to_events(usage=usage, stop_reason=stop_reason)]
