"""A hash and random numbers that every language makes alike: ``spec/ROUTING.md``, section 8."""

from __future__ import annotations

_MASK = 2**64 - 1


def fnv1a64(data: bytes) -> int:
    """The FNV-1a hash of 64 bits (Fowler, Noll, Vo)."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & _MASK
    return value


class SplitMix64:
    """Steele, Lea and Flood's generator (OOPSLA 2014): 64 bits of state, any seed will do.

    Args:
        seed: Only its lowest 64 bits count.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def unit(self) -> float:
        """A number from 0 up to, but without, 1, of 53 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53
