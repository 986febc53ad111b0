"""The models that are known, looked up by id, by name and by capability.

Pure: where models come from and whether they are available is told from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import msgspec

from car_rpc.errors import CarError
from car_rpc.registry.equivalents import base_name, equivalents
from car_rpc.wire.models import (
    DEMO_PROVIDER,
    Capability,
    MlxSource,
    ModelSchema,
    OpenAICompatSource,
    SystemSource,
)

#: Tag of models that were found on servers. Nobody registered them, and they end with the process.
DISCOVERED_TAG = "discovered"


#: What a request without a model is told where none can do it; the executor contract's words.
_MISSING: dict[Capability, str] = {
    "rerank": "no reranker model available — pull a Qwen3-Reranker model first",
    "grounding": "no grounding-capable model available — pull a Qwen2.5-VL model first",
    "speech_to_text": "no speech-to-text models available",
    "text_to_speech": "no text-to-speech models available",
    "image_generation": "no image generation models available",
    "video_generation": "no video generation models available",
}


class Look(Protocol):
    """Models with what was found of their weights."""

    @property
    def models(self) -> Sequence[ModelSchema]:
        """The models, in the order in which they were given."""
        ...

    def holds(self) -> bool:
        """Whether that is still so."""
        ...


class Unlocated(NamedTuple):
    """Models as they are, whose weights nobody looks for."""

    models: list[ModelSchema]

    def holds(self) -> bool:
        """Always."""
        return True


class Catalog:
    """All models: built-in ones, the user's own, and those that were found on servers.

    Of several with one id, a built-in one goes before the user's, and that before a found one.

    Args:
        builtin: Models that ship with car-rpc.
        look: Looks for the weights of models.
        mlx_first: Whether MLX weights are better than a GGUF file of the same model.
    """

    def __init__(
        self,
        builtin: Iterable[ModelSchema] = (),
        look: Callable[[list[ModelSchema]], Look] = Unlocated,
        *,
        mlx_first: bool = False,
    ) -> None:
        self._look = look
        self._mlx_first = mlx_first
        self._builtin = {model.id: normalised(model) for model in builtin}
        self._users: dict[str, ModelSchema] = {}
        self._discovered: dict[str, ModelSchema] = {}
        self._view: View | None = None
        self._merge()

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
        self._view = None

    def now(self) -> View:
        """The models as they are now; the same view until that changes."""
        view = self._view
        if view is None or not view.look.holds():
            models = [self._models[model_id] for model_id in sorted(self._models)]
            view = self._view = View(self._look(models), mlx_first=self._mlx_first)
        return view

    def all(self) -> list[ModelSchema]:
        """Every model, by id."""
        return [*self.now().look.models]

    def is_builtin(self, model_id: str) -> bool:
        """Whether the id belongs to a model that ships with car-rpc."""
        return model_id in self._builtin

    def as_registered(self, model_id: str) -> ModelSchema:
        """The model with this id, without the path where its weights were found.

        Raises:
            CarError: ``model_not_found``.
        """
        model = self._models.get(model_id)
        if model is None:
            raise CarError("model_not_found", f"{model_id!r} is gone", model=model_id)
        return model

    def find(self, wanted: str) -> ModelSchema:
        """The model with this id, else the one with this name, whatever its letters' case.

        A name that the user gave goes before those that are built in: a new version of car-rpc
        knows more models, and must not take a name away from an app.

        Raises:
            CarError: ``model_not_found`` when there is none, ``invalid_params`` when a name
                matches several; the message lists the ids to choose from.
        """
        view = self.now()
        model = view.by_id.get(wanted)
        if model is not None:
            return model
        name = wanted.casefold()
        named = [model for model in view.look.models if model.name.casefold() == name]
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
        candidates = [model for model in self.now().ranked(capability) if available(model)]
        if not candidates:
            missing = (
                f"no available model has the capability {capability!r};"
                " `car-rpc doctor` says what is missing and how to add one"
            )
            raise CarError(
                "model_not_found", _MISSING.get(capability, missing), capability=capability
            )
        real = [model for model in candidates if model.provider != DEMO_PROVIDER]
        return real or candidates


class View:
    """The models as they are at one time, in the orders in which they are asked for.

    Args:
        look: The models, by id.
        mlx_first: Whether MLX weights are better than a GGUF file of the same model.

    Attributes:
        look: The models, by id.
        by_id: The same, to look one up.
    """

    def __init__(self, look: Look, *, mlx_first: bool = False) -> None:
        self.look = look
        self.by_id = {model.id: model for model in look.models}
        self._mlx_first = mlx_first
        self._ranked: dict[str, tuple[ModelSchema, ...]] = {}

    def ranked(self, capability: Capability) -> tuple[ModelSchema, ...]:
        """The models with a capability, in the order in which they are preferred among equals."""
        found = self._ranked.get(capability)
        if found is None:
            able = (model for model in self.look.models if capability in model.capabilities)
            found = self._ranked[capability] = tuple(sorted(able, key=self._rank))
        return found

    @cached_property
    def better_forms(self) -> dict[str, list[ModelSchema]]:
        """By id, for each model that this machine runs better in another format: it in that one."""
        models = self.look.models
        return equivalents(models, "mlx" if self._mlx_first else "local", models)

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
        word = "".join(part.capitalize() for part in capability.split("_"))
        detail = f"model {model.name} does not declare the {word} capability"
        if capability in ("speech_to_text", "text_to_speech"):
            detail = f"model {model.name} does not support {word}"
        raise CarError("unsupported_mode", detail, model=model.id)
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
