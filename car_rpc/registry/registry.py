"""The live registry: built-in models and the user's, kept in step with the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.registry.catalog import DISCOVERED_TAG, Catalog, View, normalised
from car_rpc.registry.facts import with_facts
from car_rpc.registry.store import ModelStore
from car_rpc.registry.weights import WeightFiles
from car_rpc.wire.models import Capability, ModelSchema


class Registry:
    """Which models there are.

    Args:
        builtin: Models that ship with car-rpc.
        store: Where the user's models are kept.
        models_dir: Relative paths of models are taken from here, and weights looked for.
        hub_dir: The hub's cache, where weights are looked for as well.
        mlx_first: Whether MLX weights are better than a GGUF file of the same model.
    """

    def __init__(
        self,
        builtin: Iterable[ModelSchema],
        store: ModelStore,
        models_dir: Path,
        hub_dir: Path | None = None,
        *,
        mlx_first: bool = False,
    ) -> None:
        self._weights = WeightFiles(models_dir, hub_dir)
        self._catalog = Catalog(builtin, self._weights.look, mlx_first=mlx_first)
        self._store = store
        # Registrations come in threads of their own.
        self._refreshing = threading.Lock()

    def all(self) -> list[ModelSchema]:
        """Every model, by id."""
        return self._fresh().all()

    def find(self, wanted: str) -> ModelSchema:
        """A model by id or name; see :meth:`Catalog.find` for the errors."""
        return self._fresh().find(wanted)

    def as_registered(self, model_id: str) -> ModelSchema:
        """A model without the path where its weights were found.

        Raises:
            CarError: ``model_not_found``.
        """
        return self._fresh().as_registered(model_id)

    def now(self) -> View:
        """The models as they are now; the same view until one of them changes."""
        return self._fresh().now()

    def available_for(
        self, capability: Capability, available: Callable[[ModelSchema], bool]
    ) -> list[ModelSchema]:
        """The available models; see :meth:`Catalog.available_for` for the errors."""
        return self._fresh().available_for(capability, available)

    def register(self, model: ModelSchema) -> tuple[ModelSchema, bool]:
        """Add a model or replace the user's model of the same id.

        Returns:
            The model as it is kept, and whether another one was replaced.

        Raises:
            CarError: ``conflict`` for the id of a built-in model, ``invalid_params`` for a
                source that names no weights, ``io_error`` when it cannot be stored.
        """
        catalog = self._fresh()
        if catalog.is_builtin(model.id):
            raise CarError("conflict", f"{model.id} is built in; choose another id", model=model.id)
        # What only the core can say is not taken from the client.
        given = msgspec.structs.replace(
            normalised(model),
            source=self._weights.absolute(model.source),
            tags=[tag for tag in model.tags if tag != DISCOVERED_TAG],
            trust_tier="community",
            available=False,
            weights_ready=False,
            reason=UNSET,
            downloads_weights=False,
            fit=UNSET,
        )
        model = with_facts(self._weights.look([given]).models[0])
        replaced = any(known.id == model.id for known in catalog.all())
        # Where its weights were found, and what it lacks without them, is not kept: they may move.
        kept = msgspec.structs.replace(model, source=given.source, capabilities=given.capabilities)
        self._store.put(kept)
        return model, replaced

    def unregister(self, wanted: str) -> str:
        """Forget one of the user's models; its files stay. Returns its id.

        A model that was found on a server is forgotten until it is found again.

        Raises:
            CarError: ``model_not_found``, or ``conflict`` for a built-in model.
        """
        model = self.find(wanted)
        if not self._store.delete(model.id) and not self._forget_discovered(model.id):
            raise CarError(
                "conflict", f"{model.id} is built in and cannot be removed", model=model.id
            )
        return model.id

    def replace_discovered(self, models: Iterable[ModelSchema]) -> None:
        """The models that were found on servers are now exactly these; none is stored."""
        with self._refreshing:
            self._catalog.replace_discovered(models)

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    def _forget_discovered(self, model_id: str) -> bool:
        with self._refreshing:
            return self._catalog.forget_discovered(model_id)

    def _fresh(self) -> Catalog:
        with self._refreshing:
            if self._store.changed():
                self._catalog.replace_user_models(self._store.load())
        return self._catalog
