"""The backend for servers that speak OpenAI's HTTP API."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

import msgspec
from msgspec import UNSET

from car_rpc.backends.openai_compat import embeddings, request
from car_rpc.backends.openai_compat.answer import Answer
from car_rpc.backends.openai_compat.chunks import ChunkReader
from car_rpc.backends.openai_compat.client import (
    Deadline,
    HttpClient,
    Request,
    Response,
    Timeouts,
    Unreachable,
)
from car_rpc.backends.openai_compat.credentials import Credentials, Headers
from car_rpc.backends.openai_compat.key_stats import KeyStatsStore
from car_rpc.backends.openai_compat.keychain import Keychain
from car_rpc.backends.openai_compat.keys import Keys
from car_rpc.backends.openai_compat.messages import Json
from car_rpc.backends.openai_compat.prefill import Beginning
from car_rpc.backends.openai_compat.presence import Presence
from car_rpc.backends.openai_compat.upstream import upstream_of
from car_rpc.backends.promises import held_to
from car_rpc.backends.unsupported import GenerateOnly
from car_rpc.engine.ports import Availability, EmbeddingBatch, GenerateCall
from car_rpc.engine.retry import MAX_KEY_CHANGES
from car_rpc.errors import CarError
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import ModelSchema, OpenAICompatSource

DEFAULT_TIMEOUTS = Timeouts()

_THERE = Availability(available=True, weights_ready=True)
_AWAY = Availability(available=False, weights_ready=True)

#: Models that think long before they go on, by their names.
_THINKS_LONG = re.compile(r"thinking|reasoning|(^|/)o[134]", re.IGNORECASE)


class OpenAICompatBackend(GenerateOnly):
    """Runs models behind servers that speak OpenAI's HTTP API.

    Args:
        timeouts: Limits of each request.
        environ: Where API keys are read from, at each request.
        key_stats: Where is kept how keys have fared.
        keychain: Where other keys are read from.

    Attributes:
        keys: The API keys.
        presence: Which discovered models are there.
    """

    def __init__(
        self,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        environ: Mapping[str, str] = os.environ,
        key_stats: KeyStatsStore | None = None,
        keychain: Keychain | None = None,
    ) -> None:
        reason = "OpenAI's API gives no probabilities of a prompt; use a local model"
        super().__init__(request.BACKEND, reason)
        self._timeouts = timeouts
        self._credentials = Credentials(environ, keychain or Keychain())
        self.keys = Keys(self._credentials, key_stats)
        self.presence = Presence()
        self._client = HttpClient(timeouts)

    def availability(self, model: ModelSchema) -> Availability:
        """Available when its key is there and its server has not gone. That one is not asked."""
        source = model.source
        has_key = not isinstance(source, OpenAICompatSource) or self._credentials.has_key(source)
        return _THERE if has_key and self.presence.has(model) else _AWAY

    def continues_turns(self, model: ModelSchema, request: GenerateRequest) -> bool:
        """Where the source says how, but in no form: servers hold only what they add to it."""
        return upstream_of(model).prefill is not UNSET and request.response_format is UNSET

    def generate(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        """Run one attempt on the server. It is never repeated here."""
        return held_to(call.request, request.BACKEND, self._answer(call))

    async def _answer(self, call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        source = upstream_of(call.model)
        body = request.body_of(call.model, source.model, call.request)
        beginning = Beginning(call.continuation)
        if source.prefill is not UNSET:
            body = beginning.added_to(body, source.prefill)
        timeouts = self._timeouts_of(call, source.model)
        reader = ChunkReader(call.model.context_length)
        deadline = _deadline(timeouts)
        conversation_id = call.request.conversation_id or None
        async with self.keys.headers(source, conversation_id, call.note) as headers:
            answer = Answer(reader, deadline, timeouts, headers.secrets)
            async with (
                self._sent(source, "chat/completions", headers, body, deadline) as response,
                aclosing(answer.events(response)) as events,
            ):
                async for event in events:
                    yield beginning.joined(event)

    async def embed(self, model: ModelSchema, texts: Sequence[str]) -> EmbeddingBatch:
        """Embed texts, in batches that servers accept."""
        source = upstream_of(model)
        vectors = embeddings.Vectors()
        for start in range(0, len(texts), embeddings.BATCH):
            batch = texts[start : start + embeddings.BATCH]
            vectors.add(await self._embedded(source, batch), len(batch))
        return EmbeddingBatch(vectors.data, vectors.dimensions, vectors.prompt_tokens)

    async def close(self) -> None:
        """Drop all connections."""
        await self._client.close()
        await self.keys.close()

    async def _embedded(self, source: OpenAICompatSource, texts: Sequence[str]) -> bytes:
        """The response for a batch, with another key where one is rate limited or refused."""
        body: Json = {"model": source.model, "input": texts}
        changes = 0
        while True:
            try:
                async with self.keys.headers(source) as headers:
                    deadline = _deadline(self._timeouts)
                    async with self._sent(
                        source, "embeddings", headers, body, deadline
                    ) as response:
                        return await response.read(embeddings.MAX_RESPONSE_BYTES)
            except CarError as failure:
                changes += 1
                if "another_key" not in failure.extra or changes > MAX_KEY_CHANGES:
                    raise

    @asynccontextmanager
    async def _sent(
        self,
        source: OpenAICompatSource,
        path: str,
        headers: Headers,
        body: Json,
        deadline: Deadline,
    ) -> AsyncGenerator[Response, None]:
        """The response to a request, and a note of whether the server is there."""
        url = f"{source.endpoint}/v1/{path}"
        message = Request(url, headers, msgspec.json.encode(body))
        try:
            async with self._client.post(message, deadline) as response:
                self.presence.reachable(source.endpoint)
                yield response
        except Unreachable:
            self.presence.unreachable(source.endpoint)
            raise

    def _timeouts_of(self, call: GenerateCall, upstream_model: str) -> Timeouts:
        timeouts = self._timeouts
        if call.deadline_ms is not None:
            timeouts = timeouts._replace(total=call.deadline_ms / 1000)
        effort = call.request.params.reasoning_effort
        if _THINKS_LONG.search(upstream_model) or effort is not UNSET:
            timeouts = timeouts._replace(idle=timeouts.idle * 2)
        return timeouts


def _deadline(timeouts: Timeouts) -> Deadline:
    deadline = Deadline()
    first, total = timeouts.first_token, timeouts.total
    deadline.set("first_token", first, CarError("timeout", f"no answer began within {first:g} s"))
    deadline.set("total", total, CarError("timeout", f"no complete answer within {total:g} s"))
    return deadline
