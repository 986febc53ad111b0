"""The engine: every method that runs a model, and what they share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from car_rpc.engine.breaker import BreakerPolicy, Breakers
from car_rpc.engine.checkpoint import Checkpoint, checkpoint_of, resumed
from car_rpc.engine.embedding import embed_result
from car_rpc.engine.generation import (
    Generation,
    Origin,
    failure_of,
    record_failure,
    request_data,
    result_data,
)
from car_rpc.engine.metering import Meter, Metering, NothingLearned
from car_rpc.engine.output import Listener
from car_rpc.engine.permits import Admission
from car_rpc.engine.policing import NobodyToAsk, Policing, no_rules
from car_rpc.engine.ports import (
    Approver,
    Backend,
    Clock,
    EmbeddingBatch,
    EventSink,
    IdSource,
    Outcomes,
    Recording,
    Transcript,
)
from car_rpc.engine.premises import PremisesLog
from car_rpc.engine.privacy import Privacy
from car_rpc.engine.recording import Recorder
from car_rpc.engine.retry import RetryPolicy
from car_rpc.engine.routing import Routing, RoutingInputs
from car_rpc.engine.screening import screened, screened_words
from car_rpc.engine.spending import Spending
from car_rpc.engine.whole import Whole
from car_rpc.errors import CarError
from car_rpc.outcomes.signals import Conversations
from car_rpc.policy.rules import Rules
from car_rpc.registry.absence import missing
from car_rpc.registry.catalog import shown
from car_rpc.registry.projectors import blindness
from car_rpc.registry.registry import Registry
from car_rpc.registry.weights import downloads_weights
from car_rpc.router.estimate import text_tokens
from car_rpc.spend.budget import Budget
from car_rpc.spend.prices import Tokens
from car_rpc.wire.base import RequestId, decode_object
from car_rpc.wire.events import UsageEvent
from car_rpc.wire.inference import (
    EmbedParams,
    EmbedResult,
    GenerateRequest,
    InferenceResult,
    PrivacyLevel,
)
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.routing import RouteDecision
from car_rpc.wire.speech import TranscribeResult

T = TypeVar("T")

logger = logging.getLogger(__name__)

DEFAULT_RETRY_POLICY = RetryPolicy()
DEFAULT_BREAKER_POLICY = BreakerPolicy()
DEFAULT_ROUTING_INPUTS = RoutingInputs()
NOTHING_LEARNED = NothingLearned()
DEFAULT_PRIVACY = Privacy()
NOBODY_TO_ASK = NobodyToAsk()


class Engine:
    """Runs inference requests.

    Args:
        registry: The models.
        backend_of: The backend that serves a model.
        sink: The event log.
        clock: Time.
        ids: Source of trace ids.
        retry_policy: What is tried again on one model.
        breaker_policy: When a model is left alone.
        routing_inputs: What the choice of a model depends on.
        outcomes: Learns from how attempts end.
        budget: Where their money is reserved and charged; ``None`` for no accounts.
        admission: Lets work on local models begin; ``None`` for one of them at a time.
        privacy: How much of a request goes to the event log.
        rules: The rules about what requests may do, as they hold now.
        approver: Asks the app about what rules want approved.
    """

    def __init__(  # noqa: PLR0913 - the parts of one engine, each by its name
        self,
        registry: Registry,
        backend_of: Callable[[ModelSchema], Backend],
        sink: EventSink,
        clock: Clock,
        ids: IdSource,
        *,
        retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
        breaker_policy: BreakerPolicy = DEFAULT_BREAKER_POLICY,
        routing_inputs: RoutingInputs = DEFAULT_ROUTING_INPUTS,
        outcomes: Outcomes = NOTHING_LEARNED,
        budget: Budget | None = None,
        admission: Admission | None = None,
        privacy: Privacy = DEFAULT_PRIVACY,
        rules: Callable[[], Rules] = no_rules,
        approver: Approver = NOBODY_TO_ASK,
    ) -> None:
        self.backend_of = backend_of
        self.clock = clock
        self.breakers = Breakers(breaker_policy)
        self.retry_policy = retry_policy
        self.routing = Routing(registry, backend_of, self.breakers, clock, routing_inputs)
        self.premises = PremisesLog(retry_policy)
        self.admission = admission or Admission(clock)
        self.policing = Policing(clock, ids, rules, approver)
        self.metering = Metering(clock, outcomes, Spending(budget), self.admission)
        #: Traces of the ``generate`` requests that are under way.
        self._running: set[str] = set()
        self._outcomes = outcomes
        self._conversations = Conversations()
        #: The logs of all requests that are under way.
        self._recorders: dict[RequestId, list[Recorder]] = {}
        self._registry = registry
        self._sink = sink
        self._ids = ids
        self._privacy = privacy

    def described(self, model: ModelSchema) -> ModelSchema:
        """The model with what is true of it now, and without secrets."""
        available, weights_ready, reason = self.backend_of(model).availability(model)
        lack = (blindness if weights_ready else missing)(model.source)
        now = msgspec.structs.replace(
            model,
            available=available,
            weights_ready=weights_ready,
            reason=reason or lack or UNSET,
            downloads_weights=downloads_weights(model.source),
        )
        return shown(now)

    async def resumed(
        self, request: GenerateRequest, raw: bytes
    ) -> tuple[GenerateRequest, bytes, Checkpoint | None]:
        """A request with all that the one it resumes had asked, and what that one had got.

        Raises:
            CarError: As :func:`checkpoint_of`, and ``conflict`` while that one still runs.
        """
        trace_id = request.resume_trace_id
        if not isinstance(trace_id, str):
            return request, raw, None
        if trace_id in self._running:
            raise CarError("conflict", f"{trace_id} still runs", trace_id=trace_id)
        checkpoint = checkpoint_of(trace_id, await self._sink.story(trace_id))
        raw = msgspec.json.encode(resumed(decode_object(raw), checkpoint))
        return msgspec.json.decode(raw, type=GenerateRequest), raw, checkpoint

    async def generate(
        self,
        request: GenerateRequest,
        origin: Origin,
        listener: Listener | None,
        checkpoint: Checkpoint | None = None,
        *,
        others_wait: bool = False,
    ) -> InferenceResult:
        """Run a ``generate`` request, from the start or from a checkpoint.

        Args:
            request: The request.
            origin: Where it came from.
            listener: Gets its events.
            checkpoint: What an earlier one had got.
            others_wait: Whether the caller asks another model when this one fails.

        Raises:
            CarError: The one error that the request ends with; ``data`` names the trace and,
                once it was chosen, the model.
        """
        conversation = request.conversation_id
        recorder = self._recorder(
            request.privacy, conversation if isinstance(conversation, str) else None
        )
        self._running.add(recorder.trace_id)
        sign = self._conversations.began(request)
        if sign is not None:
            self._outcomes.implied(sign)
        try:
            with self._under_way(origin, recorder):
                generation = Generation(
                    self, request, origin, listener, recorder, checkpoint, others_wait=others_wait
                )
                result = await generation.result()
            self._conversations.answered(request, result)
            return result
        finally:
            self._running.discard(recorder.trace_id)

    def cancel_requested(self, request_id: RequestId) -> None:
        """Record that a request is to end, which it does in its own time."""
        for recorder in self._recorders.get(request_id, ()):
            recorder.aside("cancel_requested")

    @contextmanager
    def _under_way(self, origin: Origin, recorder: Recorder) -> Generator[None]:
        # A request may be answered by others of the core's own, which bear its id.
        recorders = self._recorders.setdefault(origin.request_id, [])
        recorders.append(recorder)
        try:
            yield
        finally:
            recorders.remove(recorder)
            if not recorders:
                del self._recorders[origin.request_id]

    async def embed(self, params: EmbedParams, origin: Origin) -> EmbedResult:
        """Embed texts.

        Raises:
            CarError: As :meth:`generate`.
        """
        texts = params.texts
        if params.is_query:
            # The form that instruction-tuned embedding models are trained on (Qwen3-Embedding
            # and E5 model cards).
            texts = [f"Instruct: {params.instruction}\nQuery: {text}" for text in texts]

        expected = Tokens(sum(map(text_tokens, texts)), 0)

        async def work(recorder: Recorder) -> EmbedResult:
            guard = self.policing.guard(origin.method, recorder)
            choice = self.routing.choice(params.model, "embed", guard.veto)
            recorder.note("route", **choice.logged("embed"))
            whole = Whole(self, recorder, guard, "embed")

            async def ask(model: ModelSchema, is_last: bool) -> EmbedResult:
                async def once(meter: Meter) -> EmbeddingBatch:
                    batch = await self.backend_of(model).embed(model, texts)
                    meter.take(UsageEvent(prompt_tokens=batch.prompt_tokens, completion_tokens=0))
                    return batch

                batch = await whole.answer(model, once, expected, is_last=is_last)
                return embed_result(model, batch, as_base64=params.encoding == "base64")

            return await whole.first(choice.models, ask)

        return await self.traced(origin, work)

    async def tokenize(self, wanted: str, text: str) -> list[int]:
        """Token ids of a text in a model's vocabulary."""
        model = self._registry.find(wanted)
        return await self.backend_of(model).tokenize(model, text)

    async def detokenize(self, wanted: str, tokens: list[int]) -> str:
        """Text of token ids in a model's vocabulary."""
        model = self._registry.find(wanted)
        return await self.backend_of(model).detokenize(model, tokens)

    async def transcribe(
        self, wanted: str | msgspec.UnsetType, recording: Recording, origin: Origin
    ) -> TranscribeResult:
        """Write down what is said.

        Raises:
            CarError: As :meth:`generate`.
        """

        async def work(recorder: Recorder) -> TranscribeResult:
            guard = self.policing.guard(origin.method, recorder)
            choice = self.routing.choice(wanted, "speech_to_text", guard.veto)
            recorder.note("route", **choice.logged("transcribe"))
            whole = Whole(self, recorder, guard, "transcribe")

            async def ask(model: ModelSchema, is_last: bool) -> TranscribeResult:
                async def once(_: Meter) -> Transcript:
                    return await self.backend_of(model).transcribe(model, recording)

                said = await whole.answer(model, once, is_last=is_last)
                return TranscribeResult(
                    text=screened(guard, model, said.text),
                    model_used=model.id,
                    language=said.language,
                    words=screened_words(guard, model, said.words),
                )

            return await whole.first(choice.models, ask)

        return await self.traced(origin, work)

    async def recorded(self, origin: Origin, work: Callable[[], Awaitable[T]]) -> T:
        """Run work behind its request and before its completion in the event log.

        Raises:
            CarError: What the work raised, with the trace added.
        """

        async def once_written(recorder: Recorder) -> T:
            await recorder.written()
            return await work()

        return await self.traced(origin, once_written)

    async def traced(self, origin: Origin, work: Callable[[Recorder], Awaitable[T]]) -> T:
        """As :meth:`recorded`, for work that has more to say before the log is to hold it all."""
        recorder = self._recorder()
        started = self.clock.now_ms()
        recorder.request(**request_data(origin))
        try:
            with self._under_way(origin, recorder):
                result = await work(recorder)
        except (Exception, asyncio.CancelledError) as error:
            failure = failure_of(error).with_data(trace_id=recorder.trace_id)
            if isinstance(error, asyncio.CancelledError):
                recorder.aside("cancel_observed")
            await record_failure(recorder, failure, self.clock.now_ms() - started)
            raise failure from error
        latency_ms = round(self.clock.now_ms() - started, 3)
        await recorder.commit_final(
            "completion", outcome="success", latency_ms=latency_ms, **result_data(result)
        )
        return result

    async def refused(
        self, origin: Origin, error: CarError, privacy: PrivacyLevel | UnsetType = UNSET
    ) -> CarError:
        """Record a request that was refused before it ran; returns the error with its trace."""
        recorder = self._recorder(privacy)
        recorder.request(**request_data(origin))
        error = error.with_data(trace_id=recorder.trace_id)
        await record_failure(recorder, error, 0.0)
        return error

    def _recorder(
        self, privacy: PrivacyLevel | UnsetType = UNSET, conversation_id: str | None = None
    ) -> Recorder:
        return Recorder(
            self._sink,
            self.clock,
            self._ids.new("tr_"),
            conversation_id,
            privacy=self._privacy.of(privacy),
        )

    def explained(self, request: GenerateRequest) -> RouteDecision:
        """Which model a request would get now, and why; nothing runs.

        Raises:
            CarError: No model can answer it.
        """
        guard = self.policing.guard("generate", request=request)
        trace_id = self._ids.new("tr_")
        return self.routing.generate(request, trace_id, guard.veto, shown=None).decision
