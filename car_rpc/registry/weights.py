"""Where the weights of models lie that name a hub's repository or an address instead of a path.

Nothing here downloads: whatever brings the files, they are found at the next look. A look is kept
until one of the folders that it went through has changed, which the system says of each at once.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import UNSET

from car_rpc.errors import CarError, invalid_params
from car_rpc.registry.projectors import with_senses
from car_rpc.registry.safetensors import read_json
from car_rpc.wire.models import Adapter, LocalSource, MlxSource, ModelSchema, ModelSource
from car_rpc.wire.parts import file_parts, is_later_part
from car_rpc.wire.sources import adapters_of
from car_rpc.wire.speculation import DraftSpeculation

#: One name, or an organisation's and a name. None is ``.`` or ``..``.
_REPO = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)?")

_INDEX = "model.safetensors.index.json"

#: How exact the time is at which a folder was changed, in nanoseconds: FAT counts two seconds. What
#: was looked at sooner after its last change may have been changed again within the same tick.
_TICK_NS = 2_000_000_000


class Look(NamedTuple):
    """Models with the weights that were found for them.

    Attributes:
        models: The models, with the path of their weights where those are on this machine.
        changed_ns: All that was looked through, and when each was last changed, in nanoseconds;
            ``None`` when that was just now.
    """

    models: list[ModelSchema]
    changed_ns: Mapping[str, int] | None

    def holds(self) -> bool:
        """Whether another look would find the same."""
        if self.changed_ns is None:
            return False
        return all(_changed_ns(path) == before for path, before in self.changed_ns.items())


class WeightFiles:
    """Finds weights in the models directory and in the hub's cache.

    Args:
        models_dir: A file lies here or in the folder of its model's name, a folder of weights has
            that name.
        hub_dir: Cache of the hub's own client, with a folder ``models--org--name`` for each
            repository.
    """

    def __init__(self, models_dir: Path, hub_dir: Path | None) -> None:
        self._models_dir = models_dir
        self._hub_dir = hub_dir or models_dir

    def absolute(self, source: ModelSource) -> ModelSource:
        """The source with a path taken from the models directory.

        Raises:
            CarError: ``invalid_params`` when it names neither a path nor a repository, or one
                that cannot be.
        """
        if not isinstance(source, LocalSource | MlxSource):
            return source
        if isinstance(source, LocalSource):
            _check_first_part(source)
            if isinstance(source.speculation, DraftSpeculation):
                path = self._absolute_path(
                    source.speculation.path, "$.model.source.speculation.path"
                )
                source = msgspec.structs.replace(source, speculation=DraftSpeculation(path=path))
            source = self._with_absolute(source, "mmproj_path")
        if isinstance(source.adapters, list):
            source = msgspec.structs.replace(source, adapters=self._absolute_adapters(source))
        if isinstance(source.path, str):
            return self._with_absolute(source, "path")
        if isinstance(source, LocalSource) and isinstance(source.url, str):
            if not is_name(file_name(source)):
                raise invalid_params("the address names no file", "$.model.source.url")
            if source.sha256 is not UNSET and len(file_names(source)) > 1:
                detail = "a model in several files has no checksum of one"
                raise invalid_params(detail, "$.model.source.sha256")
            _check_names(source)
            return source
        if not isinstance(source.hf_repo, str) or (
            isinstance(source, LocalSource) and not isinstance(source.hf_filename, str)
        ):
            needed = (
                "hf_repo" if isinstance(source, MlxSource) else "url, or hf_repo and hf_filename"
            )
            raise invalid_params(f"give path, or {needed}", "$.model.source.path")
        _check_names(source)
        return source

    def look(self, models: Iterable[ModelSchema]) -> Look:
        """Look for the weights of models."""
        search = _Search(self._models_dir, self._hub_dir)
        found = [search.located(model) for model in models]
        return Look(found, search.changed_ns if search.is_settled else None)

    def _with_absolute(
        self, source: LocalSource | MlxSource, field: str
    ) -> LocalSource | MlxSource:
        given = getattr(source, field)
        if not isinstance(given, str):
            return source
        path = self._absolute_path(given, f"$.model.source.{field}")
        return msgspec.structs.replace(source, **{field: path})

    def _absolute_adapters(self, source: LocalSource | MlxSource) -> list[Adapter]:
        return [
            msgspec.structs.replace(
                adapter,
                path=self._absolute_path(adapter.path, f"$.model.source.adapters[{index}].path"),
            )
            for index, adapter in enumerate(adapters_of(source))
        ]

    def _absolute_path(self, given: str, where: str) -> str:
        try:
            path = str((self._models_dir / Path(given).expanduser()).absolute())
        except RuntimeError as error:  # ~somebody who has no home here
            raise invalid_params(str(error), where) from None
        if "\0" in path:
            raise invalid_params("a path holds no null character", where)
        return path


def folder_ready(folder: Path) -> bool:
    """Whether a folder of weights is complete, as far as one sees from outside.

    It has its settings or weights, and every file of weights that its index names.
    """
    index: dict[str, Any] | None = read_json(folder / _INDEX).get("weight_map")
    if isinstance(index, dict):
        return all((folder / name).is_file() for name in set(map(str, index.values())))
    if any((folder / name).is_file() for name in ("config.json", "model_index.json")):
        return True
    return any(path.suffix.lower() == ".safetensors" for path in folder.rglob("*"))


def downloads_weights(source: ModelSource) -> bool:
    """Whether a hub or a server has the weights, wherever they are now."""
    if isinstance(source, LocalSource) and isinstance(source.url, str):
        return True
    return isinstance(source, LocalSource | MlxSource) and isinstance(source.hf_repo, str)


def file_name(source: LocalSource) -> str:
    """Name of the file of weights below its folder; empty where the source has a path only."""
    if isinstance(source.hf_filename, str):
        return source.hf_filename
    if isinstance(source.url, str):
        return unquote(urlsplit(source.url).path).rpartition("/")[2]
    return ""


def file_names(source: LocalSource) -> list[str]:
    """Names of all files of weights below their folder: one, or the parts of a split model."""
    return file_parts(file_name(source))


def cached_repo(repo: str) -> str:
    """Name of a repository's folder in the hub's cache."""
    return "models--" + repo.replace("/", "--")


def is_name(text: str) -> bool:
    """Whether a folder can have a file or a folder of this name."""
    return text not in ("", ".", "..") and not {"/", "\\", "\0"} & {*text}


def missing_weights(model: ModelSchema) -> CarError:
    """Says what to download, and where to, before a model can be used."""
    source = model.source
    what = "its files"
    if isinstance(source, LocalSource | MlxSource) and isinstance(source.hf_repo, str):
        what = f"{source.hf_repo} of the hub"
        if isinstance(source, LocalSource) and isinstance(source.hf_filename, str):
            what = f"{source.hf_filename} of the hub's repository {source.hf_repo}"
    elif isinstance(source, LocalSource) and isinstance(source.url, str):
        what = file_name(source)
    return CarError(
        "model_load_failed",
        f"the weights of {model.id} are not on this machine; `models.pull` downloads {what}, and"
        f" so does `car-rpc models pull {model.id}`",
        model=model.id,
    )


class _Search:
    """One look, which notes what it goes through before it does."""

    def __init__(self, models_dir: Path, hub_dir: Path) -> None:
        self.changed_ns: dict[str, int] = {}
        self._started_ns = time.time_ns()
        self._models_dir, self._hub_dir = models_dir, hub_dir
        self._ours, self._cached = self._names(models_dir), self._names(hub_dir)

    @property
    def is_settled(self) -> bool:
        """Whether all of it was changed long enough ago to be told from the next change."""
        return max(self.changed_ns.values()) < self._started_ns - _TICK_NS

    def located(self, model: ModelSchema) -> ModelSchema:
        """The model, with the path of its weights if they are here, and what it can do then."""
        found = self._located(model)
        if isinstance(found.source, LocalSource) and isinstance(found.source.mmproj_path, str):
            self._note(Path(found.source.mmproj_path).parent)
        return with_senses(found)

    def _located(self, model: ModelSchema) -> ModelSchema:
        source = model.source
        if (
            not isinstance(source, LocalSource | MlxSource)
            or source.path is not UNSET
            or not downloads_weights(source)
        ):
            return model
        for folder in self._folders(model.name, source):
            found = self._in_folder(source, folder)
            if found is not None:
                return msgspec.structs.replace(model, source=found)
        return model

    def _folders(self, name: str, source: LocalSource | MlxSource) -> Iterator[Path]:
        if name in self._ours:
            yield self._models_dir / name
        if isinstance(source, LocalSource):
            top = file_name(source).partition("/")[0]
            if top in self._ours:
                yield self._models_dir
        cache_name = cached_repo(str(source.hf_repo))
        if cache_name in self._cached:
            yield from self._snapshots(self._hub_dir / cache_name)

    def _snapshots(self, repo: Path) -> Iterator[Path]:
        """Versions of a cached repository, the one that was asked for last first."""
        snapshots, main = repo / "snapshots", repo / "refs" / "main"
        names = sorted(self._names(snapshots), reverse=True)
        self._note(main)
        try:
            current = main.read_text(encoding="utf-8")[:64].strip()
        except (OSError, ValueError):
            current = ""
        for name in sorted(names, key=lambda name: name != current):
            yield snapshots / name

    def _in_folder(
        self, source: LocalSource | MlxSource, folder: Path
    ) -> LocalSource | MlxSource | None:
        """The source with its path in this folder, if all of it is there."""
        if isinstance(source, MlxSource):
            self._note(folder, folder / _INDEX, *filter(Path.is_dir, folder.rglob("*")))
            ready = folder_ready(folder)
            return msgspec.structs.replace(source, path=str(folder)) if ready else None
        paths = [folder / name for name in file_names(source)]
        self._note(paths[0].parent)
        if not all(path.is_file() for path in paths):
            return None
        found = msgspec.structs.replace(source, path=str(paths[0]))
        if not isinstance(source.mmproj_filename, str):
            return found
        projector = folder / source.mmproj_filename
        self._note(projector.parent)
        if not projector.is_file():
            return None
        return msgspec.structs.replace(found, mmproj_path=str(projector))

    def _names(self, folder: Path) -> set[str]:
        self._note(folder)
        try:
            return set(os.listdir(folder))  # noqa: PTH208 - names are enough, and this is quicker
        except OSError:
            return set()

    def _note(self, *paths: Path) -> None:
        for path in paths:
            self.changed_ns.setdefault(str(path), _changed_ns(str(path)))


def _changed_ns(path: str) -> int:
    """When a folder or a file was last changed, in nanoseconds; -1 when there is none."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - once per folder at every decision
    except OSError:
        return -1


def _check_names(source: LocalSource | MlxSource) -> None:
    if isinstance(source.hf_repo, str) and not _REPO.fullmatch(source.hf_repo):
        raise invalid_params("this is no name of a repository", "$.model.source.hf_repo")
    if isinstance(source, LocalSource):
        for field in ("hf_filename", "mmproj_filename"):
            name = getattr(source, field)
            if isinstance(name, str) and not _is_file_name(name):
                raise invalid_params("name a file in the repository", f"$.model.source.{field}")


def _check_first_part(source: LocalSource) -> None:
    for field in ("path", "hf_filename", "url"):
        name = getattr(source, field)
        if isinstance(name, str) and is_later_part(name):
            detail = "this is a later part of a model; name the first, which stands for all"
            raise invalid_params(detail, f"$.model.source.{field}")


def _is_file_name(name: str) -> bool:
    """Whether it names a file below a folder, wherever the folder lies."""
    path = PurePath(name)
    strange = path.anchor or ".." in path.parts or {"\0", "\\"} & {*name}
    return bool(path.parts) and not strange
