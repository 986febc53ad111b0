"""Which tokens may come next in one answer.

Reasoning is free, but it may not end the answer. What follows it has the form that was asked for,
from its first token on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from car_rpc.workers.constraint.verdict import has_form

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from car_rpc.wire.inference import ResponseFormat
    from car_rpc.workers.constraint.guide import Guide
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary
    from car_rpc.workers.text.calls.harmony import HarmonySegmenter
    from car_rpc.workers.text.segment import Segmenter


class Plan(NamedTuple):
    """What an answer must be like.

    Attributes:
        vocabulary: Whose tokens it is made of.
        form: The form of its text.
        grammar: The grammar of the form.
        think_token: The token that may begin it with reasoning, if there is one.
    """

    vocabulary: GuideVocabulary
    form: ResponseFormat
    grammar: str
    think_token: int | None

    def constraint(self, *, in_reasoning: bool, so_far: str | None) -> Constraint:
        """The constraint of one such answer.

        Args:
            in_reasoning: Whether the prompt has opened the reasoning.
            so_far: The beginning of its text, where that is part of the prompt.
        """
        return Constraint(self, in_reasoning=in_reasoning, so_far=so_far)


class Constraint:
    """Follows one answer.

    Args:
        plan: What it must be like.
        in_reasoning: Whether the prompt has opened the reasoning.
        so_far: The beginning of its text, where that is part of the prompt.
    """

    def __init__(self, plan: Plan, *, in_reasoning: bool, so_far: str | None) -> None:
        self._plan = plan
        #: Other tokens that may come next, none of which is part of the form.
        self._others = np.array([], np.intp)
        self._guide: Guide | None = None
        if not in_reasoning:
            self._guide = plan.vocabulary.guide(plan.grammar)
            if so_far is not None:
                self._guide.accept_text(so_far)
            elif plan.think_token is not None:
                self._others = np.array([plan.think_token], np.intp)

    @property
    def complete(self) -> bool:
        """Whether the answer is whole, and nothing can follow."""
        return self._guide is not None and self._guide.complete

    @property
    def lost(self) -> bool:
        """Whether the answer can no longer get the form."""
        return self._guide is not None and self._guide.lost

    def allowed(self) -> NDArray[np.bool_]:
        """For each token whether it may come next."""
        if self._guide is None:
            return self._plan.vocabulary.goes_on
        mask = self._guide.allowed()
        mask[self._others] = True
        return mask

    def forced(self) -> list[int]:
        """The tokens that must come next, whatever the model would say."""
        return [] if self._guide is None or self._others.size else self._guide.forced()

    def accept(self, token: int, segmenter: Segmenter | HarmonySegmenter) -> None:
        """Take the next token, which the segmenter has seen."""
        others, self._others = self._others, np.array([], np.intp)
        if segmenter.in_reasoning:
            self._guide = None
        elif self._guide is None:
            self._guide = self._plan.vocabulary.guide(self._plan.grammar)
            begun = (segmenter.entered or "").lstrip("\n")
            self._guide.accept_text(begun)
            if not begun:
                self._others = self._plan.vocabulary.line_ends
        elif token not in others or self._guide.allows(token):
            self._guide.accept(token)

    def verdict(self, text: str) -> bool:
        """Whether a whole text has the form."""
        plan = self._plan
        return has_form(text, plan.form, plan.grammar, plan.vocabulary)
