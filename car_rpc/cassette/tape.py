"""The requests of a cassette in their order: which one answers the next request of a client.

A request is answered by the first one like it that has not answered yet. When all like it have, the
last of them answers again, because how often an app asks for the state of something is chance. Only
``strict`` takes all requests in their order, and each once.
"""

from __future__ import annotations

from collections.abc import Sequence

from car_rpc.cassette.differences import Difference, differences, distance
from car_rpc.cassette.interaction import Asked, Interaction
from car_rpc.config import CassetteMode
from car_rpc.errors import CarError

_REMEDY = "--cassette-mode record records all anew, auto what is missing"


class Place:
    """Where a request goes that is being recorded.

    Attributes:
        interaction: What was recorded, once it was answered.
    """

    def __init__(self, behind: int) -> None:
        self.interaction: Interaction | None = None
        #: How many of the requests that were there before go before it.
        self.behind = behind


class Tape:
    """The requests of a cassette.

    Args:
        recorded: Those that are there, in order.
        mode: What a request is answered with.
        name: The cassette's name, for errors.

    Attributes:
        missed: How many requests were answered with an error because they are not there.
    """

    def __init__(self, recorded: Sequence[Interaction], mode: CassetteMode, name: str) -> None:
        self.missed = 0
        self._recorded = recorded
        self._mode = mode
        self._name = name
        self._used: set[int] = set()
        self._by_key: dict[bytes, list[int]] = {}
        for index, each in enumerate(recorded):
            self._by_key.setdefault(each.asked.key, []).append(index)
        self._behind = 0
        self._places: list[Place] = []

    def take(self, asked: Asked) -> Interaction | None:
        """The recorded request that answers one, or ``None`` where that one is to be run.

        Raises:
            CarError: ``not_found``: there is none like it, or another one comes first.
        """
        index = self._next(asked) if self._mode == "strict" else self._first_like(asked)
        if index is None:
            return None
        self._used.add(index)
        self._behind = index + 1
        return self._recorded[index]

    def place(self) -> Place:
        """A place for a request that is being recorded: behind the last one that answered."""
        place = Place(self._behind)
        self._places.append(place)
        return place

    @property
    def interactions(self) -> list[Interaction]:
        """All that are recorded by now, in order."""
        ordered = [*enumerate(self._recorded, 1)]
        ordered += [(each.behind, each.interaction) for each in self._places if each.interaction]
        return [each for _, each in sorted(ordered, key=lambda pair: pair[0])]

    @property
    def has_grown(self) -> bool:
        """Whether anything was recorded."""
        return any(each.interaction is not None for each in self._places)

    @property
    def unused(self) -> list[str]:
        """The recorded requests that have answered nothing: their numbers and methods."""
        return [
            f"{index + 1} `{each.asked.method}`"
            for index, each in enumerate(self._recorded)
            if index not in self._used
        ]

    def _first_like(self, asked: Asked) -> int | None:
        if like := self._by_key.get(asked.key):
            return next((index for index in like if index not in self._used), like[-1])
        if self._mode != "replay":
            return None
        same = [i for i, each in enumerate(self._recorded) if each.asked.method == asked.method]
        if not same:
            raise self._missing(f"has no `{asked.method}`", [])

        def distance_of(index: int) -> float:
            return distance(self._recorded[index].asked.params, asked.params)

        nearest = min(same, key=distance_of)
        told = differences(self._recorded[nearest].asked.params, asked.params)
        said = (
            f"has no `{asked.method}` like this one, which differs from its request"
            f" {nearest + 1} in {_places(told)}"
        )
        raise self._missing(said, told, number=nearest + 1)

    def _next(self, asked: Asked) -> int:
        index = len(self._used)
        if index == len(self._recorded):
            said = f"has no more requests, and this `{asked.method}` is one too many"
            raise self._missing(said, [])
        expected = self._recorded[index].asked
        if expected.key == asked.key:
            return index
        if expected.method == asked.method:
            told = differences(expected.params, asked.params)
        else:
            told = [Difference(path="method", recorded=expected.method, got=asked.method)]
        said = (
            f"has another request next: this one differs from its request {index + 1},"
            f" `{expected.method}`, in {_places(told)}"
        )
        raise self._missing(said, told, number=index + 1)

    def _missing(self, said: str, diff: list[Difference], **nearest: int) -> CarError:
        self.missed += 1
        detail = f"the cassette {self._name} {said}; {_REMEDY}"
        return CarError("not_found", detail, cassette=self._name, **nearest, diff=diff)


def _places(told: Sequence[Difference]) -> str:
    first = told[0].path
    return f"`{first}`" if len(told) == 1 else f"`{first}` and {len(told) - 1} more places"
