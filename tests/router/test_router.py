"""What holds of every decision, beyond the cases of the vectors."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.router.ask import Ask
from car_rpc.router.belief import Belief, Draws, belief_of, declared_quality
from car_rpc.router.estimate import estimated_tokens, input_tokens, text_tokens
from car_rpc.router.router import chosen_by_client, route
from car_rpc.router.scores import Candidate, Known, scored
from car_rpc.router.select import MAX_CONTENDERS
from car_rpc.router.splitmix import SplitMix64, fnv1a64
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import (
    Capability,
    Cost,
    DelegatedSource,
    LocalSource,
    ModelSchema,
    Performance,
)
from car_rpc.wire.outcomes import ModelProfile, TaskStats
from car_rpc.wire.routing import IntentHint, RouteDecision, RoutingConfig

CONFIG = RoutingConfig()
BATCH = Ask(workload="batch", output_tokens=100)


def model(name: str, *capabilities: Capability, **fields: Any) -> ModelSchema:
    return ModelSchema(
        id=f"t/{name}:a",
        name=name,
        provider="t",
        source=DelegatedSource(),
        capabilities=["generate", *capabilities],
        **fields,
    )


def observed(name: str, calls: int, quality: float) -> Candidate:
    stats = TaskStats(calls=calls, success_count=calls, ema_quality=quality)
    return Candidate(
        model(name),
        profile=ModelProfile(
            model_id=f"t/{name}:a",
            total_calls=calls,
            success_count=calls,
            ema_quality=quality,
            task_stats={"generate": stats},
        ),
    )


candidates = st.builds(
    Candidate,
    st.just(model("x")),
    available=st.booleans(),
    fits=st.booleans(),
    breaker_open=st.booleans(),
    refusal=st.none(),
    profile=st.none()
    | st.builds(
        lambda calls, quality: observed("x", calls, quality).profile,
        st.integers(0, 50),
        st.floats(0, 1),
    ),
)
asks = st.builds(
    BATCH._replace,
    complexity=st.sampled_from(["simple", "medium", "code", "complex"]),
    workload=st.sampled_from(["interactive", "background", "batch", "local_preferred", "fast"]),
    intent=st.builds(
        IntentHint,
        prefer_local=st.booleans(),
        prefer_fast=st.booleans(),
        high_stakes=st.booleans(),
        exclude_models=st.lists(st.sampled_from(["m0", "t/m1:a", "m2"]), max_size=2),
    ),
)


@given(st.lists(candidates, min_size=1, max_size=12), asks, st.integers(0, 2**64 - 1))
def test_of_those_that_can_one_is_chosen_and_every_other_one_has_a_reason(
    rows: list[Candidate], ask: Ask, seed: int
) -> None:
    rows = [row._replace(model=model(f"m{n}")) for n, row in enumerate(rows)]
    able = {row.model.id for row in rows if row.available and row.fits}
    if not able:
        with pytest.raises(CarError):
            route(rows, ask, CONFIG, seed)
        return
    decision = route(rows, ask, CONFIG, seed)
    first, *others = decision.candidates
    assert first.selected
    assert first.model_id == decision.model_id
    assert first.why_not is msgspec.UNSET
    assert {each.model_id for each in decision.candidates} == {row.model.id for row in rows}
    assert len(decision.candidates) == len(rows)
    assert all(each.why_not and not each.selected for each in others)
    assert {decision.model_id, *decision.fallbacks} <= able
    assert decision.model_id not in decision.fallbacks
    assert 0 < decision.propensity <= 1 + 1e-9


@given(st.lists(candidates, min_size=2, max_size=6), st.lists(asks, min_size=2, max_size=6))
def test_what_is_remembered_of_earlier_requests_changes_no_decision(
    rows: list[Candidate], requests: list[Ask]
) -> None:
    priced = Cost(input_per_mtok_usd=1.0, output_per_mtok_usd=3.0)
    declared = Performance(tokens_per_second=50.0)
    models = [
        model(f"m{n}", cost=(priced, UNSET)[n % 2], performance=(declared, UNSET)[n % 3 // 2])
        for n in range(len(rows))
    ]
    rows = [
        row._replace(model=each, available=True, fits=True)
        for row, each in zip(rows, models, strict=True)
    ]
    known = Known()
    for number, ask in enumerate(requests):
        ask = ask._replace(output_tokens=100 * number, input_tokens=50 * number)  # noqa: PLW2901 - each of another length
        decision = route(rows, ask, CONFIG, number, known=known)
        assert decision == route(rows, ask, CONFIG, number)
        few = route(rows, ask, CONFIG, number, known=known, shown=2)
        assert few == msgspec.structs.replace(decision, candidates=decision.candidates[:2])
        rows = [rows[-1]._replace(model=rows[0].model), *rows[1:]]


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1)), min_size=2, max_size=6))
def test_the_propensities_of_all_that_may_be_chosen_add_up_to_1(
    known: list[tuple[int, float]],
) -> None:
    rows = [observed(f"m{n}", calls, quality) for n, (calls, quality) in enumerate(known)]
    found: dict[str, float] = {}
    for seed in range(200):
        decision = route(rows, BATCH, CONFIG, seed)
        found[decision.model_id] = decision.propensity
        if sum(found.values()) > 0.999:
            break
    # What was not drawn in so many tries is unlikely: the sum is never above 1.
    assert 0.9 < sum(found.values()) <= 1 + 1e-6


def test_choices_come_as_often_as_their_propensity_says() -> None:
    rows = [observed("bad", 20, 0.5), observed("good", 20, 0.7), observed("new", 0, 0.5)]
    decisions = [route(rows, BATCH, CONFIG, seed) for seed in range(1500)]
    for name in ("bad", "good", "new"):
        chosen = [each for each in decisions if each.model_id == f"t/{name}:a"]
        (propensity,) = {each.propensity for each in chosen}
        assert len(chosen) / len(decisions) == pytest.approx(propensity, abs=0.05)


@pytest.mark.parametrize("workload", ["interactive", "fast"])
def test_who_waits_gets_the_best_known_answer_whatever_the_seed(workload: Any) -> None:
    rows = [observed("bad", 3, 0.5), observed("good", 20, 0.7), observed("new", 0, 0.5)]
    decisions = [route(rows, BATCH._replace(workload=workload), CONFIG, s) for s in range(50)]
    assert {(each.model_id, each.propensity) for each in decisions} == {("t/good:a", 1.0)}
    open_to_it = RoutingConfig(explore_interactive=True)
    decisions = [route(rows, BATCH._replace(workload=workload), open_to_it, s) for s in range(50)]
    assert len({each.model_id for each in decisions}) > 1


def test_what_is_tried_is_bounded() -> None:
    rows = [observed(f"m{n:03}", 0, 0.5) for n in range(200)]
    seen: set[str] = set()
    for seed in range(100):
        seen.add(route(rows, BATCH, CONFIG, seed).model_id)
    assert 1 < len(seen) <= MAX_CONTENDERS


def test_a_model_that_failed_lately_is_left_although_it_did_well_for_long() -> None:
    long_good = observed("old", 10_000, 0.2)
    decision = route([long_good, observed("new", 0, 0.5)], Ask(), CONFIG, 0)
    assert decision.model_id == "t/new:a"


def decided_by_client(tokens: int, window: int) -> RouteDecision:
    ask = Ask(input_tokens=tokens)
    return chosen_by_client(
        ask, CONFIG, Candidate(model("x", context_length=window)), "explicit model"
    )


@pytest.mark.parametrize(
    ("tokens", "window", "compacts"), [(10, 0, False), (10, 10, False), (11, 10, True)]
)
def test_the_clients_choice_is_not_weighed(tokens: int, window: int, compacts: bool) -> None:
    decision = decided_by_client(tokens, window)
    assert (decision.strategy, decision.reason) == ("explicit", "explicit model")
    assert (decision.predicted_quality, decision.fallbacks) == (0.5, [])
    assert (decision.propensity, decision.needs_compaction) == (1.0, compacts)
    (only,) = decision.candidates
    assert (only.model_id, only.selected, only.why_not) == ("t/x:a", True, msgspec.UNSET)


def test_when_nobody_can_the_error_names_what_was_needed_and_what_each_lacks() -> None:
    with pytest.raises(CarError) as caught:
        route([Candidate(model("x"))], Ask(needs=frozenset({"generate", "vision"})), CONFIG, 0)
    assert "capabilities 'generate' and 'vision'" in caught.value.message
    assert caught.value.extra["candidates"] == [{"model_id": "t/x:a", "why_not": "lacks vision"}]


@pytest.mark.parametrize(
    ("count", "quality"),
    [("1B", 0.4), ("3b", 0.5), ("7000M", 0.6), ("8x7B", 0.8), ("30B-A3B", 0.79542), ("huge", 0.5)],
)
def test_a_larger_model_is_expected_to_be_better(count: str, quality: float) -> None:
    assert declared_quality(model("x", param_count=count), "code") == pytest.approx(quality)
    made_for_it = model("x", "code", param_count=count)
    assert declared_quality(made_for_it, "code") == pytest.approx(quality + 0.05)
    assert declared_quality(made_for_it, "generate") == pytest.approx(quality)


def test_an_observation_outweighs_a_prior_and_never_more_than_the_memory_of_the_average() -> None:
    profile = observed("x", 1000, 0.9).profile
    assert profile is not None
    belief = belief_of(model("x"), profile, "generate", 2.0)
    assert belief.alpha + belief.beta == pytest.approx(11)
    assert belief.quality > 0.88


@given(st.floats(0.01, 20), st.floats(0.01, 20))
def test_the_grid_has_the_mean_of_its_distribution(alpha: float, beta: float) -> None:
    probabilities = Draws(Belief(alpha + 1, beta + 1, 0, 0.5)).probabilities
    mean = sum(p * (i + 0.5) / 64 for i, p in enumerate(probabilities))
    assert sum(probabilities) == pytest.approx(1)
    assert mean == pytest.approx((alpha + 1) / (alpha + beta + 2), abs=2e-3)


def test_the_generator_and_the_hash_are_those_of_their_authors() -> None:
    # The first outputs for the seed 1234567 in the authors' C code, and FNV's own test vectors.
    random = SplitMix64(1234567)
    assert [int(random.unit() * 2**53) for _ in range(2)] == [
        6457827717110365317 >> 11,
        3203168211198807973 >> 11,
    ]
    assert fnv1a64(b"") == 0xCBF29CE484222325
    assert fnv1a64(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a64(b"foobar") == 0x85944171F73967E8


def test_an_unknown_price_is_not_free_and_a_local_model_is() -> None:
    unpriced, local = model("x"), msgspec.structs.replace(model("y"), source=LocalSource(path="x"))
    assert scored(Candidate(unpriced), Ask(), CONFIG).cost_usd is None
    assert scored(Candidate(local), Ask(), CONFIG).cost_usd == 0


@given(st.text(), st.text())
def test_tokens_grow_with_the_text_and_are_at_least_a_quarter_of_its_characters(
    one: str, two: str
) -> None:
    assert text_tokens(one + two) >= text_tokens(one)
    assert text_tokens(one) * 4 >= len(one)


def test_an_estimate_counts_messages_tools_and_images() -> None:
    request: dict[str, Any] = {"prompt": "x" * 400, "params": {"max_tokens": 50}}
    sizes = [input_tokens(msgspec.convert(request, GenerateRequest))]
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/i.png"}}
    for member, value in {
        "context": "Be brief.",
        "messages": [{"role": "user", "content": "hello"}],
        "images": [image],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    }.items():
        request[member] = value
        sizes.append(input_tokens(msgspec.convert(request, GenerateRequest)))
    assert sizes[0] == 104
    assert sizes == sorted(set(sizes))
    whole = msgspec.convert(request, GenerateRequest)
    window = sizes[-1] + 50
    assert estimated_tokens(whole, model("x", context_length=window)) == (sizes[-1], window, True)
    assert not estimated_tokens(whole, model("x", context_length=window - 1)).fits
    assert estimated_tokens(whole) == (sizes[-1], 0, True)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"task":"chat","prefer_local":true,"require":["tool_use"]}',
        b"{}",
    ],
)
def test_a_hint_is_written_as_it_was_read(raw: bytes) -> None:
    request = msgspec.json.decode(b'{"prompt":"x","intent":%b}' % raw, type=GenerateRequest)
    assert msgspec.json.encode(request.intent) == raw


def test_a_hint_that_is_empty_is_one_and_one_that_is_absent_is_none() -> None:
    empty = msgspec.json.decode(b'{"prompt":"x","intent":{}}', type=GenerateRequest).intent
    assert isinstance(empty, IntentHint)
    assert (empty.task, empty.prefer_local, empty.require) == (msgspec.UNSET, False, [])
    absent = msgspec.json.decode(b'{"prompt":"x"}', type=GenerateRequest)
    assert absent.intent is msgspec.UNSET
