"""Which tokens may come next in one answer.

Reasoning is free, but it may not end the answer. What follows it has the form that was asked for,
from its first token on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from car_rpc.workers.constraint.calls import Offer
from car_rpc.workers.constraint.verdict import has_form

if TYPE_CHECKING:
    import numpy as np
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
        form: The form of its text, if it must have one.
        form_grammar: The grammar of the form.
        calls: The grammar of calls that it may or must be instead of a text in the form.
        offer: Calls that the model may make where nothing demands one.
        from_header: Whether ``calls`` tells of whole messages, from their headers on.
        think_token: The token that may begin it with reasoning, if there is one.
    """

    vocabulary: GuideVocabulary
    form: ResponseFormat | None = None
    form_grammar: str = ""
    calls: str = ""
    offer: Offer = Offer()
    from_header: bool = False
    think_token: int | None = None

    @property
    def whole(self) -> list[str]:
        """The grammars of which one must allow the answer as a whole; none for a free one."""
        return [grammar for grammar in (self.form_grammar, self.calls) if grammar]

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
        #: Whether the answer must be like something as a whole.
        self.demands = bool(plan.whole)
        #: Other tokens that may come next, none of which is part of the form.
        self._others = _NONE
        self._guide: Guide | None = None
        #: Whether the answer may not end yet, though anything may come next.
        self._goes_on = self.demands
        #: What may turn out to be a call.
        self._begun: bytes | None = None
        if self.demands and (plan.from_header or not in_reasoning):
            self._guide = self._begin(so_far or "")
            if so_far is None and plan.think_token is not None:
                self._others = frozenset({plan.think_token})

    @property
    def complete(self) -> bool:
        """Whether the answer is whole, and nothing can follow."""
        return self.demands and self._guide is not None and self._guide.complete

    @property
    def lost(self) -> bool:
        """Whether the answer can no longer be what it must."""
        return self.demands and self._guide is not None and self._guide.lost

    def allowed(self) -> NDArray[np.bool_] | None:
        """For each token whether it may come next; ``None`` when all may."""
        if self._guide is None:
            return self._plan.vocabulary.goes_on if self._goes_on else None
        mask = self._guide.allowed()
        if self._others:
            mask[list(self._others)] = True
        return mask

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        if self._guide is None:
            return not self._goes_on or bool(self._plan.vocabulary.goes_on[token])
        return self._guide.allows(token) or token in self._others

    def forced(self) -> list[int]:
        """The tokens that must come next, whatever the model would say."""
        return [] if self._guide is None or self._others else self._guide.forced()

    def accept(self, token: int, segmenter: Segmenter | HarmonySegmenter) -> None:
        """Take the next token, which the segmenter has seen."""
        plan = self._plan
        # With a form, only a call in Harmony's channels is one that no grammar demands.
        if not self.demands or (segmenter.in_call and not plan.calls):
            self._accept_freely(token, segmenter)
            return
        others, self._others = self._others, _NONE
        if segmenter.in_reasoning and not (plan.from_header and segmenter.in_header):
            self._guide = None
        elif self._guide is None:
            begun = (segmenter.entered or "").lstrip("\n")
            self._guide = self._begin(begun)
            if not begun and not plan.from_header:
                self._others = plan.vocabulary.line_ends
        elif token not in others or self._guide.allows(token):
            self._guide.accept(token)

    def verdict(self, text: str) -> bool | None:
        """Whether a whole text has the form; ``None`` where it need not have one."""
        plan = self._plan
        if plan.form is None:
            return None
        return has_form(text, plan.form, plan.form_grammar, plan.vocabulary)

    def _begin(self, text: str) -> Guide:
        guide = self._plan.vocabulary.guide(*self._plan.whole)
        guide.accept_bytes(text.encode())
        return guide

    def _accept_freely(self, token: int, segmenter: Segmenter | HarmonySegmenter) -> None:
        """A free answer is followed from where it is known to be a call to the end of that."""
        self._goes_on = self.demands and not segmenter.in_call
        begun, self._begun = self._begun, None
        if segmenter.entered is not None:
            self._guide = None
            begun = segmenter.entered.encode() if segmenter.in_call else None
        elif self._guide is not None:
            self._guide.accept(token)
        elif begun is not None:
            begun += self._plan.vocabulary.spelling(token)
        if self._guide is None and begun is not None and segmenter.in_call:
            self._begin_call(begun)
        if self._guide is not None and (
            self._guide.lost or (self._guide.complete and not self.demands)
        ):
            self._guide = None

    def _begin_call(self, begun: bytes) -> None:
        """Follow what is a call, or may become one."""
        grammar, heads = self._plan.offer
        if any(begun.startswith(head) for head in heads):
            self._guide = self._plan.vocabulary.guide(grammar)
            self._guide.accept_bytes(begun)
        elif any(head.startswith(begun) for head in heads):
            self._begun = begun


#: No tokens.
_NONE: Final = frozenset[int]()
