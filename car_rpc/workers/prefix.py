"""What two sequences of tokens have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with together.

    Whole slices are compared, in steps that double and, around the first difference, halve: for
    the thousands of tokens of a conversation a loop over them takes a hundred times as long.
    """
    equal, step = 0, 16
    most = min(len(a), len(b))
    while equal < most and a[equal : equal + step] == b[equal : equal + step]:
        equal += step
        step *= 2
    while step > 1:
        step //= 2
        if a[equal : equal + step] == b[equal : equal + step]:
            equal += step
    return min(equal, most)
