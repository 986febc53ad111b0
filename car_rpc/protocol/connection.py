"""One connection: every request of theirs gets exactly one response, whatever the bytes.

Feed bytes to :meth:`Connection.receive`; it returns what the host must act on and has already
queued the answers to everything else. Take what is to be written from
:meth:`Connection.take_output`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from car_rpc.config import DEFAULT_MAX_MESSAGE_BYTES
from car_rpc.errors import CarError
from car_rpc.protocol.calls import BatchState, Pending
from car_rpc.protocol.framing import Broken, FrameEvent, Framing, Splitter, wrap_all
from car_rpc.protocol.lifecycle import ALLOWED_REQUESTS, REFUSAL, TRANSITIONS, State, Step
from car_rpc.protocol.limits import MAX_IN_FLIGHT
from car_rpc.protocol.messages import (
    Batch,
    Message,
    Notification,
    Request,
    Response,
    Violation,
    decode,
    escape_line_breaks,
    write_error,
    write_notification,
    write_request,
    write_result,
)
from car_rpc.protocol.outbox import Outbox
from car_rpc.protocol.salvage import recover_id
from car_rpc.wire.base import RequestId

T = TypeVar("T")

#: Unread responses beyond which no more input is taken, in bytes, on top of one message.
OUTPUT_SLACK_BYTES = 8 * 1024 * 1024


#: Requests that a client at its limit still needs: they are answered at once, or end it all.
_NEVER_OVERLOAD = frozenset({"ping", "shutdown", "runner.event"})


class CancelRequested(NamedTuple):
    """They want a request in flight to stop; it is still answered."""

    id: RequestId


class Refused(NamedTuple):
    """A request that gets this error when the next event is taken; now its stream can still end."""

    request: Request
    error: CarError


class Answered(NamedTuple, Generic[T]):
    """They answered a request of ours, which ``waiting`` belongs to."""

    waiting: T
    response: Response


Event: TypeAlias = Request | Notification | CancelRequested | Refused | Answered[T]


class _CancelParams(Struct, frozen=True):
    id: int | str


class Connection(Generic[T]):
    """Protocol state of one peer.

    Args:
        max_message_bytes: Longest message that is accepted.
        framing: Fixed framing, or ``None`` to detect it from the first byte.
        max_in_flight: Most requests without a response.
    """

    def __init__(
        self,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        framing: Framing | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        self.state: State = "new"
        #: Their requests that have no response yet, each with the batch that it came in.
        self.in_flight: dict[RequestId, BatchState | None] = {}
        self.pending: Pending[T] = Pending()
        self._splitter = Splitter(max_message_bytes, framing)
        self._outbox = Outbox()
        self._held_bytes = 0  # responses in batches that others of theirs keep open
        self._max_in_flight = max_in_flight
        self._max_unread = max_message_bytes + OUTPUT_SLACK_BYTES

    # Input

    def receive(self, data: bytes) -> Iterator[Event[T]]:
        """Take bytes of the peer; yields what to act on, in order of arrival.

        Act on each event before taking the next: a message is judged in the state that the
        one before it left behind.
        """
        yield from self._accept_frames(self._splitter.receive(data))

    def take_over(self, splitter: Splitter, frames: list[FrameEvent]) -> Iterator[Event[T]]:
        """Go on with a stream of which a part was read, and answered, before; see :meth:`receive`.

        Args:
            splitter: What has split the stream so far.
            frames: What it gave and nobody has answered.
        """
        self._splitter = splitter
        yield from self._accept_frames(frames)

    def receive_eof(self) -> Iterator[Event[T]]:
        """The peer closed its side."""
        yield from self._accept_frames(self._splitter.receive_eof())

    @property
    def wants_input(self) -> bool:
        """False while responses pile up unread: then stop reading until output is taken."""
        return self._outbox.urgent_bytes <= self._max_unread

    def step(self, step: Step) -> None:
        """Move to the next lifecycle state.

        Raises:
            CarError: ``malformed_message`` when the state does not allow it.
        """
        target = TRANSITIONS.get((self.state, step))
        if target is None:
            raise CarError("malformed_message", f"`{step}` is not possible when {self.state}")
        self.state = target

    def _accept_frames(self, frames: list[FrameEvent]) -> Iterator[Event[T]]:
        for frame in frames:
            decoded = self._broken(frame) if isinstance(frame, Broken) else decode(frame)
            if isinstance(decoded, Batch):
                messages, batch = decoded.messages, BatchState(len(decoded.messages))
            else:
                messages, batch = [decoded], None
            for message in messages:
                event = self._accept(message, batch)
                if event is not None:
                    yield event
                    if isinstance(event, Refused):
                        self.respond(event.request.id, event.error)
                if batch is not None and isinstance(message, Response | Notification):
                    self._reply(batch, None)

    def _broken(self, broken: Broken) -> Violation:
        return Violation(recover_id(broken.prefix), CarError(broken.kind, broken.detail))

    def _accept(self, message: Message, batch: BatchState | None) -> Event[T] | None:
        """Judge a message; returns what is to be acted on, if anything."""
        match message:
            case Request():
                refusal = self._refusal(message, batch)
                if refusal is not None and refusal.kind == "duplicate_id":
                    # Its events would be taken for those of the first one.
                    self._reply(batch, write_error(message.id, refusal))
                    return None
                self.in_flight[message.id] = batch
                return message if refusal is None else Refused(message, refusal)
            case Notification():
                is_cancel = message.method == "$/cancelRequest"
                return self._cancel_requested(message) if is_cancel else message
            case Response():
                waiting = self.pending.resolve(message.id)
                return None if waiting is None else Answered(waiting, message)
            case Violation():
                self._answer_violation(message, batch)
        return None

    def _cancel_requested(self, message: Notification) -> CancelRequested | None:
        try:
            target = msgspec.json.decode(message.params, type=_CancelParams).id
        except msgspec.DecodeError:
            return None
        return CancelRequested(target) if target in self.in_flight else None

    def _refusal(self, request: Request, batch: BatchState | None) -> CarError | None:
        if request.id in self.in_flight:
            return CarError("duplicate_id", f"{request.id!r} is still in flight")
        allowed = ALLOWED_REQUESTS[self.state]
        if allowed is not None and request.method not in allowed:
            if self.state == "new":
                return CarError("not_initialized", "send `initialize` first")
            return CarError(REFUSAL[self.state], "no new requests are taken")
        if batch is not None and request.method == "initialize":
            return CarError("malformed_message", "`initialize` must not be part of a batch")
        return None if request.method in _NEVER_OVERLOAD else self._overload(batch)

    def _overload(self, batch: BatchState | None) -> CarError | None:
        if len(self.in_flight) >= self._max_in_flight:
            detail = f"{self._max_in_flight} requests are in flight; wait for responses"
            return CarError("overloaded", detail)
        if batch is not None and self._held_bytes > OUTPUT_SLACK_BYTES:
            return CarError("overloaded", "batches that are not done hold too many responses")
        return None

    def _answer_violation(self, violation: Violation, batch: BatchState | None) -> None:
        # An id that is in flight will get its response from the request that owns it.
        request_id = None if violation.id in self.in_flight else violation.id
        self._reply(batch, write_error(request_id, violation.error))

    # Output

    def respond(self, request_id: RequestId, result: bytes | CarError) -> None:
        """Answer a request in flight, after all events of its stream.

        Args:
            request_id: Id of the request.
            result: Encoded result, or the error.

        Raises:
            KeyError: The request is not in flight: it was answered already.
        """
        batch = self.in_flight.pop(request_id)
        if isinstance(result, CarError):
            payload = write_error(request_id, result)
        else:
            payload = write_result(request_id, result)
        streamed = self._outbox.finish_lane(request_id)
        self._reply(batch, payload, after_streams=streamed)

    def _reply(
        self, batch: BatchState | None, payload: bytes | None, *, after_streams: bool = False
    ) -> None:
        if batch is not None:
            self._held_bytes -= batch.held_bytes
            payload = batch.add(payload)
            self._held_bytes += batch.held_bytes if payload is None else 0
            after_streams = True
        if payload:
            self._outbox.put_response(escape_line_breaks(payload), after_streams=after_streams)

    def notify(self, method: str, params: bytes, stream: Hashable = None) -> int:
        """Send a notification; with ``stream`` (such as a request's id) as an event of that.

        Returns:
            Bytes of the stream's events that are not written yet.
        """
        payload = write_notification(method, params)
        if stream is not None:
            return self.send_event(stream, payload)
        self._outbox.put_urgent(escape_line_breaks(payload))
        return 0

    def send_event(self, stream: Hashable, payload: bytes, *, passing: bool = False) -> int:
        """Send a whole notification as an event of a stream; see :meth:`notify`.

        A passing one takes the place of a passing one right before it that is not written yet.
        """
        payload = escape_line_breaks(payload)
        return self._outbox.put_in_lane(stream, payload, passing=passing)

    def call(self, method: str, params: bytes, waiting: T) -> RequestId:
        """Send a request of ours. ``waiting`` comes back with the answer."""
        request_id = self.pending.begin(waiting)
        payload = write_request(request_id, method, params)
        self._outbox.put_urgent(escape_line_breaks(payload))
        return request_id

    def stream_bytes(self, stream: Hashable) -> int:
        """Bytes of a stream's events that are not written yet."""
        return self._outbox.lane_bytes(stream)

    @property
    def has_output(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._outbox)

    def take_output(self, limit_bytes: int) -> bytes:
        """The next bytes to write: whole messages, at least one, up to about the limit."""
        framing: Framing = self._splitter.framing or "ndjson"
        return wrap_all(self._outbox.take(limit_bytes), framing)
