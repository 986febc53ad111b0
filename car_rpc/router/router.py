"""Which model answers a request, and why. Pure; ``spec/ROUTING.md`` has the rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from msgspec import UNSET, UnsetType

from car_rpc.errors import CarError
from car_rpc.router.ask import Ask
from car_rpc.router.filters import Reasons, beyond_limits, has_limits, unfit, wanted
from car_rpc.router.scores import (
    Candidate,
    Known,
    Scored,
    local_bonus,
    scored,
    weighed,
    weights_of,
)
from car_rpc.router.select import Selection, select
from car_rpc.wire.models import Capability
from car_rpc.wire.routing import RouteCandidate, RouteDecision, RoutingConfig, RoutingStrategy

#: ``predicted_quality`` where the client chose the model.
CHOSEN_QUALITY = 0.5

#: Most reasons that an error tells.
_MAX_REASONS = 32


def route(
    candidates: Iterable[Candidate],
    ask: Ask,
    config: RoutingConfig,
    seed: int,
    *,
    known: Known | None = None,
    shown: int | None = None,
) -> RouteDecision:
    """Choose a model, and say why.

    Args:
        candidates: The models that there are; of equals, the earlier one is preferred.
        ask: What is asked of one.
        config: How to choose.
        seed: Of the random numbers; the same one gives the same choice.
        known: What earlier decisions worked out; without it, it is worked out anew.
        shown: Most candidates that the decision lists; ``None`` for all.

    Raises:
        CarError: ``model_not_found`` when none can answer; ``data.candidates`` says why not.
    """
    table = None if known is None else known.table(ask, config)
    passed, shut_off, refused = _filtered(candidates, ask, config, table)
    if not passed:
        raise nobody(ask.needs, {each.model.id: reason for each, reason in refused})
    kept, unwanted = wanted(passed, ask, shut_off)
    selection = select(kept, ask, config, seed)
    chosen, strategy, reason = kept[selection.chosen], *_why(selection, ask, config)
    left_out = chain(
        ((parts, unwanted[parts.model.id]) for parts in passed if parts.model.id in unwanted),
        ((scored(each, ask, config, table), reason) for each, reason in refused),
    )
    listed = chain(_ranked(selection), _left_out(left_out, selection))
    return RouteDecision(
        model_id=chosen.model.id,
        model_name=chosen.model.name,
        task=ask.task,
        complexity=ask.complexity,
        reason=reason,
        strategy=strategy,
        predicted_quality=chosen.quality,
        fallbacks=[kept[n].model.id for n in selection.ranking if n != selection.chosen],
        context_length=chosen.model.context_length,
        needs_compaction=_needs_compaction(chosen, ask),
        candidates=[*islice(listed, shown)],
        propensity=selection.propensity,
        input_tokens=ask.input_tokens,
        output_tokens=ask.output_tokens,
    )


def chosen_by_client(
    ask: Ask,
    config: RoutingConfig,
    chosen: Candidate,
    reason: str,
    failover: Sequence[Candidate] | None = None,
) -> RouteDecision:
    """The decision where the client's word is the reason, and nothing is weighed.

    Args:
        ask: What is asked.
        config: How scores are made.
        chosen: The model.
        reason: Why, for people.
        failover: The other members of the pool, in their order, when the client named a pool.
    """
    weights = weights_of(ask, config, quality_first=False)
    everyone = [scored(each, ask, config) for each in (chosen, *(failover or ()))]
    scores = weighed(everyone, weights, local_bonus(ask, config))
    first, *others = everyone
    model = chosen.model
    return RouteDecision(
        model_id=model.id,
        model_name=model.name,
        task=ask.task,
        complexity=ask.complexity,
        reason=reason,
        strategy="explicit" if failover is None else "pool",
        predicted_quality=CHOSEN_QUALITY,
        fallbacks=[parts.model.id for parts in others],
        context_length=model.context_length,
        needs_compaction=_needs_compaction(first, ask),
        candidates=[
            _shown(
                parts,
                score,
                selected=parts is first,
                in_band=True,
                why_not=UNSET if parts is first else "not the home in its pool",
            )
            for parts, score in zip(everyone, scores, strict=True)
        ],
        propensity=1.0,
        input_tokens=ask.input_tokens,
        output_tokens=ask.output_tokens,
    )


def nobody(needs: frozenset[Capability], refused: Reasons) -> CarError:
    """The error of a request that no model can answer."""
    names = " and ".join(map(repr, sorted(needs)))
    noun = "capability" if len(needs) == 1 else "capabilities"
    return CarError(
        "model_not_found",
        f"no available model has the {noun} {names};"
        " `data.candidates` says what each lacks, `car-rpc doctor` how to add one",
        capabilities=sorted(needs),
        candidates=[
            {"model_id": model_id, "why_not": reason}
            for model_id, reason in list(refused.items())[:_MAX_REASONS]
        ],
    )


def _filtered(
    candidates: Iterable[Candidate],
    ask: Ask,
    config: RoutingConfig,
    known: dict[str, Scored] | None,
) -> tuple[list[Scored], frozenset[str], list[tuple[Candidate, str]]]:
    """Those that can answer; ids of those of them that are shut off; and why the others cannot."""
    limited = has_limits(config)
    passed: list[Scored] = []
    shut_off: list[str] = []
    refused: list[tuple[Candidate, str]] = []
    for candidate in candidates:
        reason = unfit(candidate, ask.needs)
        if reason is None:
            parts = scored(candidate, ask, config, known)
            reason = beyond_limits(parts, config) if limited else None
            if reason is None:
                passed.append(parts)
                if candidate.breaker_open:
                    shut_off.append(candidate.model.id)
                continue
        refused.append((candidate, reason))
    return passed, frozenset(shut_off), refused


def _needs_compaction(parts: Scored, ask: Ask) -> bool:
    return 0 < parts.model.context_length < ask.input_tokens


def _why(selection: Selection, ask: Ask, config: RoutingConfig) -> tuple[RoutingStrategy, str]:
    chosen, best = selection.chosen, selection.ranking[0]
    strategy: RoutingStrategy
    if chosen != best:
        strategy = "exploration"
    elif selection.passed[chosen].belief.calls >= config.min_observations:
        strategy = "profile_based"
    else:
        strategy = "schema_based"
    count = len(selection.ranking)
    if count == 1:
        return strategy, f"the only candidate for {ask.task}"
    if chosen != best:
        return strategy, f"exploring {ask.task} among {selection.contenders} contenders"
    return strategy, f"best score for {ask.task} of {count} candidates"


def _ranked(selection: Selection) -> Iterator[RouteCandidate]:
    """Those that could have been chosen: the one that was, then the others in their order."""
    passed, scores, chosen = selection.passed, selection.scores, selection.chosen
    yield _shown(passed[chosen], scores[chosen], selected=True, in_band=True)
    for place, index in enumerate(selection.ranking):
        if index == chosen:
            continue
        in_band = place < selection.in_band
        if not in_band:
            reason = "below the quality floor"
        elif scores[index] > scores[chosen]:
            reason = "another model is being explored"
        else:
            reason = "lower score"
        yield _shown(passed[index], scores[index], in_band=in_band, why_not=reason)


def _left_out(
    others: Iterable[tuple[Scored, str]], selection: Selection
) -> Iterator[RouteCandidate]:
    """The others, and why."""
    for parts, reason in others:
        (score,) = weighed([parts], selection.weights, selection.bonus)
        yield _shown(parts, score, why_not=reason)


def _shown(
    parts: Scored,
    score: float,
    *,
    selected: bool = False,
    in_band: bool = False,
    why_not: str | UnsetType = UNSET,
) -> RouteCandidate:
    return RouteCandidate(
        model_id=parts.model.id,
        reliability=parts.reliability,
        score=score,
        selected=selected,
        in_band=in_band,
        quality=parts.quality,
        latency=parts.latency,
        cost=parts.cost,
        latency_ms=parts.latency_ms,
        cost_usd=parts.cost_usd,
        why_not=why_not,
    )
