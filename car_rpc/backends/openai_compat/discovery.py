"""Look for servers that run models. Nothing is looked at unless a client asks for it.

Only the addresses that were given are asked, without keys and directly: through no proxy, and no
redirect is followed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from car_rpc.backends.openai_compat.listing import OPENAI_LISTING, Listing, further_paths, listed
from car_rpc.backends.openai_compat.presence import Presence
from car_rpc.backends.openai_compat.upstream import base_of
from car_rpc.wire.models import (
    DiscoveredServer,
    Endpoint,
    ModelSchema,
    ModelsDiscoverParams,
    ModelsDiscoverResult,
)

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

#: Longest listing, in bytes: thousands of models.
MAX_LISTING_BYTES = 4 * 1024 * 1024

#: Names the address of a vLLM-MLX server.
VLLM_MLX_VARIABLE = "VLLM_MLX_ENDPOINT"

_OK = 200
#: mlx_lm's server, which sends its headers before it looks for its models.
_NO_BODY = (
    "its `/v1/models` is empty; if it is `mlx_lm.server`, make Hugging Face's cache folder"
    " (`HF_HUB_CACHE`), or register its model yourself"
)
_NEEDS_KEY = (401, 403)


class DiscoveryPolicy(Struct, frozen=True, kw_only=True):
    """Where servers with models are looked for, when a client asks for it.

    Attributes:
        enabled: Whether they are looked for at all.
        endpoints: Addresses that are looked at: by default those of this machine where Ollama,
            LM Studio, llama-server and mlx_lm, vLLM and vLLM-MLX, and a second llama-server
            listen. `VLLM_MLX_ENDPOINT` names one more.
        timeout_ms: How long each of them may take, in milliseconds.
    """

    enabled: bool = True
    endpoints: Annotated[list[Endpoint], Meta(max_length=64)] = msgspec.field(
        default_factory=lambda: [
            "http://127.0.0.1:11434",
            "http://127.0.0.1:1234",
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8000",
            "http://127.0.0.1:8081",
        ]
    )
    timeout_ms: Annotated[int, Meta(ge=1, le=30_000)] = 1000


class Discovery:
    """Finds servers and keeps account of which are there.

    Args:
        presence: Where that is kept.
        policy: Where is looked.
        environ: Names one more address.
    """

    def __init__(
        self,
        presence: Presence,
        policy: DiscoveryPolicy,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._presence = presence
        self._policy = policy
        self._environ = environ

    async def run(self, params: ModelsDiscoverParams) -> ModelsDiscoverResult:
        """Look at all addresses side by side."""
        if not self._policy.enabled:
            return ModelsDiscoverResult(enabled=False, servers=[], registered=[], unavailable=[])
        given = params.endpoints if isinstance(params.endpoints, list) else self._configured()
        endpoints = list(dict.fromkeys(map(base_of, given)))
        timeout_ms = params.timeout_ms or self._policy.timeout_ms
        # Loading httpx and the certificates takes long, so a thread does it.
        async with await asyncio.to_thread(_make_client) as client:
            looks = await asyncio.gather(*(_look(client, each, timeout_ms) for each in endpoints))
        servers: list[DiscoveredServer] = []
        registered: list[str] = []
        unavailable: list[str] = []
        for endpoint, look in zip(endpoints, looks, strict=True):
            if isinstance(look, Listing):
                change = self._presence.listed(endpoint, look.models)
                ids = [model.id for model in look.models]
                servers.append(
                    DiscoveredServer(endpoint=endpoint, reachable=True, kind=look.kind, models=ids)
                )
            else:
                change = self._presence.unreachable(endpoint)
                servers.append(
                    DiscoveredServer(endpoint=endpoint, reachable=False, models=[], reason=look)
                )
            registered += change.registered
            unavailable += change.unavailable
        return ModelsDiscoverResult(
            enabled=True, servers=servers, registered=registered, unavailable=unavailable
        )

    def models(self) -> list[ModelSchema]:
        """All models that were found, also those that went."""
        return self._presence.models()

    def _configured(self) -> list[str]:
        further = self._environ.get(VLLM_MLX_VARIABLE, "").strip()
        if not further:
            return self._policy.endpoints
        try:
            return [*self._policy.endpoints, msgspec.convert(further, Endpoint)]
        except msgspec.ValidationError:
            logger.warning("%s is no address such as http://127.0.0.1:8000", VLLM_MLX_VARIABLE)
            return self._policy.endpoints


class _Unlisted(Exception):
    """An address gave no listing; its text says why."""


class _Answer(NamedTuple):
    server: str
    body: bytes


def _make_client() -> httpx.AsyncClient:
    import httpx  # noqa: PLC0415 - only who looks for servers pays for it

    # It would tell every request on standard error.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=httpx.Timeout(None))


async def _look(client: httpx.AsyncClient, endpoint: str, timeout_ms: int) -> Listing | str:
    """The models at an address, or why there are none."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            return await _listing(client, endpoint)
    except TimeoutError:
        return f"no answer within {timeout_ms} ms"
    except _Unlisted as error:
        return str(error)


async def _listing(client: httpx.AsyncClient, endpoint: str) -> Listing:
    first = await _get(client, f"{endpoint}{OPENAI_LISTING}")
    paths = further_paths(first.body)
    if paths is None:
        raise _Unlisted("its `/v1/models` is no listing of models" if first.body else _NO_BODY)
    answers = await asyncio.gather(
        *(_get(client, f"{endpoint}{path}") for path in paths), return_exceptions=True
    )
    bodies = {OPENAI_LISTING: first.body}
    for path, answer in zip(paths, answers, strict=True):
        if isinstance(answer, _Answer):
            bodies[path] = answer.body
        elif not isinstance(answer, _Unlisted):
            raise answer
    return listed(endpoint, first.server, bodies)


async def _get(client: httpx.AsyncClient, url: str) -> _Answer:
    import httpx  # noqa: PLC0415 - the client has loaded it

    # What is compressed could be far longer than it looks.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        async with client.stream("GET", url, headers=headers) as response:
            if response.status_code != _OK:
                raise _refusal(response.status_code)
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > MAX_LISTING_BYTES:
                    raise _Unlisted(f"its answer exceeds {MAX_LISTING_BYTES} bytes")
            return _Answer(response.headers.get("server", ""), bytes(body))
    except httpx.ConnectError:
        raise _Unlisted("nothing listens there") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _Unlisted(f"no web server answers there ({type(error).__name__})") from None


def _refusal(status: int) -> _Unlisted:
    remedy = ": it wants a key; register its models yourself" if status in _NEEDS_KEY else ""
    return _Unlisted(f"HTTP {status}{remedy}")
