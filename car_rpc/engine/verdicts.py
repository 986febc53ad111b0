"""Scores out of what a model answered in words. Pure.

The rules and their numbers are the executor contract's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from car_rpc.wire.tasks import LabelScore, RankedDocument

#: Words of an answer in which yes or no is looked for: what comes later is an explanation.
_VERDICT_WORDS = 5

_YES, _NO, _UNDECIDED = 1.0, 0.0, 0.5

#: Scores of an answer that is a label, that holds one, and that holds all words of one.
_SAME, _CONTAINED, _WORDS = 1.0, 0.8, 0.5


def verdict(answer: str) -> float | None:
    """1 for yes and 0 for no, whichever of the first words comes first; ``None`` for neither."""
    text = "".join(char if char.isalnum() else " " for char in answer.lower())
    for word in text.split()[:_VERDICT_WORDS]:
        if word in ("yes", "no"):
            return _YES if word == "yes" else _NO
    return None


def undecided(score: float | None) -> float:
    """A score where an answer gave none."""
    return _UNDECIDED if score is None else score


def label_scores(answer: str, labels: Sequence[str]) -> list[LabelScore]:
    """How well each label fits an answer."""
    said = answer.strip().lower()
    scores = [_label_score(said, label.lower()) for label in labels]
    total = sum(scores)
    return best_first(labels, [score / total if total else 0.0 for score in scores])


def likelihood_scores(
    labels: Sequence[str], given_text: Sequence[float], given_nothing: Sequence[float]
) -> list[LabelScore]:
    """How well each label fits by the log-probabilities that a model gives it as its answer.

    Contextual calibration (Zhao et al., "Calibrate Before Use", ICML 2021): what the model would
    answer to a text without content is divided out, so that a label is not preferred for being
    short or common.

    Args:
        labels: The labels.
        given_text: Log-probability of each as the answer to the text.
        given_nothing: Log-probability of each as the answer to a text without content.
    """
    evidence = [text - nothing for text, nothing in zip(given_text, given_nothing, strict=True)]
    most = max(evidence)
    weights = [math.exp(value - most) for value in evidence]
    total = sum(weights)
    return best_first(labels, [weight / total for weight in weights])


def best_first(labels: Sequence[str], scores: Sequence[float]) -> list[LabelScore]:
    """The labels by their scores."""
    scored = [LabelScore(label=lb, score=s) for lb, s in zip(labels, scores, strict=True)]
    return sorted(scored, key=lambda each: -each.score)


def ranked(
    documents: Sequence[str], scores: Sequence[float], top_n: int | None
) -> list[RankedDocument]:
    """The documents by their scores; only the first ``top_n`` where that is given."""
    order = sorted(range(len(documents)), key=lambda index: (-scores[index], index))
    return [
        RankedDocument(index=index, score=scores[index], document=documents[index])
        for index in order[:top_n]
    ]


def _label_score(said: str, label: str) -> float:
    if said == label:
        return _SAME
    if label in said:
        return _CONTAINED
    words = label.split()
    return _WORDS * sum(word in said for word in words) / len(words) if words else 0.0
