"""Weights that come to this machine and go: downloads in a worker each, and their removal."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from car_rpc.backends.local.backend import LocalBackend
from car_rpc.backends.local.process import ProcessControl, WorkerProcess
from car_rpc.backends.local.workers import Unloaded
from car_rpc.engine.ports import Backend
from car_rpc.errors import CarError, invalid_params
from car_rpc.registry.identity import check_import
from car_rpc.registry.registry import Registry
from car_rpc.registry.removal import removable, remove
from car_rpc.registry.weights import cached_repo, file_name, file_names, is_name
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema
from car_rpc.wire.sources import adapters_of
from car_rpc.wire.worker import FromHub, FromPath, FromUrl, Load, Pull, Pulled, PullSource

#: Takes the bytes that are here, and those of all (0 where that is not known).
OnProgress: TypeAlias = Callable[[int, int], None]


class Removed(NamedTuple):
    """What was deleted.

    Attributes:
        paths: Files and folders.
        freed_bytes: Room that they took.
        also_used_by: Ids of other models that used them.
    """

    paths: list[str]
    freed_bytes: int
    also_used_by: list[str]


class Weights:
    """Brings weights here, and takes them away. What several ask for at once comes once.

    Args:
        registry: Which models there are.
        control: What the operating system does for workers.
        backend_of: The backend of a model, which may have its weights in use.
        models_dir: Where imported weights and those from an address go.
        hub_dir: The hub's cache, where the others go.
    """

    def __init__(
        self,
        registry: Registry,
        control: ProcessControl,
        backend_of: Callable[[ModelSchema], Backend],
        models_dir: Path,
        hub_dir: Path,
    ) -> None:
        self._registry = registry
        self._control = control
        self._backend_of = backend_of
        self._models_dir = models_dir
        self._hub_dir = hub_dir
        self._running: dict[bytes, _Download] = {}

    async def pull(self, model_id: str, from_path: str | None, on_progress: OnProgress) -> Pulled:
        """Bring the weights of a model; those that are here already are left as they are.

        A caller that gives up leaves the download to those who also wait for it; without such it
        stops, and the next one goes on where it stopped.

        Args:
            model_id: The model.
            from_path: Import them from here.
            on_progress: Told how far it is.

        Raises:
            CarError: ``conflict`` for a model that nothing can be downloaded for, and for files
                that are clearly another model's; ``download_failed``, ``not_found``,
                ``unauthorized`` or ``io_error``.
        """
        model = self._registry.as_registered(model_id)
        source = self._source(model, from_path)
        if importlib.util.find_spec("huggingface_hub") is None:
            raise CarError(
                "download_failed",
                "the library huggingface-hub is not installed; install car-rpc with its extra"
                " llama or mlx",
                retryable=False,
            )
        if from_path is None and _path(self._registry.find(model_id)) is not None:
            return Pulled(size_bytes=0, downloaded_bytes=0)
        if from_path is not None:
            await asyncio.to_thread(check_import, model, Path(from_path))
        key = _key(source)
        while (download := self._running.get(key)) is not None and download.ending:
            await asyncio.wait([download.task])
        if download is not None and download.source != source:
            raise CarError("conflict", f"{model.id} is being pulled from elsewhere", model=model.id)
        if download is None:
            download = self._running[key] = _Download(self._control, model.id, source)
            download.task.add_done_callback(lambda _: self._running.pop(key, None))
        return await download.result(on_progress)

    async def remove(self, model_id: str) -> Removed:
        """Delete the weights of a model.

        Raises:
            CarError: ``conflict`` while it is at work or pulled, or when its files, or adapters
                among them, are not ours;
                ``io_error`` when they cannot be deleted.
        """
        model = self._registry.as_registered(model_id)
        paths = await asyncio.to_thread(removable, model, self._models_dir, self._hub_dir)
        users = [each for each in self._registry.all() if _lies_in(_path(each), paths)]
        self._require_no_adapters(model_id, paths)
        for each in users:
            await self.unload(each)
        places = [_place(download.source) for download in self._running.values()]
        if any(_concerns(path, place) for path in paths for place in places):
            raise CarError(
                "conflict",
                f"{model_id}, or what lies in the same place, is being pulled; cancel that first",
                model=model_id,
            )
        keep = (self._models_dir, self._hub_dir)
        freed_bytes = await asyncio.to_thread(remove, paths, keep)
        others = [each.id for each in users if each.id != model_id]
        return Removed([str(path) for path in paths], freed_bytes, others)

    async def load(self, model: ModelSchema, keep_alive_ms: float | None) -> None:
        """Load a model; one that does not run in a process of ours needs no loading.

        Raises:
            CarError: As a request to it would.
        """
        backend = self._backend_of(model)
        if isinstance(backend, LocalBackend):
            await backend.load(model, keep_alive_ms)

    async def unload(self, model: ModelSchema) -> Unloaded:
        """Take a model out of memory; returns when its process is gone.

        Raises:
            CarError: ``conflict`` while it loads or works.
        """
        backend = self._backend_of(model)
        if not isinstance(backend, LocalBackend):
            return Unloaded(was_loaded=False, freed_bytes=0)
        return await backend.unload(model)

    async def close(self) -> None:
        """Stop all downloads; returns when their processes are gone."""
        tasks = [download.task for download in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _require_no_adapters(self, model_id: str, paths: list[Path]) -> None:
        """Refuse to delete what holds an adapter of any model."""
        places = [*paths, *(path.resolve() for path in paths)]
        for each in self._registry.all():
            for adapter in map(Path, (adapter.path for adapter in adapters_of(each.source))):
                if _lies_in(adapter, places) or _lies_in(adapter.resolve(), places):
                    raise CarError(
                        "conflict",
                        f"{adapter}, an adapter of {each.id}, lies among the files of {model_id}"
                        " and is not ours to delete; move it elsewhere first",
                        model=model_id,
                        path=str(adapter),
                    )

    def _source(self, model: ModelSchema, from_path: str | None) -> PullSource:
        source = model.source
        if not isinstance(source, LocalSource | MlxSource) or isinstance(source.path, str):
            raise CarError(
                "conflict",
                f"{model.id} names neither a hub's repository nor an address, so there is nothing"
                " to download",
                model=model.id,
            )
        sha256 = source.sha256 if isinstance(source, LocalSource) else None
        digest = sha256 if isinstance(sha256, str) else None
        if from_path is not None:
            return FromPath(
                path=from_path,
                is_folder=isinstance(source, MlxSource),
                sha256=digest,
                target=self._target(model, source),
            )
        if isinstance(source, LocalSource) and isinstance(source.url, str):
            return FromUrl(url=source.url, sha256=digest, target=self._target(model, source))
        files: list[str] = []
        if isinstance(source, LocalSource):
            projector = source.mmproj_filename
            files = [*file_names(source), *([projector] if isinstance(projector, str) else [])]
        return FromHub(repo=str(source.hf_repo), files=files, hub_dir=str(self._hub_dir))

    def _target(self, model: ModelSchema, source: LocalSource | MlxSource) -> str:
        if not is_name(model.name):
            raise invalid_params(
                f"{model.id} has the name {model.name!r}, which no folder can have", "$.model"
            )
        folder = self._models_dir / model.name
        return str(folder / file_name(source) if isinstance(source, LocalSource) else folder)


class _Download:
    """One download and those who wait for it."""

    def __init__(self, control: ProcessControl, name: str, source: PullSource) -> None:
        self.name = name
        self.source = source
        self.ending = False
        self._control = control
        self._listeners: list[OnProgress] = []
        self.task = asyncio.create_task(self._run())

    async def result(self, on_progress: OnProgress) -> Pulled:
        self._listeners.append(on_progress)
        try:
            return await asyncio.shield(self.task)
        finally:
            self._listeners.remove(on_progress)
            if not self._listeners and not self.task.done():
                self.ending = True
                self.task.cancel()
                await asyncio.wait([self.task])

    async def _run(self) -> Pulled:
        worker = await WorkerProcess.start("hub", self.name, self._control)
        try:
            await worker.load(Load())
            result = await worker.request(
                lambda frame_id: Pull(id=frame_id, source=self.source), self._note
            )
        finally:
            await worker.stop()
        return msgspec.convert(result, Pulled)

    def _note(self, done_bytes: int, total_bytes: int) -> None:
        for listener in self._listeners:
            listener(done_bytes, total_bytes)


def _key(source: PullSource) -> bytes:
    """What two downloads have in common that cannot go on side by side."""
    if isinstance(source, FromHub):
        return msgspec.msgpack.encode(source)
    return source.target.encode()


def _place(source: PullSource) -> Path:
    """Where a download writes."""
    if isinstance(source, FromHub):
        return Path(source.hub_dir) / cached_repo(source.repo)
    return Path(source.target)


def _concerns(path: Path, place: Path) -> bool:
    """Whether deleting a path would disturb a download to a place."""
    is_part = path.parent == place.parent and path.name.startswith(f"{place.name}.")
    return is_part or path.is_relative_to(place) or place.is_relative_to(path)


def _path(model: ModelSchema) -> Path | None:
    source = model.source
    if isinstance(source, LocalSource | MlxSource) and isinstance(source.path, str):
        return Path(source.path)
    return None


def _lies_in(path: Path | None, places: Iterable[Path]) -> bool:
    return path is not None and any(path.is_relative_to(place) for place in places)
