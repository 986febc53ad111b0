"""The models that are known, looked up by id, by name and by capability.

Pure: where models come from and whether they are available is told from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from car_rpc.errors import CarError
from car_rpc.registry.equivalents import base_name
from car_rpc.wire.models import (
    Capability,
    MlxSource,
    ModelSchema,
    OpenAICompatSource,
    SystemSource,
)

#: Models of this provider prove that an installation works; they are chosen last.
DEMO_PROVIDER = "demo"

#: Tag of models that were found on servers. Nobody registered them, and they end with the process.
DISCOVERED_TAG = "discovered"


Located: TypeAlias = Callable[[Iterable[ModelSchema]], list[ModelSchema]]


class Catalog:
    """All models: built-in ones, the user's own, and those that were found on servers.

    Of several with one id, a built-in one goes before the user's, and that before a found one.

    Args:
        builtin: Models that ship with car-rpc.
        located: Gives models the path of their weights where those are on this machine.
        mlx_first: Whether MLX weights are better than a GGUF file of the same model.
    """

    def __init__(
        self,
        builtin: Iterable[ModelSchema] = (),
        located: Located = list,
        *,
        mlx_first: bool = False,
    ) -> None:
        self._located = located
        self._mlx_first = mlx_first
        self._builtin = {model.id: normalised(model) for model in builtin}
        self._users: dict[str, ModelSchema] = {}
        self._discovered: dict[str, ModelSchema] = {}
        self._models = dict(self._builtin)

    def replace_user_models(self, models: Iterable[ModelSchema]) -> None:
        """The user's models are now exactly these."""
        self._users = {model.id: normalised(model) for model in models}
        self._merge()

    def replace_discovered(self, models: Iterable[ModelSchema]) -> None:
        """The models that were found are now exactly these."""
        self._discovered = {model.id: normalised(model) for model in models}
        self._merge()

    def forget_discovered(self, model_id: str) -> bool:
        """Forget a model until it is found again; tells whether it was there."""
        known = self._discovered.pop(model_id, None) is not None
        self._merge()
        return known

    def _merge(self) -> None:
        self._models = self._discovered | self._users | self._builtin

    def all(self) -> list[ModelSchema]:
        """Every model, by id."""
        return self._located(self._models[model_id] for model_id in sorted(self._models))

    def is_builtin(self, model_id: str) -> bool:
        """Whether the id belongs to a model that ships with car-rpc."""
        return model_id in self._builtin

    def find(self, wanted: str) -> ModelSchema:
        """The model with this id, else the one with this name, whatever its letters' case.

        A name that the user gave goes before those that are built in: a new version of car-rpc
        knows more models, and must not take a name away from an app.

        Raises:
            CarError: ``model_not_found`` when there is none, ``invalid_params`` when a name
                matches several; the message lists the ids to choose from.
        """
        model = self._models.get(wanted)
        if model is not None:
            return self._located([model])[0]
        name = wanted.casefold()
        named = [model for model in self.all() if model.name.casefold() == name]
        named = [model for model in named if not self.is_builtin(model.id)] or named
        if len(named) == 1:
            return named[0]
        if named:
            ids = ", ".join(model.id for model in named)
            raise CarError(
                "invalid_params",
                f"the name {wanted!r} matches several models; use one of the ids {ids}"
                " - at `$.model`",
                path="$.model",
                candidates=[model.id for model in named],
            )
        raise CarError(
            "model_not_found",
            f"{wanted!r}; `models.list` shows the ids and `models.register` adds a model",
            model=wanted,
        )

    def available_for(
        self, capability: Capability, available: Callable[[ModelSchema], bool]
    ) -> list[ModelSchema]:
        """The available models with a capability, best first.

        The user's own go before those of the curated catalog. What comes with the system is after
        all others, and a demo model is taken only when nothing else is there. Of one model in
        several forms, that for this machine's best engine comes first.

        Raises:
            CarError: ``model_not_found`` when no available model has the capability.
        """
        candidates = [
            model for model in self.all() if capability in model.capabilities and available(model)
        ]
        if not candidates:
            raise CarError(
                "model_not_found",
                f"no available model has the capability {capability!r};"
                " `car-rpc doctor` says what is missing and how to add one",
                capability=capability,
            )
        real = [model for model in candidates if model.provider != DEMO_PROVIDER]
        return sorted(real or candidates, key=self._rank)

    def _rank(self, model: ModelSchema) -> tuple[bool, bool, str, str, bool, str]:
        is_last = isinstance(model.source, SystemSource)
        is_curated = model.trust_tier == "curated"
        is_worse = isinstance(model.source, MlxSource) != self._mlx_first
        return (is_last, is_curated, model.provider, base_name(model.name), is_worse, model.id)


def require_capability(model: ModelSchema, capability: Capability) -> ModelSchema:
    """The model itself.

    Raises:
        CarError: ``unsupported_mode`` when it does not declare the capability.
    """
    if capability not in model.capabilities:
        raise CarError(
            "unsupported_mode",
            f"model {model.id} does not declare the capability {capability}",
            model=model.id,
        )
    return model


def normalised(model: ModelSchema) -> ModelSchema:
    """The model with ``provider`` and ``name`` filled in from ``provider/name:variant``."""
    provider, _, rest = model.id.partition("/")
    return msgspec.structs.replace(
        model,
        provider=model.provider or provider,
        name=model.name or rest.rpartition(":")[0],
    )


def shown(model: ModelSchema) -> ModelSchema:
    """The model as clients see it: the values of its source's headers are secrets."""
    source = model.source
    if not isinstance(source, OpenAICompatSource) or not isinstance(source.headers, dict):
        return model
    masked = msgspec.structs.replace(source, headers=dict.fromkeys(source.headers, "***"))
    return msgspec.structs.replace(model, source=masked)
