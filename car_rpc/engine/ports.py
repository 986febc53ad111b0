"""What the engine needs from outside. Time, ids, models and disk enter only through these."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from car_rpc.engine.continuation import Continuation
from car_rpc.eventlog.redact import Search
from car_rpc.outcomes.profiles import AttemptEnd
from car_rpc.outcomes.signals import Sign
from car_rpc.wire.base import RequestId
from car_rpc.wire.content import Message
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.inference import GenerateRequest, TokenLogprob
from car_rpc.wire.log import LogEvent
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.policy import PolicyApproveParams, PolicyApproveResult
from car_rpc.wire.speech import Word


class Clock(Protocol):
    """Time."""

    def now_ms(self) -> float:
        """Monotonic milliseconds; only differences mean something."""
        ...

    async def sleep_ms(self, ms: float) -> None:
        """Wait."""
        ...


class IdSource(Protocol):
    """Fresh, unguessable ids."""

    def new(self, prefix: str) -> str:
        """An id that begins with ``prefix``."""
        ...


class LogEntry(NamedTuple):
    """An event for the event log, before it has a place in it.

    Attributes:
        type: Event type of the specification's vocabulary.
        data: JSON-encodable payload; a ``msgspec.Raw`` in it is stored as it is.
        trace_id: The request that it belongs to.
        conversation_id: The client's name of the conversation.
        attempt: Attempt of the request, from 1.
        search: Where secrets are looked for and replaced: in all of it, only under their names, as
            its text is to be kept, or nowhere, as that was done before.
    """

    type: str
    data: dict[str, Any]
    trace_id: str | None = None
    conversation_id: str | None = None
    attempt: int | None = None
    search: Search = "all"


class EventSink(Protocol):
    """The event log, for writing."""

    def append(self, entry: LogEntry) -> None:
        """Record an event soon, without waiting."""
        ...

    async def commit(self, *entries: LogEntry) -> None:
        """Record events; returns when these and all earlier ones are durable."""
        ...

    @property
    def lost(self) -> int:
        """How many events could not be written so far."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether little enough of what was appended is not written yet."""
        ...

    async def room(self) -> None:
        """Wait until there is room."""
        ...

    async def story(self, trace_id: str) -> list[LogEvent]:
        """All events of a request that are durable, in order, of any session."""
        ...


class Approver(Protocol):
    """The way to ask the app whether something may happen."""

    async def approve(self, question: PolicyApproveParams) -> PolicyApproveResult:
        """Its answer; where there is none in time, a refusal that says so."""
        ...


class Outcomes(Protocol):
    """What is learned of the models from how their attempts end."""

    def attempt_ended(self, end: AttemptEnd) -> None:
        """Learn from an attempt, soon. Neither waits nor fails."""
        ...

    def implied(self, sign: Sign) -> None:
        """Learn from what a request says of an earlier answer. Neither waits nor fails."""
        ...


class Availability(NamedTuple):
    """Whether a model could serve a request now.

    Attributes:
        available: Whether it could.
        weights_ready: Whether its weights are here.
        reason: Why it could not, where only its backend knows.
    """

    available: bool
    weights_ready: bool
    reason: str = ""


HearLogprobs: TypeAlias = Callable[[list[TokenLogprob]], None]


def unheard(logprobs: list[TokenLogprob]) -> None:
    """The :attr:`GenerateCall.hear_logprobs` of who does not tell them."""


def unnoted(event_type: str, **data: Any) -> None:
    """The :attr:`GenerateCall.note` of who keeps no log."""


class GenerateCall(NamedTuple):
    """One attempt of a ``generate`` request on one model.

    Attributes:
        model: The model to use.
        request: The client's typed request.
        raw_request: The client's own JSON, for whoever forwards it.
        parent_id: Id of the client's request.
        trace_id: Trace of the request.
        attempt: Number of the attempt, from 1.
        deadline_ms: Milliseconds left for it, or ``None``.
        continuation: The beginning of the answer, which the model goes on from; only for
            backends that can (:meth:`Backend.continues_turns`).
        note: Records in the request's log what the backend does besides its events: the type and
            the data of an entry. Never waits.
        hear_logprobs: Takes how likely the next tokens were, where the request asks for it.
    """

    model: ModelSchema
    request: GenerateRequest
    raw_request: bytes
    parent_id: RequestId
    trace_id: str
    attempt: int
    deadline_ms: int | None
    continuation: Continuation | None = None
    note: Callable[..., None] = unnoted
    hear_logprobs: HearLogprobs = unheard


class EmbeddingBatch(NamedTuple):
    """Unit-length vectors as little-endian float32, one after the other."""

    data: bytes
    dimensions: int
    prompt_tokens: int


class Recording(NamedTuple):
    """Speech to write down.

    Attributes:
        audio: Bytes of an audio file, or ``None`` to read ``path``.
        path: Absolute path of an audio file.
        language: What is spoken; ``None`` is the model's own language.
        prompt: Names and terms that may occur; a hint.
        timestamps: Whether the words are wanted.
    """

    audio: bytes | None
    path: str
    language: str | None
    prompt: str | None
    timestamps: bool


class Transcript(NamedTuple):
    """What was said in a recording, in which language, and the words if they were wanted."""

    text: str
    language: str
    words: list[Word]


class Backend(Protocol):
    """Whatever can run models of one kind of source.

    No foreign exception crosses this edge: every failure is a ``CarError``. Closing the
    generator of :meth:`generate` stops the work and waits, bounded, until it has stopped.
    """

    def availability(self, model: ModelSchema) -> Availability:
        """Whether the model could serve now. Cheap, and never loads anything."""
        ...

    def continues_turns(self, model: ModelSchema, request: GenerateRequest) -> bool:
        """Whether the model can go on from the beginning of an answer to this, exactly."""
        ...

    def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        """Run one attempt.

        Yields deltas, tool events, ``usage`` and ``stop``. A final ``done`` may carry text or
        tool calls that the deltas lacked. The end of the generator is success.
        """
        ...

    async def embed(self, model: ModelSchema, texts: Sequence[str]) -> EmbeddingBatch:
        """Embed texts in order."""
        ...

    def judges(self, model: ModelSchema) -> bool:
        """Whether the model's own probabilities can be read: :meth:`score`, :meth:`rank`."""
        ...

    async def score(
        self, model: ModelSchema, messages: Sequence[Message], answers: Sequence[str]
    ) -> list[float]:
        """The log-probability of each answer to a conversation, without thinking before."""
        ...

    async def rank(
        self, model: ModelSchema, query: str, documents: Sequence[str], instruction: str
    ) -> list[float]:
        """How well each document fits a query, from 0 to 1."""
        ...

    async def tokenize(self, model: ModelSchema, text: str) -> list[int]:
        """Raw token ids, without template and BOS."""
        ...

    async def detokenize(self, model: ModelSchema, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        ...

    async def transcribe(self, model: ModelSchema, recording: Recording) -> Transcript:
        """Write down what is said."""
        ...

    async def close(self) -> None:
        """Stop everything, bounded."""
        ...
