"""Delete the weights of a model, and nothing else, from the models folder and the hub's cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from car_rpc.errors import CarError
from car_rpc.registry.weights import cached_repo, file_names, is_name
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema

#: What a download that did not end leaves behind begins with the file's name and holds this.
_PARTIAL = ".car-rpc.incomplete"


def removable(model: ModelSchema, models_dir: Path, hub_dir: Path) -> list[Path]:
    """What :func:`remove` would delete.

    Args:
        model: As it was registered, without the path where its weights were found.
        models_dir: Where weights are imported to.
        hub_dir: The hub's cache.

    Raises:
        CarError: ``conflict`` for a model whose files are the app's own.
    """
    source = model.source
    if not isinstance(source, LocalSource | MlxSource):
        raise CarError("conflict", f"{model.id} has no files on this machine", model=model.id)
    if isinstance(source.path, str):
        raise CarError(
            "conflict",
            f"the files of {model.id} are not ours: it was registered with their path; delete them"
            " yourself, or take it out of the registry with `models.unregister`",
            model=model.id,
        )
    found = [*_in_models_dir(model, source, models_dir), *_in_hub(source, hub_dir)]
    roots = (models_dir.resolve(), hub_dir.resolve())
    return [
        path
        for path in dict.fromkeys(found)
        if _lies_below(path, roots) and (path.exists() or path.is_symlink())
    ]


def remove(paths: Iterable[Path], keep: Iterable[Path]) -> int:
    """Delete files and folders, and the folders that are empty then.

    Args:
        paths: What to delete.
        keep: Folders that stay even when they are empty.

    Returns:
        The room that is free now, in bytes.

    Raises:
        CarError: ``io_error`` when something cannot be deleted.
    """
    freed = 0
    kept = {path.resolve() for path in keep}
    for path in paths:
        freed += _size(path)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CarError(
                "io_error", f"{error.filename} cannot be deleted: {error.strerror}", path=str(path)
            ) from error
        parent = path.parent
        while parent.resolve() not in kept and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
            parent = parent.parent
    return freed


def _lies_below(path: Path, roots: Iterable[Path]) -> bool:
    """Whether a path is in one of the folders and neither one of them nor reached by a link."""
    place = path.parent.resolve() / path.name
    return path.name not in ("", "..") and any(root in place.parents for root in roots)


def _in_models_dir(
    model: ModelSchema, source: LocalSource | MlxSource, models_dir: Path
) -> Iterator[Path]:
    folder = models_dir / model.name if is_name(model.name) else None
    if isinstance(source, MlxSource):
        if folder is not None:
            yield folder
            yield folder.with_name(folder.name + _PARTIAL)
        return
    for name in _file_names(source):
        for parent in (folder, models_dir):
            if parent is not None:
                yield parent / name
                yield from (parent / name).parent.glob(f"{_literal(Path(name).name)}*{_PARTIAL}*")


def _in_hub(source: LocalSource | MlxSource, hub_dir: Path) -> Iterator[Path]:
    if not isinstance(source.hf_repo, str):
        return
    repo = hub_dir / cached_repo(source.hf_repo)
    if isinstance(source, MlxSource):
        yield repo
        return
    names = _file_names(source)
    links = [each for name in names for each in repo.glob(f"snapshots/*/{_literal(name)}")]
    yield from links
    for link in links:
        if link.is_symlink():
            yield link.resolve()
    others = [each for each in repo.glob("snapshots/*/**/*") if not each.is_dir()]
    if not {*others} - {*links}:
        yield repo  # nothing of it is of use to anybody


def _file_names(source: LocalSource) -> list[str]:
    projector = source.mmproj_filename
    return [*file_names(source), *([projector] if isinstance(projector, str) else [])]


def _literal(name: str) -> str:
    """A pattern that only this name matches."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _size(path: Path) -> int:
    if path.is_symlink():
        return 0
    if path.is_dir():
        return sum(_size(each) for each in path.iterdir())
    try:
        found = path.stat()
    except FileNotFoundError:  # deleted with the folder that it was in
        return 0
    return found.st_size if found.st_nlink == 1 else 0
