"""What a model's source says of it: where it runs, and how that is told in a word. Pure."""

from __future__ import annotations

import re

from msgspec import UNSET

from car_rpc.wire.models import (
    Adapter,
    DelegatedSource,
    LocalSource,
    MlxSource,
    ModelSource,
    OllamaSource,
    OpenAICompatSource,
    SystemSource,
    VllmMlxSource,
)
from car_rpc.wire.speculation import DraftSpeculation

# What stands in front of an `@` is no host.
_THIS_MACHINE = re.compile(
    r"https?://(localhost|127(\.\d+){3}|\[::1\])(:\d*)?(?=[/?#]|$)", re.IGNORECASE
)


def is_local(source: ModelSource) -> bool:
    """Whether a model runs on this machine, a server on it included."""
    if isinstance(source, OpenAICompatSource | VllmMlxSource):
        return _THIS_MACHINE.match(source.endpoint) is not None
    if isinstance(source, OllamaSource):
        return _THIS_MACHINE.match(source.host) is not None
    return not isinstance(source, DelegatedSource)


def draft_of(source: ModelSource) -> str | None:
    """File of the small model that drafts for a model; ``None`` where there is none."""
    speculation = source.speculation if isinstance(source, LocalSource) else None
    return speculation.path if isinstance(speculation, DraftSpeculation) else None


def adapters_of(source: ModelSource) -> list[Adapter]:
    """The LoRA adapters of a model; none for one that is not run by us."""
    adapters = source.adapters if isinstance(source, LocalSource | MlxSource) else UNSET
    return [] if adapters is UNSET else adapters


def source_label(source: ModelSource) -> str:
    """Where a model comes from, for people. Holds no secret."""
    match source:
        case LocalSource(hf_repo=repo, path=path):
            parts = ["local", repo or path or ""]
        case MlxSource(hf_repo=repo, path=path):
            parts = ["mlx", repo or path or ""]
        case OpenAICompatSource(endpoint=endpoint):
            parts = ["remote", endpoint]
        case OllamaSource(host=host, model_tag=tag):
            parts = ["ollama", host, tag]
        case VllmMlxSource(endpoint=endpoint, model_name=name):
            parts = ["vllm-mlx", endpoint, name]
        case DelegatedSource(hint=hint):
            parts = ["delegated", hint or "(none)"]
        case SystemSource(engine=engine):
            parts = ["system", engine]
        case _:  # a script
            parts = ["fake"]
    return ":".join(parts)
