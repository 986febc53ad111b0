"""The live registry: built-in models and the user's, kept in step with the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec import UNSET

from car_rpc.errors import CarError, invalid_params
from car_rpc.registry.catalog import DISCOVERED_TAG, Catalog, normalised
from car_rpc.registry.store import ModelStore
from car_rpc.wire.models import Capability, LocalSource, MlxSource, ModelSchema, ModelSource


class Registry:
    """Which models there are.

    Args:
        builtin: Models that ship with car-rpc.
        store: Where the user's models are kept.
        models_dir: Relative model paths are taken from here.
    """

    def __init__(self, builtin: Iterable[ModelSchema], store: ModelStore, models_dir: Path) -> None:
        self._catalog = Catalog(builtin)
        self._store = store
        self._models_dir = models_dir
        # Registrations come in threads of their own.
        self._refreshing = threading.Lock()

    def all(self) -> list[ModelSchema]:
        """Every model, by id."""
        return self._fresh().all()

    def find(self, wanted: str) -> ModelSchema:
        """A model by id or name; see :meth:`Catalog.find` for the errors."""
        return self._fresh().find(wanted)

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
                source without a file, ``io_error`` when it cannot be stored.
        """
        catalog = self._fresh()
        if catalog.is_builtin(model.id):
            raise CarError("conflict", f"{model.id} is built in; choose another id", model=model.id)
        model = msgspec.structs.replace(
            normalised(model),
            source=self._with_absolute_path(model.source),
            tags=[tag for tag in model.tags if tag != DISCOVERED_TAG],
            trust_tier="community",
            available=False,
            weights_ready=False,
        )
        replaced = any(known.id == model.id for known in catalog.all())
        self._store.put(model)
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

    def _with_absolute_path(self, source: ModelSource) -> ModelSource:
        if not isinstance(source, LocalSource | MlxSource):
            return source
        if source.path is UNSET:
            raise invalid_params(
                "give the path of the model's file; pulling from a hub is not supported yet",
                "$.model.source.path",
            )
        try:
            path = str((self._models_dir / Path(source.path).expanduser()).absolute())
        except RuntimeError as error:  # ~somebody who has no home here
            raise invalid_params(str(error), "$.model.source.path") from None
        if "\0" in path:
            raise invalid_params("a path holds no null character", "$.model.source.path")
        return msgspec.structs.replace(source, path=path)
