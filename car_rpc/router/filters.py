"""Which models can answer at all. Pure; ``spec/ROUTING.md``, section 2."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from msgspec import UNSET

from car_rpc.router.ask import Ask
from car_rpc.router.scores import Candidate, Scored
from car_rpc.wire.models import DEMO_PROVIDER
from car_rpc.wire.routing import RoutingConfig

#: What was left out, by id, and why.
Reasons: TypeAlias = dict[str, str]


def unfit(candidate: Candidate, needs: Sequence[str]) -> str | None:
    """What keeps a model from any request with these needs, or ``None``.

    Args:
        candidate: The model as it is now.
        needs: The capabilities, in the order in which they are asked for.
    """
    capabilities = candidate.model.capabilities
    for capability in needs:
        # Who finds things in an image sees it.
        by = "grounding" if capability == "vision" else capability
        if capability not in capabilities and by not in capabilities:
            return f"lacks {capability}"
    if candidate.refusal is not None:
        return candidate.refusal
    if not candidate.available:
        return "not available"
    if not candidate.fits:
        return "does not fit in memory"
    return None


def beyond_limits(parts: Scored, config: RoutingConfig) -> str | None:
    """Which limit of the configuration a model breaks, or ``None``."""
    if config.min_trust_tier == "curated" and parts.candidate.model.trust_tier != "curated":
        return "below min_trust_tier"
    if config.max_cost_usd is not UNSET:
        if parts.cost_usd is None:
            return "price unknown, and max_cost_usd is set"
        if parts.cost_usd > config.max_cost_usd:
            return "costs more than max_cost_usd"
    slowest_ms = math.inf if config.max_latency_ms is UNSET else config.max_latency_ms
    if parts.latency_ms is not None and parts.latency_ms > slowest_ms:
        return "slower than max_latency_ms"
    return None


def wanted(passed: list[Scored], ask: Ask) -> tuple[list[Scored], Reasons]:
    """Those that also meet the wishes, as far as any does; and why the others do not."""
    left_out: Reasons = {}
    for reason, unwanted in _wishes(ask):
        kept = [parts for parts in passed if not unwanted(parts.candidate)]
        if kept and len(kept) < len(passed):
            left_out.update({p.model_id: reason for p in passed if unwanted(p.candidate)})
            passed = kept
    return passed, left_out


def _wishes(ask: Ask) -> Iterator[tuple[str, Callable[[Candidate], bool]]]:
    yield (
        "demo model: used when there is no other",
        lambda c: c.model.provider == DEMO_PROVIDER,
    )
    excluded = frozenset(ask.intent.exclude_models)
    if excluded:
        yield (
            "excluded by the request",
            lambda c: c.model.id in excluded or c.model.name in excluded,
        )
    yield (
        "context too short for the prompt",
        lambda c: 0 < c.model.context_length < ask.input_tokens,
    )
    yield "circuit breaker open", lambda c: c.breaker_open
