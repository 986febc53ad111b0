"""What servers say of their models: bodies of their listings in, models out. Pure.

Every server is asked for OpenAI's listing, ``/v1/models``. Who made it shows in ``owned_by``, and
in the listings of its own that some have besides, which also say more of each model:

- Ollama, ``/api/tags`` (https://docs.ollama.com/api/tags);
- LM Studio, ``/api/v0/models`` (https://lmstudio.ai/docs/developer/rest/endpoints);
- llama-server, ``/props`` (llama.cpp, ``tools/server/README.md``).

llama-server answers ``/api/tags``, too, and LM Studio answers every path with status 200, so a
path alone proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from car_rpc.backends.openai_compat.loose import items, members, text
from car_rpc.registry.catalog import DISCOVERED_TAG
from car_rpc.wire.base import MAX_SAFE_INTEGER
from car_rpc.wire.models import Capability, ModelSchema, OpenAICompatSource, ServerKind

OPENAI_LISTING = "/v1/models"
OLLAMA_LISTING = "/api/tags"
LM_STUDIO_LISTING = "/api/v0/models"
LLAMA_SERVER_PROPERTIES = "/props"

#: Most models of one server; the rest is left out.
MAX_MODELS = 512

_KIND_OF_OWNER: dict[str, ServerKind] = {
    "llamacpp": "llama_server",
    "me": "llama_cpp_python",
    "vllm": "vllm",
    "vllm-mlx": "vllm_mlx",
}

_EMBEDS = re.compile(r"embed|(^|[/_-])(bge|e5|gte|minilm)[-_]|bert", re.IGNORECASE)
_NOT_IN_A_NAME = re.compile(r"[\s:/]+")
_NOT_IN_A_VARIANT = re.compile(r"[\s:]+")
_IS_PATH = re.compile(r"^([/\\~.]|[A-Za-z]:[/\\])")


class Listing(NamedTuple):
    """What a server has.

    Attributes:
        kind: What kind of server it is.
        models: Its models.
    """

    kind: ServerKind
    models: list[ModelSchema]


class _Details(NamedTuple):
    """What a server says of one model beside its name."""

    capabilities: list[Capability] | None = None
    context_length: Any = None
    family: str = ""
    param_count: str = ""
    quantization: str = ""


def further_paths(listing: bytes) -> list[str] | None:
    """What else to ask a server, by its answer to :data:`OPENAI_LISTING`.

    Returns:
        ``None`` when that was no listing.
    """
    entries = _entries(listing)
    if entries is None:
        return None
    kind = _kind_of_owner(entries)
    if kind == "llama_server":
        return [LLAMA_SERVER_PROPERTIES]
    return [] if kind is not None else [OLLAMA_LISTING, LM_STUDIO_LISTING]


def listed(endpoint: str, server: str, bodies: Mapping[str, bytes]) -> Listing:
    """The models of a server.

    Args:
        endpoint: Its address.
        server: Its header ``Server``.
        bodies: Its answers with status 200, by path; :data:`OPENAI_LISTING` is among them.
    """
    entries = _entries(bodies[OPENAI_LISTING]) or []
    ollama = _ollama(bodies.get(OLLAMA_LISTING, b""))
    lm_studio = _lm_studio(bodies.get(LM_STUDIO_LISTING, b""))
    known = _kind_of_owner(entries)
    if known is not None:
        kind, details = known, _of_entries(entries)
        if known == "llama_server":
            details = _with_properties(details, bodies.get(LLAMA_SERVER_PROPERTIES, b""))
    elif ollama is not None:
        kind, details = "ollama", ollama
    elif lm_studio is not None:
        kind, details = "lm_studio", lm_studio
    else:
        # mlx_lm's server is Python's own, and does not say who owns a model.
        kind = "mlx_lm" if server.startswith("BaseHTTP/") else "other"
        details = _of_entries(entries)
    models: dict[str, ModelSchema] = {}
    for entry in entries[:MAX_MODELS]:
        model = _model(kind, endpoint, entry["id"], details.get(entry["id"], _Details()))
        if model is not None:
            models.setdefault(model.id, model)
    return Listing(kind, list(models.values()))


def _entries(body: bytes) -> list[dict[str, Any]] | None:
    """The entries of a listing in OpenAI's form that name a model."""
    data = members(_decoded(body)).get("data")
    if not isinstance(data, list):
        return None
    return [members(entry) for entry in items(data) if text(members(entry).get("id"))]


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None


def _kind_of_owner(entries: list[dict[str, Any]]) -> ServerKind | None:
    owners = {text(entry.get("owned_by")) for entry in entries}
    return _KIND_OF_OWNER.get(owners.pop()) if len(owners) == 1 else None


def _of_entries(entries: list[dict[str, Any]]) -> dict[str, _Details]:
    return {
        entry["id"]: _Details(context_length=entry.get("max_model_len"))  # vLLM's
        for entry in entries
    }


def _ollama(body: bytes) -> dict[str, _Details] | None:
    models = [members(model) for model in items(members(_decoded(body)).get("models"))]
    if not models or not all("digest" in model and "details" in model for model in models):
        return None
    details: dict[str, _Details] = {}
    for model in models:
        said = members(model["details"])
        family = text(said.get("family"))
        details[text(model.get("model")) or text(model.get("name"))] = _Details(
            capabilities=["embed"] if "bert" in family else None,
            family=family,
            param_count=text(said.get("parameter_size")),
            quantization=text(said.get("quantization_level")),
        )
    return details


def _lm_studio(body: bytes) -> dict[str, _Details] | None:
    models = [members(model) for model in items(members(_decoded(body)).get("data"))]
    if not models or not all("type" in model and "arch" in model for model in models):
        return None
    of_type: dict[str, list[Capability]] = {
        "llm": ["generate"],
        "vlm": ["generate", "vision"],
        "embeddings": ["embed"],
    }
    return {
        text(model.get("id")): _Details(
            capabilities=of_type.get(text(model["type"])),
            context_length=model.get("loaded_context_length") or model.get("max_context_length"),
            family=text(model["arch"]),
            quantization=text(model.get("quantization")),
        )
        for model in models
    }


def _with_properties(details: dict[str, _Details], body: bytes) -> dict[str, _Details]:
    properties = members(_decoded(body))
    context = members(properties.get("default_generation_settings")).get("n_ctx")
    sees = members(properties.get("modalities")).get("vision") is True
    capabilities: list[Capability] | None = ["generate", "vision"] if sees else None
    return {
        name: said._replace(context_length=context, capabilities=capabilities)
        for name, said in details.items()
    }


def _model(kind: ServerKind, endpoint: str, name: str, said: _Details) -> ModelSchema | None:
    """A model of the registry, or ``None`` when its name makes no id."""
    guess: list[Capability] = ["embed"] if _EMBEDS.search(name) else ["generate"]
    context_length = said.context_length
    is_length = type(context_length) is int and 0 < context_length <= MAX_SAFE_INTEGER
    model = ModelSchema(
        id=_id(kind, endpoint, name),
        source=OpenAICompatSource(endpoint=endpoint, model=name),
        capabilities=said.capabilities or guess,
        name=name,
        family=said.family,
        context_length=context_length if is_length else 0,
        param_count=said.param_count or UNSET,
        quantization=said.quantization or UNSET,
        tags=[DISCOVERED_TAG],
    )
    try:
        # What a server says is not trusted: it must be what a client may send.
        return msgspec.convert(msgspec.to_builtins(model), ModelSchema)
    except msgspec.ValidationError:
        return None


def _id(kind: ServerKind, endpoint: str, name: str) -> str:
    """``provider/name:variant``: the variant is Ollama's tag, and else where the server is."""
    provider = kind.replace("_", "-")
    where = _where(endpoint)
    if kind == "ollama":
        base, _, tag = name.rpartition(":") if ":" in name else (name, "", "latest")
        tag = _NOT_IN_A_VARIANT.sub("_", tag)
        variant = tag if where == "11434" else f"{tag}@{where}"
        return f"{provider}/{_NOT_IN_A_VARIANT.sub('_', base)}:{variant}"
    if _IS_PATH.match(name):  # servers name a model that is a file by its path
        name = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return f"{provider}/{_NOT_IN_A_NAME.sub('_', name)}:{where}"


def _where(endpoint: str) -> str:
    """The port on this machine, else host, port and path."""
    parts = urlsplit(endpoint)
    port = str(parts.port or {"http": 80, "https": 443}.get(parts.scheme))
    host = "" if parts.hostname in ("127.0.0.1", "localhost", "::1") else parts.hostname or ""
    words = [host.replace(":", "."), port, *parts.path.split("/")]
    return "-".join(word for word in words if word)
