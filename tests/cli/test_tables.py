"""Tables that people read."""

from typing import Any

import msgspec
import pytest

from car_rpc.cli.tables import explained, models_table, refusals, state, table
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.routing import RouteDecision

LOCAL = {"type": "local", "path": "/m.gguf"}


def model(source: dict[str, Any], **fields: Any) -> ModelSchema:
    given = {"id": "me/m:1", "source": source, "capabilities": ["generate"], **fields}
    return msgspec.convert(given, ModelSchema)


def candidate(model_id: str, **fields: Any) -> dict[str, Any]:
    scores = {"reliability": 0.5, "score": 0.5, "quality": 0.5, "latency": 0.5, "cost": 0.5}
    unknown = {"latency_ms": None, "cost_usd": None}
    flags = {"selected": False, "in_band": False}
    return {"model_id": model_id, **scores, **unknown, **flags, **fields}


def decision(*candidates: dict[str, Any], **fields: Any) -> RouteDecision:
    given = {
        "model_id": "a/best:1",
        "model_name": "best",
        "task": "code",
        "complexity": "simple",
        "reason": "best score for code of 2 candidates",
        "strategy": "schema_based",
        "predicted_quality": 0.8,
        "fallbacks": ["a/next:1"],
        "context_length": 0,
        "needs_compaction": False,
        "candidates": candidates,
        "propensity": 1.0,
        "input_tokens": 8,
        "output_tokens": 1024,
        **fields,
    }
    return msgspec.convert(given, RouteDecision)


BEST = candidate("a/best:1", selected=True, score=0.8125, latency_ms=1500.0, cost_usd=0.00125)
NEXT = candidate("a/next:1", why_not="lower score")
GONE = candidate("a/gone:1", why_not="not available")


def test_columns_are_as_wide_as_their_longest_text() -> None:
    assert list(table(("a", "b"), [("long", "x"), ("s", "")])) == ["a     b", "long  x", "s"]
    assert list(table(("a", "b"), [])) == ["a  b"]


@pytest.mark.parametrize(
    ("source", "fields", "says"),
    [
        (LOCAL, {"available": True}, "ok"),
        (LOCAL, {}, "its file is missing"),
        (LOCAL, {"downloads_weights": True}, "its file is missing"),
        ({"type": "mlx", "hf_repo": "a/b"}, {"downloads_weights": True}, "not downloaded"),
        (LOCAL, {"weights_ready": True}, "its engine is missing"),
        ({"type": "delegated"}, {"weights_ready": True}, "no app runs it"),
        ({"type": "ollama", "model_tag": "m"}, {"weights_ready": True}, "its server has gone"),
        (
            {"type": "openai_compat", "endpoint": "https://api.acme.com", "model": "m"},
            {"weights_ready": True},
            "its key or server is missing",
        ),
    ],
)
def test_a_state_says_what_is_missing(
    source: dict[str, Any], fields: dict[str, Any], says: str
) -> None:
    assert state(model(source, **fields)) == says


def test_a_model_is_shown_with_its_size_and_context() -> None:
    known = model(
        LOCAL,
        available=True,
        context_length=32768,
        cost={"size_bytes": 3 * 1024**3},
        capabilities=["generate", "code"],
        tags=["demo"],
    )
    heads, first, second = models_table([known, model({"type": "fake", "script": []})])
    assert heads.split() == ["model", "state", "size", "context", "capabilities"]
    assert first.split() == ["me/m:1", "ok", "3.0", "GiB", "32768", "generate,", "code", "(toy)"]
    assert second.split()[-3:] == ["-", "-", "generate"]


def test_a_decision_is_explained_with_every_score_and_why_the_others_lost() -> None:
    text = list(explained(decision(BEST, NEXT, GONE), everyone=False))
    assert text[0] == "a/best:1: best score for code of 2 candidates"
    assert "task code, looks simple; about 8 tokens in, at most 1024 out" in text[1]
    best, other = (line.split() for line in text[4:6])
    scores = ["0.50", "0.50", "0.50"]
    assert best == ["a/best:1", "0.812", *scores, "1.5", "s", "$0.00125", "<-", "selected"]
    assert other == ["a/next:1", "0.500", *scores, "?", "?", "lower", "score"]
    assert text[6:] == ["(and 1 that are not available: --all)"]
    assert any("a/gone:1" in line for line in explained(decision(BEST, GONE), everyone=True))


def test_a_prompt_that_seems_too_long_is_said_to_be() -> None:
    long = decision(BEST, needs_compaction=True, context_length=512)
    assert "The prompt seems longer than its context of 512 tokens." in explained(
        long, everyone=True
    )


def test_when_nobody_can_answer_each_reason_is_shown() -> None:
    data = {
        "candidates": [
            {"model_id": "a/one:1", "why_not": "lacks vision"},
            {"model_id": "a/two:1", "why_not": "not available"},
        ]
    }
    heads, one, hidden = refusals(data, everyone=False)
    assert heads.split() == ["model", "why", "not"]
    assert one.split() == ["a/one:1", "lacks", "vision"]
    assert hidden == "(and 1 that are not available: --all)"
    assert len(list(refusals(data, everyone=True))) == 3
    assert list(refusals({"candidates": ["a/one:1"]}, everyone=True)) == []
    assert list(refusals({}, everyone=True)) == []
