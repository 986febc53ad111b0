"""How many tokens to draft: as many as pay, for this model, on this machine, in this text.

A step reads the last token of an answer together with a draft of what may follow it. It gives the
drafted tokens that are right, up to the first wrong one, and one token more. It pays where ::

    tokens / cost > 1
    tokens = 1 + r1 + r1 r2 + r1 r2 r3 + ...
    cost   = 1 + what reading and making the draft takes, in steps without one

``ri`` is how often the i-th token is right where those before it are. All are moving averages of
what was measured, so they follow the machine and the text.

Measuring costs as well: a draft of which nothing is right is time lost. So there is an account of
what drafts have won and lost, and a draft is made only if the account could bear that none of it
is right. Whatever the text, an answer takes no more than :data:`SHARE` longer than without drafts,
and :data:`MAX_LOSS` steps for all answers together.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

#: Lengths of drafts. With the token before them they fill batches of 2, 4, 8 and 16, which is what
#: the kernels of processors work in.
LENGTHS = (1, 3, 7, 15)

#: Share of its time that an answer may lose to drafts which came to nothing.
SHARE = 0.02

#: What may be lost besides, in steps: enough to try a long draft, and forgotten within a page.
MAX_LOSS = 8.0

#: Steps until drafts that did not pay are tried again.
PROBE_STEPS = 32

#: Steps until one goes without a draft, as what it takes grows with the text.
PLAIN_STEPS = 64

#: A draft must promise so much more than no draft: the averages are not exact.
_WORTH = 1.03

#: Guesses until something is measured: what a further token of a draft costs, in steps, and how
#: often a drafted token is right.
_TOKEN_COST, _RIGHT = 0.25, 0.75

#: How much of an average is the last value: of a time, and of whether a token was right.
_TIME_RATE, _RIGHT_RATE = 0.2, 0.1

#: A token that is read in a batch takes about this share of one that is read alone.
_READ_SHARE = 0.25


#: Tokens that the step before leaves to be read: the last one of its draft, and one more.
_LEFT_OVER = 2


class Outcome(NamedTuple):
    """What came of a step that was to have a draft.

    Attributes:
        kind: The kind of the draft.
        asked: How many tokens were to be drafted.
        drafted: How many were; a draft ends where there is no good guess.
        right: How many of them were right.
        chosen: How many tokens the model chose; others had to follow these anyway.
        ended: Whether the answer ended, so that what follows was neither right nor wrong.
        step_s: How long the step took, in seconds.
        drafting_s: How long drafting took, in seconds.
        unread: Tokens that had to be read before anything could be drafted.
    """

    kind: int
    asked: int
    drafted: int
    right: int
    chosen: int
    ended: bool
    step_s: float
    drafting_s: float = 0.0
    unread: int = 0


class Pace:
    """Says how long the next draft is to be, and learns what came of it.

    Args:
        draft_cost: A guess of what making a drafted token takes, in steps.
    """

    def __init__(self, draft_cost: float = 0.0) -> None:
        self._draft_cost = draft_cost
        self._reading: dict[int, float] = {}  # what a draft of a length adds to a step, in steps
        self._right: dict[int, list[float]] = defaultdict(lambda: [_RIGHT] * LENGTHS[-1])
        self._plain_s = 0.0
        self._until_plain = 0
        self._until_probe = 0
        #: What drafts may lose, in steps.
        self.credit = MAX_LOSS

    def begin(self) -> None:
        """Another text begins, in which drafts may pay that did not before."""
        self._until_probe = 0

    def length(self, kind: int, most: int, unread: int = 0) -> int:
        """How many tokens to draft, 0 for none.

        Args:
            kind: The kind of the draft: what is learned of one does not count for others.
            most: How many tokens may follow at most.
            unread: Tokens that must be read before anything can be drafted.
        """
        if self._until_plain <= 0:
            return 0
        lengths = [
            each for each in LENGTHS if each <= most and self._cost(each, unread) - 1 <= self.credit
        ]
        best = max(lengths, key=lambda each: self._speed(kind, each), default=0)
        if best and self._speed(kind, best) > _WORTH:
            return best
        # Of a batch of 4 a processor may make less than of one of 2.
        return min(lengths, key=self._cost) if lengths and self._until_probe <= 0 else 0

    def plain(self, step_s: float) -> None:
        """A step without a draft took so many seconds."""
        self._plain_s = _moved(self._plain_s or step_s, step_s)
        self._until_plain = PLAIN_STEPS
        self._until_probe -= 1
        self._earn(SHARE)

    def learn(self, outcome: Outcome) -> None:
        """Take what came of a draft."""
        drafted = outcome.drafted
        self._until_plain -= 1
        # A pause of the whole process is no cost of a draft: as many steps cost no more.
        reading = min(max(outcome.step_s / self._plain_s - 1, 0.0), float(drafted))
        drafting = min(outcome.drafting_s / self._plain_s, MAX_LOSS)
        if drafted:
            before = self._reading.get(drafted, reading)
            self._reading[drafted] = _moved(before, reading)
        if outcome.unread <= _LEFT_OVER:
            self._draft_cost = _moved(self._draft_cost, drafting / max(drafted, 1))
        self._judge(outcome)
        self._earn(SHARE * outcome.chosen + outcome.chosen - 1 - reading - drafting)

    def _judge(self, outcome: Outcome) -> None:
        """Learn how often which token is right."""
        right, chances = outcome.right, self._right[outcome.kind]

        def move(place: int, chance: float) -> None:
            chances[place] = _moved(chances[place], chance, _RIGHT_RATE)

        for place in range(right):
            move(place, 1.0)
        if right == outcome.asked:  # it would rather have gone on like this than not
            for place in range(right, LENGTHS[-1]):
                move(place, chances[right - 1])
        elif not outcome.ended:
            move(right, 0.0)
            self._until_probe = PROBE_STEPS

    def _earn(self, steps: float) -> None:
        self.credit = max(-MAX_LOSS, min(MAX_LOSS, self.credit + steps))

    def _speed(self, kind: int, length: int) -> float:
        """Tokens in the time of a step."""
        tokens = chance = 1.0
        for right in self._right[kind][:length]:
            chance *= right
            tokens += chance
        return tokens / self._cost(length)

    def _cost(self, length: int, unread: int = 0) -> float:
        """What a step takes, in steps without a draft."""
        # What was not measured yet is in proportion to what was.
        known = self._reading or {1: _TOKEN_COST}
        nearest = min(known, key=lambda each: abs(each - length))
        reading = known[nearest] * length / nearest
        return 1 + reading + self._draft_cost * (length + _READ_SHARE * unread)


def _moved(average: float, value: float, rate: float = _TIME_RATE) -> float:
    return average + rate * (value - average)
