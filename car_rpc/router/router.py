"""Which model answers a request, and why. Pure; ``spec/ROUTING.md`` has the rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET, UnsetType

from car_rpc.errors import CarError
from car_rpc.router.ask import Ask
from car_rpc.router.filters import Reasons, beyond_limits, unfit, wanted
from car_rpc.router.scores import Candidate, Scored, local_bonus, scored, weighed, weights_of
from car_rpc.router.select import Selection, select
from car_rpc.wire.routing import RouteCandidate, RouteDecision, RoutingConfig, RoutingStrategy

#: ``predicted_quality`` where the client chose the model.
CHOSEN_QUALITY = 0.5

#: Most reasons that an error tells.
_MAX_REASONS = 32


def route(
    candidates: Iterable[Candidate], ask: Ask, config: RoutingConfig, seed: int
) -> RouteDecision:
    """Choose a model, and say why.

    Args:
        candidates: The models that there are; of equals, the earlier one is preferred.
        ask: What is asked of one.
        config: How to choose.
        seed: Of the random numbers; the same one gives the same choice.

    Raises:
        CarError: ``model_not_found`` when none can answer; ``data.candidates`` says why not.
    """
    everyone, passed, refused = _filtered(candidates, ask, config)
    kept, unwanted = wanted(passed, ask)
    selection = select(kept, ask, config, seed)
    chosen, strategy, reason = selection.chosen, *_why(selection, ask, config)
    fallbacks = [parts.model_id for parts, _ in selection.ranking if parts is not chosen]
    left_out = [parts for parts in passed if parts.model_id in unwanted]
    left_out += [parts for parts in everyone if parts.model_id in refused]
    return RouteDecision(
        model_id=chosen.model_id,
        model_name=chosen.candidate.model.name,
        task=ask.task,
        complexity=ask.complexity,
        reason=reason,
        strategy=strategy,
        predicted_quality=chosen.quality,
        fallbacks=fallbacks,
        context_length=chosen.candidate.model.context_length,
        needs_compaction=_needs_compaction(chosen, ask),
        candidates=[
            *_ranked(selection),
            *(
                _shown(
                    parts,
                    weighed(parts, selection.weights, selection.bonus),
                    why_not=unwanted.get(parts.model_id) or refused[parts.model_id],
                )
                for parts in left_out
            ),
        ],
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
    bonus = local_bonus(ask, config)
    everyone = [scored(each, ask, config) for each in (chosen, *(failover or ()))]
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
        fallbacks=[parts.model_id for parts in others],
        context_length=model.context_length,
        needs_compaction=_needs_compaction(first, ask),
        candidates=[
            _shown(
                parts,
                weighed(parts, weights, bonus),
                selected=parts is first,
                in_band=True,
                why_not=UNSET if parts is first else "not the home in its pool",
            )
            for parts in everyone
        ],
        propensity=1.0,
        input_tokens=ask.input_tokens,
        output_tokens=ask.output_tokens,
    )


def nobody(needs: Sequence[str], refused: Reasons) -> CarError:
    """The error of a request that no model can answer."""
    names = " and ".join(map(repr, needs))
    noun = "capability" if len(needs) == 1 else "capabilities"
    return CarError(
        "model_not_found",
        f"no available model has the {noun} {names};"
        " `data.candidates` says what each lacks, `car-rpc doctor` how to add one",
        capabilities=[*needs],
        candidates=[
            {"model_id": model_id, "why_not": reason}
            for model_id, reason in list(refused.items())[:_MAX_REASONS]
        ],
    )


def _filtered(
    candidates: Iterable[Candidate], ask: Ask, config: RoutingConfig
) -> tuple[list[Scored], list[Scored], Reasons]:
    """All candidates; those that can answer; and why the others cannot."""
    everyone = [scored(each, ask, config) for each in candidates]
    needs = sorted(ask.needs)
    refused: Reasons = {}
    passed: list[Scored] = []
    for parts in everyone:
        reason = unfit(parts.candidate, needs) or beyond_limits(parts, config)
        if reason is None:
            passed.append(parts)
        else:
            refused[parts.model_id] = reason
    if not passed:
        raise nobody(needs, refused)
    return everyone, passed, refused


def _needs_compaction(parts: Scored, ask: Ask) -> bool:
    return 0 < parts.candidate.model.context_length < ask.input_tokens


def _why(selection: Selection, ask: Ask, config: RoutingConfig) -> tuple[RoutingStrategy, str]:
    chosen, best = selection.chosen, selection.ranking[0][0]
    strategy: RoutingStrategy
    if chosen is not best:
        strategy = "exploration"
    elif chosen.belief.calls >= config.min_observations:
        strategy = "profile_based"
    else:
        strategy = "schema_based"
    count = len(selection.ranking)
    if count == 1:
        return strategy, f"the only candidate for {ask.task}"
    if chosen is not best:
        return strategy, f"exploring {ask.task} among {selection.contenders} contenders"
    return strategy, f"best score for {ask.task} of {count} candidates"


def _ranked(selection: Selection) -> list[RouteCandidate]:
    """Those that could have been chosen: the one that was, then the others in their order."""
    chosen, band = selection.chosen, selection.band
    chosen_score = next(score for parts, score in selection.ranking if parts is chosen)
    shown = [_shown(chosen, chosen_score, selected=True, in_band=True)]
    for parts, score in selection.ranking:
        if parts is chosen:
            continue
        in_band = parts.model_id in band
        if not in_band:
            reason = "below the quality floor"
        elif score > chosen_score:
            reason = "another model is being explored"
        else:
            reason = "lower score"
        shown.append(_shown(parts, score, in_band=in_band, why_not=reason))
    return shown


def _shown(
    parts: Scored,
    score: float,
    *,
    selected: bool = False,
    in_band: bool = False,
    why_not: str | UnsetType = UNSET,
) -> RouteCandidate:
    return RouteCandidate(
        model_id=parts.model_id,
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
