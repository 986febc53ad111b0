"""HTTP requests with separate limits for each phase. httpx is imported when first needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, cast

from msgspec import Struct

from car_rpc.backends.openai_compat import failures
from car_rpc.backends.openai_compat.credentials import Headers
from car_rpc.engine.interruption import interrupted
from car_rpc.errors import CarError
from car_rpc.wire.base import Positive

if TYPE_CHECKING:
    import httpx

#: Most requests at once to all servers together; the next ones wait.
MAX_CONNECTIONS = 256

#: Idle connections that are kept, and for how many seconds.
MAX_IDLE_CONNECTIONS = 32
KEEP_ALIVE_S = 30.0

#: How much of a refusal's body is read, in bytes: enough for the causes nested in it.
MAX_ERROR_BODY_BYTES = 64 * 1024


class Timeouts(NamedTuple):
    """Limits of the time spent waiting for a server, in seconds.

    Attributes:
        connect: To reach the server, TLS included.
        first_token: From the request to the first part of the answer.
        idle: Between two chunks of the answer. Comments do not count: servers send them on a
            timer, whatever the model does.
        total: From the request to the end, where the client set no limit of its own.
    """

    connect: float = 5.0
    first_token: float = 60.0
    idle: float = 60.0
    total: float = 300.0


class TimeLimits(Struct, frozen=True, kw_only=True):
    """How long a server may take.

    Attributes:
        connect_ms: To reach the server, TLS included, in milliseconds.
        first_token_ms: From the request to the first part of the answer, in milliseconds.
        idle_ms: Between two chunks of the answer, in milliseconds; twice as long for models that
            think.
        total_ms: From the request to the end where the client set no ``timeout_ms``, in
            milliseconds.
    """

    connect_ms: Positive = 5000
    first_token_ms: Positive = 60_000
    idle_ms: Positive = 60_000
    total_ms: Positive = 300_000

    def timeouts(self) -> Timeouts:
        """The same in seconds."""
        return Timeouts(
            self.connect_ms / 1000,
            self.first_token_ms / 1000,
            self.idle_ms / 1000,
            self.total_ms / 1000,
        )


class Request(NamedTuple):
    """A POST of JSON."""

    url: str
    headers: Headers
    body: bytes


class Unreachable(CarError):
    """No connection to the server came about."""


class Deadline:
    """How long a server may keep its client waiting, and with which error that ends.

    Only the time spent waiting counts: a consumer that is slow uses up none of it.
    """

    def __init__(self) -> None:
        self._limits: dict[str, tuple[float, CarError]] = {}

    def set(self, name: str, seconds: float, error: CarError) -> None:
        """Set a limit from now on, in place of the one of the same name."""
        self._limits[name] = (seconds, error)

    def clear(self, name: str) -> None:
        """Forget a limit."""
        self._limits.pop(name, None)

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[None, None]:
        """Wait for something, at most until the first limit is used up."""
        started = _now()
        left_s, error = min(self._limits.values(), key=lambda limit: limit[0])
        timer = asyncio.timeout(left_s)
        try:
            async with timer:
                yield
        except TimeoutError:
            if timer.expired():
                raise error from None
            raise
        waited_s = _now() - started
        for name, (seconds, kind) in self._limits.items():
            self._limits[name] = (seconds - waited_s, kind)


def _now() -> float:
    return asyncio.get_running_loop().time()


class Response:
    """A response whose body is still coming.

    Attributes:
        media_type: Of the body, without parameters, in lower case.
    """

    def __init__(self, response: httpx.Response, deadline: Deadline) -> None:
        self._response = response
        self._deadline = deadline
        content_type: str = response.headers.get("content-type", "")
        self.media_type = content_type.partition(";")[0].strip().lower()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes.

        Raises:
            CarError: ``stream_interrupted`` when the connection breaks, or a limit's error.
        """
        import httpx  # noqa: PLC0415 - a request has loaded it

        # An iterator by its annotation, a generator in fact: closed here, not some time later.
        stream = cast("AsyncGenerator[bytes, None]", self._response.aiter_bytes())
        async with aclosing(stream) as pieces:
            while True:
                try:
                    async with self._deadline():
                        piece = await anext(pieces, None)
                except httpx.HTTPError as error:
                    raise interrupted(failures.cause_of(str(error))) from error
                if piece is None:
                    return
                yield piece

    async def read(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            CarError: ``provider_error`` when it is longer, else as :meth:`pieces`.
        """
        body = await self.beginning(max_bytes + 1)
        if len(body) > max_bytes:
            raise CarError("provider_error", f"the server's answer exceeds {max_bytes} bytes")
        return body

    async def beginning(self, max_bytes: int) -> bytes:
        """The body, as far as it is no longer than this."""
        body = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) >= max_bytes:
                    break
        return bytes(body[:max_bytes])


class HttpClient:
    """Keeps connections open between requests.

    It speaks HTTP/1.1, also to servers that offer HTTP/2: there httpx does not tell the server that
    an answer is no longer wanted, so a cancel would stop nothing and the tokens would be paid for.

    Proxies and certificates are taken from the usual environment variables (``HTTPS_PROXY``,
    ``NO_PROXY``, ``SSL_CERT_FILE``); this machine is asked without a proxy. Redirects are not
    followed: they would carry the key away.

    Args:
        timeouts: Only ``connect`` is used here; the rest belongs to each request's deadline.
        now: The time of day, for ``Retry-After``.
    """

    def __init__(
        self, timeouts: Timeouts, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._timeouts = timeouts
        self._now = now
        self._client: httpx.AsyncClient | None = None
        self._starting = asyncio.Lock()

    @asynccontextmanager
    async def post(self, request: Request, deadline: Deadline) -> AsyncGenerator[Response, None]:
        """Send a request; leaving the block drops the connection unless all was read.

        Raises:
            CarError: What the response or its absence means.
        """
        response = await self._send(request, deadline)
        try:
            if not response.is_success:
                raise await self._refusal(response, request, deadline)
            yield Response(response, deadline)
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Drop all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _send(self, request: Request, deadline: Deadline) -> httpx.Response:
        async with deadline():
            client = await self._started()
        import httpx  # noqa: PLC0415 - the client has loaded it

        try:
            message = client.build_request(
                "POST", request.url, headers=request.headers.fields, content=request.body
            )
            async with deadline():
                return await client.send(message, stream=True)
        except httpx.ConnectTimeout as error:
            limit = f"no connection to the server within {self._timeouts.connect:g} s"
            raise Unreachable("timeout", limit) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = failures.cut(failures.redacted(str(error), request.headers.secrets))
            failure = Unreachable if isinstance(error, httpx.ConnectError) else CarError
            raise failure("provider_error", f"transport: {said or type(error).__name__}") from None

    async def _refusal(
        self, response: httpx.Response, request: Request, deadline: Deadline
    ) -> CarError:
        try:
            body = await Response(response, deadline).beginning(MAX_ERROR_BODY_BYTES)
        except CarError:
            body = b"<failed to read body>"
        return failures.of_response(
            response.status_code,
            response.headers,
            body,
            now=self._now(),
            secrets=request.headers.secrets,
        )

    async def _started(self) -> httpx.AsyncClient:
        """The client. Loading httpx and the certificates takes long, so a thread does it."""
        async with self._starting:
            if self._client is None:
                try:
                    self._client = await asyncio.to_thread(_make_client, self._timeouts.connect)
                except (ImportError, OSError, ValueError) as error:
                    detail = "HTTP cannot be set up; check HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE"
                    raise CarError("io_error", detail) from error
            return self._client


def _make_client(connect_s: float) -> httpx.AsyncClient:
    from http.cookiejar import DefaultCookiePolicy  # noqa: PLC0415 - see the next line

    import httpx  # noqa: PLC0415 - only who has such a model pays for it

    # It would tell every request on standard error.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(None, connect=connect_s),
        limits=httpx.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_S,
        ),
        # What runs on this machine is not asked through a proxy, as in browsers: no proxy could
        # reach it, and its keys are not the proxy's business.
        mounts=dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]")),
        follow_redirects=False,
    )
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client
