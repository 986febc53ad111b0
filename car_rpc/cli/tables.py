"""Models and decisions as tables for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from car_rpc.registry.fit import weights_bytes
from car_rpc.wire.models import (
    DelegatedSource,
    ModelSchema,
    OllamaSource,
    OpenAICompatSource,
    VllmMlxSource,
)
from car_rpc.wire.routing import RouteCandidate, RouteDecision

_GIB = 1024**3

#: Reason of candidates that are seldom of interest: most of the catalog.
_NOT_AVAILABLE = "not available"


class _Refused(Struct):
    """What an error tells of a model that cannot answer."""

    model_id: str
    why_not: str


def is_listed(model: ModelSchema) -> bool:
    """Whether people want to see a model: not one of the catalog that is not here."""
    return model.weights_ready or model.trust_tier == "community"


def gib(size: int) -> str:
    """A size, as memory is sold."""
    return f"{size / _GIB:.1f} GiB"


def state(model: ModelSchema) -> str:
    """Whether a model can be used now, and if not, what is missing."""
    if model.available:
        return "ok"
    if not model.weights_ready:
        is_elsewhere = model.downloads_weights and getattr(model.source, "path", UNSET) is UNSET
        return "not downloaded" if is_elsewhere else "its file is missing"
    match model.source:
        case OllamaSource() | VllmMlxSource():
            return "its server has gone"
        case OpenAICompatSource():
            return "its key or server is missing"
        case DelegatedSource():
            return "no app runs it"
        case _:
            return "its engine is missing"


def models_table(models: Iterable[ModelSchema]) -> Iterator[str]:
    """A line for each model: id, state, size, context, capabilities."""
    rows = [
        (
            model.id,
            state(model),
            _size(model),
            str(model.context_length or "-"),
            ", ".join(model.capabilities) + (" (toy)" if "demo" in model.tags else ""),
        )
        for model in models
    ]
    return table(("model", "state", "size", "context", "capabilities"), rows)


def explained(decision: RouteDecision, *, everyone: bool) -> Iterator[str]:
    """Which model a request gets, why, and why each of the others lost.

    Args:
        decision: The decision.
        everyone: Whether also those are shown that are not available.
    """
    yield f"{decision.model_id}: {decision.reason}"
    yield (
        f"task {decision.task}, looks {decision.complexity}; about {decision.input_tokens} tokens"
        f" in, at most {decision.output_tokens} out; {decision.strategy}"
    )
    if decision.needs_compaction:
        yield f"The prompt seems longer than its context of {decision.context_length} tokens."
    yield ""
    shown = [each for each in decision.candidates if everyone or each.why_not != _NOT_AVAILABLE]
    heads = ("model", "score", "quality", "speed", "cost", "time", "price", "")
    yield from table(heads, [_row(candidate) for candidate in shown])
    yield from _hidden(len(decision.candidates) - len(shown))


def refusals(data: Mapping[str, Any], *, everyone: bool) -> Iterator[str]:
    """Why no model can answer: a line for each one that an error tells of, if it does."""
    try:
        refused = msgspec.convert(data.get("candidates", []), list[_Refused])
    except msgspec.ValidationError:  # other errors name other things there
        return
    rows = [(each.model_id, each.why_not) for each in refused]
    shown = [row for row in rows if everyone or row[1] != _NOT_AVAILABLE]
    if shown:
        yield from table(("model", "why not"), shown)
    yield from _hidden(len(rows) - len(shown))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns that are as wide as their longest text."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        yield "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def _row(candidate: RouteCandidate) -> tuple[str, ...]:
    time_ms, price = candidate.latency_ms, candidate.cost_usd
    return (
        candidate.model_id,
        f"{candidate.score:.3f}",
        f"{candidate.quality:.2f}",
        f"{candidate.latency:.2f}",
        f"{candidate.cost:.2f}",
        "?" if time_ms is None else f"{time_ms / 1000:.1f} s",
        "?" if price is None else f"${price:.4g}",
        "<- selected" if candidate.selected else str(candidate.why_not or ""),
    )


def _hidden(count: int) -> Iterator[str]:
    if count:
        yield f"(and {count} that are not available: --all)"


def _size(model: ModelSchema) -> str:
    size = weights_bytes(model)
    return gib(size) if size else "-"
