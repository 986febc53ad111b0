"""One answer read from its response, with the time limits of each phase."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import msgspec

from car_rpc.backends.openai_compat import failures
from car_rpc.backends.openai_compat.chunks import ChunkReader
from car_rpc.backends.openai_compat.client import Deadline, Response, Timeouts
from car_rpc.backends.openai_compat.sse import MAX_EVENT_BYTES, EventParser, ServerEvent
from car_rpc.engine.interruption import interrupted
from car_rpc.errors import CarError
from car_rpc.wire.events import StreamEvent

logger = logging.getLogger(__name__)

#: How long the end of the response is waited for after its last event, in seconds. Only a
#: response that was read to its end leaves a connection that can be used again.
DRAIN_S = 0.25

_DONE = b"[DONE]"

#: How much of a chunk that was not understood is logged, in bytes.
_LOGGED_BYTES = 256

#: How many of them are logged for one answer; all are counted.
_MOST_LOGGED = 10


class Answer:
    """The events of one response.

    Attributes:
        malformed: How many chunks were not understood and were left out.

    Args:
        reader: Makes events out of chunks.
        deadline: The request's limits; ``first_token`` is set.
        timeouts: The limits of the phases that follow.
        secrets: What must not be repeated.
    """

    def __init__(
        self,
        reader: ChunkReader,
        deadline: Deadline,
        timeouts: Timeouts,
        secrets: tuple[str, ...],
    ) -> None:
        self._reader = reader
        self._deadline = deadline
        self._timeouts = timeouts
        self._secrets = secrets
        self._parser = EventParser()
        self._done = False
        self.malformed = 0

    async def events(self, response: Response) -> AsyncGenerator[StreamEvent, None]:
        """The answer's events.

        Raises:
            CarError: How the answer failed.
        """
        if response.media_type == "text/event-stream":
            async with aclosing(self._streamed(response)) as events:
                async for event in events:
                    yield event
        else:
            for event in await self._whole(response):
                yield event
        for event in self._reader.finish():
            yield event

    async def _streamed(self, response: Response) -> AsyncGenerator[StreamEvent, None]:
        async with aclosing(self._pieces(response)) as pieces:
            async for piece in pieces:
                for event in self._events_of(self._parser.feed(piece)):
                    yield event
        for event in self._events_of(self._parser.close()):
            yield event
        if not self._reader.finished:
            # `[DONE]` alone is no end: llama-cpp-python's server sends it when it drops a request
            # for the next one.
            raise interrupted("connection_reset")

    async def _pieces(self, response: Response) -> AsyncGenerator[bytes, None]:
        """The response's bytes. When the answer is all there, it no longer matters how they end."""
        async with aclosing(response.pieces()) as pieces:
            try:
                async for piece in pieces:
                    if not self._done:
                        yield piece
            except CarError:
                if not self._reader.finished:
                    raise

    def _events_of(self, server_events: list[ServerEvent]) -> Iterator[StreamEvent]:
        for server_event in server_events:
            if self._done:
                return
            if server_event.data.strip() == _DONE:
                self._done = True
                self._deadline.set("end", DRAIN_S, CarError("timeout", "the response has no end"))
                return
            yield from self._chunk(server_event)
            if self._reader.failed:
                raise self._failure(b"the server gave up")

    def _chunk(self, server_event: ServerEvent) -> list[StreamEvent]:
        try:
            events = self._reader.read(server_event.data)
        except (msgspec.DecodeError, RecursionError):
            if server_event.type == "error":
                raise self._failure(server_event.data) from None
            self._count_malformed(server_event.data)
            return []
        if events is None or server_event.type == "error":
            raise self._failure(server_event.data)
        if self._reader.started:
            self._deadline.clear("first_token")
            self._deadline.set("idle", self._timeouts.idle, interrupted("idle_stall"))
        return events

    async def _whole(self, response: Response) -> list[StreamEvent]:
        """The answer of a server that does not stream, although it was asked to."""
        body = await response.read(MAX_EVENT_BYTES)
        try:
            events = self._reader.read(body)
        except (msgspec.DecodeError, RecursionError):
            said = failures.cut(failures.redacted(body.decode(errors="replace"), self._secrets))
            kind = response.media_type or "no type"
            detail = f"the server answered with {kind} instead of events: {said}"
            raise CarError("provider_error", detail) from None
        if events is None or self._reader.failed or not self._reader.finished:
            raise self._failure(body)
        return events

    def _failure(self, data: bytes) -> CarError:
        return failures.of_stream(data, started=self._reader.started, secrets=self._secrets)

    def _count_malformed(self, data: bytes) -> None:
        self.malformed += 1
        if self.malformed > _MOST_LOGGED:
            return
        text = failures.redacted(data.decode(errors="replace"), self._secrets)
        shown = failures.cut(text, _LOGGED_BYTES)
        logger.warning("chunk %d of a server was not understood: %s", self.malformed, shown)
