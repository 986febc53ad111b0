"""Which models can answer at all. Pure; ``spec/ROUTING.md``, section 2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import UNSET

from car_rpc.router.ask import Ask
from car_rpc.router.scores import Candidate, Scored
from car_rpc.wire.models import DEMO_PROVIDER, Capability
from car_rpc.wire.routing import RoutingConfig

#: What was left out, by id, and why.
Reasons: TypeAlias = dict[str, str]


def unfit(candidate: Candidate, needs: frozenset[Capability]) -> str | None:
    """What keeps a model from any request with these needs, or ``None``."""
    if not needs.issubset(candidate.model.capabilities):
        lacking = needs.difference(candidate.model.capabilities)
        if "grounding" in candidate.model.capabilities:  # who finds things in an image sees it
            lacking -= {"vision"}
        if lacking:
            return f"lacks {min(lacking)}"
    if candidate.refusal is not None:
        return candidate.refusal
    if not candidate.available:
        return "not available"
    if not candidate.fits:
        return "does not fit in memory"
    return None


def has_limits(config: RoutingConfig) -> bool:
    """Whether :func:`beyond_limits` may leave out anything."""
    return not (
        config.min_trust_tier != "curated"
        and config.max_cost_usd is UNSET
        and config.max_latency_ms is UNSET
    )


def beyond_limits(parts: Scored, config: RoutingConfig) -> str | None:
    """Which limit of the configuration a model breaks, or ``None``."""
    if config.min_trust_tier == "curated" and parts.model.trust_tier != "curated":
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


def wanted(
    passed: list[Scored], ask: Ask, shut_off: frozenset[str]
) -> tuple[list[Scored], Reasons]:
    """Those that also meet the wishes, as far as any does; and why the others do not.

    Args:
        passed: Those that can answer.
        ask: What is asked.
        shut_off: Ids of those whose circuit breaker is open.
    """
    left_out: Reasons = {}
    for reason, unwanted in _wishes(passed, ask, shut_off):
        if unwanted:
            kept = [parts for parts in passed if parts.model.id not in unwanted]
            if kept and len(kept) < len(passed):
                left_out |= dict.fromkeys(unwanted.difference(left_out), reason)
                passed = kept
    return passed, left_out


def _wishes(
    passed: list[Scored], ask: Ask, shut_off: frozenset[str]
) -> Iterator[tuple[str, set[str] | frozenset[str]]]:
    """Each wish, and the ids of those that do not meet it."""
    models = [parts.model for parts in passed]
    yield (
        "demo model: used when there is no other",
        {model.id for model in models if model.provider == DEMO_PROVIDER},
    )
    excluded = ask.intent.exclude_models
    if excluded:
        yield (
            "excluded by the request",
            {model.id for model in models if model.id in excluded or model.name in excluded},
        )
    yield (
        "context too short for the prompt",
        {model.id for model in models if 0 < model.context_length < ask.input_tokens},
    )
    yield "circuit breaker open", shut_off
