"""Which of the models that were discovered are there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from car_rpc.backends.openai_compat.upstream import upstream_of
from car_rpc.registry.catalog import DISCOVERED_TAG
from car_rpc.wire.models import ModelSchema


class Change(NamedTuple):
    """What a look at a server changed.

    Attributes:
        registered: Ids of models that were not known before.
        unavailable: Ids of models that were there and are not any more.
    """

    registered: list[str]
    unavailable: list[str]


class Presence:
    """The servers that were discovered, and their models."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, ModelSchema]] = {}  # by server and id
        self._away: set[str] = set()  # servers
        self._dropped: set[str] = set()  # ids that their server lists no more

    def listed(self, endpoint: str, models: Iterable[ModelSchema]) -> Change:
        """A server has exactly these models.

        Those that it had stay known for one look more, so that whoever uses one can tell a model
        that went from one that never was.
        """
        before, there = self._models.get(endpoint, {}), self._there(endpoint)
        now = {model.id: model for model in models}
        gone = {model_id: before[model_id] for model_id in there if model_id not in now}
        self._dropped = (self._dropped - before.keys() - now.keys()) | gone.keys()
        self._away.discard(endpoint)
        self._models[endpoint] = now | gone
        return Change([model_id for model_id in now if model_id not in before], list(gone))

    def unreachable(self, endpoint: str) -> Change:
        """Nothing answers at this address. Its models come back with it."""
        there = self._there(endpoint)
        if endpoint in self._models:
            self._away.add(endpoint)
        return Change([], there)

    def reachable(self, endpoint: str) -> None:
        """A server answered a request."""
        self._away.discard(endpoint)

    def has(self, model: ModelSchema) -> bool:
        """Whether a model is there, as far as is known. The user's own are always tried."""
        if DISCOVERED_TAG not in model.tags:
            return True
        return upstream_of(model).endpoint not in self._away and model.id not in self._dropped

    def models(self) -> list[ModelSchema]:
        """All models that are known."""
        return [model for models in self._models.values() for model in models.values()]

    def _there(self, endpoint: str) -> list[str]:
        if endpoint in self._away:
            return []
        return [each for each in self._models.get(endpoint, {}) if each not in self._dropped]
