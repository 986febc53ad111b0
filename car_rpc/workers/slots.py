"""How many answers a worker gives at once, and how much context each may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Tokens of context per request where nobody asks: long conversations fit, and the memory for
#: them stays far below what the weights of a model with a context of a million would suggest.
DEFAULT_CONTEXT_LENGTH = 8192

#: Where their memory is taken at once, a request has so many to begin with.
FIRST_CONTEXT_LENGTH = 2048

#: Memory for the attention caches of all slots, in bytes, beyond which slots are given up.
KV_BUDGET_BYTES = 1024**3

#: The same for what is kept of prompts whose slot another needed: copies beside the slots.
SAVED_BUDGET_BYTES = 1024**3

#: Slots that a worker has for conversations that come in turns.
MAX_SLOTS = 4

#: More answers at once than this make each too slow on a desktop's processor.
MAX_GROWN_SLOTS = 8


def context_length(asked: int | None, trained: int) -> int:
    """Tokens of context per request.

    Args:
        asked: What the model's entry asks for.
        trained: What the model was trained on; 0 when it does not say.
    """
    wanted = asked or DEFAULT_CONTEXT_LENGTH
    return min(wanted, trained or wanted)


def longest_context(
    length: int, trained: int, slot_bytes: Callable[[int], int], slots: int = 1
) -> int:
    """Tokens of context that a request can be given where it needs more than others.

    Args:
        length: What each has to begin with.
        trained: What the model was trained on; 0 when it does not say.
        slot_bytes: What a cache for so many tokens takes.
        slots: How many there are, of which all but one may be given up; where there are none yet,
            the one that comes first takes its part of the memory.

    Returns:
        As often twice as many as half of the free memory has room for, within what the model knows.
    """
    free = free_memory() + (slots - 1) * slot_bytes(length)
    while length < trained:
        longer = min(2 * length, trained)
        if slot_bytes(longer) > free // 2:
            break
        length = longer
    return length


def slots_of(slot_bytes: int, most: int) -> int:
    """How many slots, up to some number, half of the free memory has room for."""
    return min(most, free_memory() // 2 // max(slot_bytes, 1))


def slot_count(slot_bytes: int, beside: int = 0) -> int:
    """How many slots there are for conversations, when each needs a cache of so many bytes.

    Args:
        slot_bytes: What the cache of each takes.
        beside: What each takes besides, where there is the memory for it.

    Raises:
        MemoryError: The machine has not even the memory for one. The system might promise it
            all the same, and run out of it later.
    """
    if slot_bytes > physical_memory():
        raise MemoryError
    budget = min(KV_BUDGET_BYTES, free_memory() // 2)
    return max(1, min(MAX_SLOTS, budget // max(slot_bytes + beside, 1)))


def saved_budget() -> int:
    """Memory for the caches of prompts that had to make room, in bytes."""
    return min(SAVED_BUDGET_BYTES, physical_memory() // 16)


def more_slots(slots: int, slot_bytes: int, wanted: int, most: int = MAX_GROWN_SLOTS) -> int:
    """How many slots there are to be.

    Args:
        slots: How many there are.
        slot_bytes: What the cache of each takes.
        wanted: How many would be of use.
        most: More there must not be.

    Returns:
        Twice as many as there are, as often as it takes and as their caches take no more than half
        of the free memory.
    """
    while slots < min(wanted, most):
        more = min(2 * slots, most)
        if slots_of(slot_bytes, more) < more:
            break
        slots = more
    return slots


def free_memory() -> int:
    """Memory that nobody uses, in bytes; half of all where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return physical_memory() // 2
    (available,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(available) * 1024


def physical_memory() -> int:
    """Memory of the machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
