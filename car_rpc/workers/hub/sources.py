"""What to download, and where to: from a hub's repository, from an address, from a folder."""

from __future__ import annotations

import hashlib
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from huggingface_hub import (
    HfApi,
    get_session,
    hf_hub_download,  # pyright: ignore[reportUnknownVariableType] - partly typed
    hf_hub_url,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported when asked for
    build_hf_headers,  # pyright: ignore[reportUnknownVariableType] - partly typed
)

from car_rpc.errors import CarError
from car_rpc.wire.worker import Pulled
from car_rpc.workers.hub.download import PARTIAL_SUFFIX, Digest, RemoteFile, check, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from huggingface_hub.hf_api import RepoSibling

    from car_rpc.wire.worker import FromHub, FromPath, FromUrl

#: What a model in MLX's format consists of; other formats in its repository stay there.
_FOLDER_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")

#: Room that a download leaves on the disk, in bytes: a full disk breaks more than this process.
MIN_FREE_BYTES = 64 * 1024 * 1024

#: How long a server may take to say what it has, in seconds.
_ANSWER_TIMEOUT_S = 10.0

#: Bytes that are copied at once.
_COPY_BYTES = 8 * 1024 * 1024


class _Total:
    """Adds up files for one progress."""

    def __init__(self, total_bytes: int, note: Callable[[int, int], None]) -> None:
        self._total_bytes = total_bytes
        self._note = note
        self._before = 0
        self._current = 0

    def __call__(self, file_bytes: int) -> None:
        """So much of the file at hand is here."""
        self._current = file_bytes
        self._note(self._before + file_bytes, self._total_bytes)

    def next_file(self, size_bytes: int) -> None:
        """The file at hand is done."""
        self._before += size_bytes
        self._note(self._before, self._total_bytes)


def from_hub(source: FromHub, note: Callable[[int, int], None]) -> Pulled:
    """Bring files of a repository into the hub's cache, as the hub's own client lays it out.

    Args:
        source: What to bring.
        note: Takes the bytes that are here and those of all.

    Raises:
        CarError: ``not_found`` for a file that the repository does not have, ``io_error`` where
            the disk has no room. What the hub's client raises comes through as well.
    """
    info = HfApi().model_info(source.repo, files_metadata=True, timeout=_ANSWER_TIMEOUT_S)
    wanted = _wanted(source, info.siblings or [])
    blobs = (
        Path(source.hub_dir) / repo_folder_name(repo_id=source.repo, repo_type="model") / "blobs"
    )
    headers = build_hf_headers()
    _make_sure_of_room(blobs, [(_blob(blobs, each), each.size or 0) for each in wanted])
    total = _Total(sum(each.size or 0 for each in wanted), note)
    downloaded = 0
    for each in wanted:
        blob = _blob(blobs, each)
        url = hf_hub_url(source.repo, each.rfilename, revision=info.sha)
        remote = RemoteFile(url, each.size, _digest(each), headers)
        downloaded += fetch(remote, _partial(blob), blob, total)
        # It finds the content in place and only links it, in its own layout.
        hf_hub_download(source.repo, each.rfilename, cache_dir=source.hub_dir)
        total.next_file(each.size or 0)
    size = sum(each.size or 0 for each in wanted)
    return Pulled(size_bytes=size, downloaded_bytes=downloaded)


def from_url(source: FromUrl, note: Callable[[int, int], None]) -> Pulled:
    """Bring one file from an address.

    A part of it is gone on from only while the server says that the file is still the same.

    Raises:
        CarError: ``download_failed`` or ``io_error``.
    """
    target = Path(source.target)
    response = get_session().head(
        source.url,
        headers={"Accept-Encoding": "identity"},  # or the size would be that of a compressed one
        follow_redirects=True,
        timeout=_ANSWER_TIMEOUT_S,
    )
    # Some servers refuse HEAD and still serve the file; then its size is not known beforehand.
    known: Mapping[str, str] = response.headers if response.is_success else {}
    size = int(known["content-length"]) if "content-length" in known else None
    version = (source.url, known.get("etag"), known.get("last-modified"), size)
    name = f"{target.name}.{hashlib.sha256(repr(version).encode()).hexdigest()[:16]}"
    partial = target.with_name(name + PARTIAL_SUFFIX)
    digest = None if source.sha256 is None else Digest("sha256", source.sha256)
    if not target.exists():
        _make_sure_of_room(target.parent, [(partial, size or 0)], at=partial)
    total = _Total(size or 0, note)
    downloaded = fetch(RemoteFile(source.url, size, digest), partial, target, total)
    return Pulled(size_bytes=target.stat().st_size, downloaded_bytes=downloaded)


def from_path(source: FromPath, note: Callable[[int, int], None]) -> Pulled:
    """Copy a file, or the files of a folder, and let the copy appear as a whole.

    Raises:
        CarError: ``not_found`` where nothing is there, ``io_error`` where the disk has no room.
    """
    origin, target = Path(source.path), Path(source.target)
    if not origin.exists():
        raise CarError("not_found", f"there is no file or folder {origin}", path=str(origin))
    if origin.is_dir() is not source.is_folder:
        wanted = "folder" if source.is_folder else "file"
        detail = f"{origin} is no {wanted}, which a model of this kind is"
        raise CarError("conflict", detail, path=str(origin))
    files = sorted(each for each in origin.rglob("*") if each.is_file()) or [origin]
    sizes = [each.stat().st_size for each in files]
    target.parent.mkdir(parents=True, exist_ok=True)
    _make_sure_of_room(target.parent, [(target, sum(sizes))])
    copy = target.with_name(target.name + PARTIAL_SUFFIX)
    total = _Total(sum(sizes), note)
    with FileLock(f"{copy}.lock"):
        _delete(copy)
        try:
            for file, size in zip(files, sizes, strict=True):
                into = copy / file.relative_to(origin) if file != origin else copy
                into.parent.mkdir(parents=True, exist_ok=True)
                _copy(file, into, total)
                total.next_file(size)
        except BaseException:
            _delete(copy)  # it cannot be gone on with, and takes room
            raise
        if source.sha256 is not None:
            check(copy, Digest("sha256", source.sha256))
        if target.is_dir():
            _delete(target)
        copy.replace(target)
    return Pulled(size_bytes=sum(sizes), downloaded_bytes=sum(sizes))


def _wanted(source: FromHub, present: Iterable[RepoSibling]) -> list[RepoSibling]:
    by_name = {each.rfilename: each for each in present}
    names = source.files or [
        name for name in by_name if any(fnmatch(name, kind) for kind in _FOLDER_FILES)
    ]
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        what = missing[0] if missing else "model"
        listed = ", ".join(sorted(by_name)[:20]) or "nothing"
        raise CarError("not_found", f"{source.repo} has no {what}; it has {listed}")
    return [by_name[name] for name in names]


def _digest(file: RepoSibling) -> Digest | None:
    if file.lfs is not None:
        return Digest("sha256", file.lfs.sha256)
    return None if file.blob_id is None else Digest("git", file.blob_id)


def _blob(blobs: Path, file: RepoSibling) -> Path:
    digest = _digest(file)
    if digest is None:
        raise CarError("download_failed", f"the hub does not say what {file.rfilename} hashes to")
    return blobs / digest.hex


def _partial(blob: Path) -> Path:
    return blob.with_name(blob.name + PARTIAL_SUFFIX)


def _make_sure_of_room(
    folder: Path, files: Iterable[tuple[Path, int]], at: Path | None = None
) -> None:
    """Refuse a download that would fill the disk, before it begins."""
    missing = 0
    for path, size in files:
        partial = at or _partial(path)
        have = next((each.stat().st_size for each in (path, partial) if each.exists()), 0)
        missing += max(0, size - have)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if missing + MIN_FREE_BYTES > free:
        raise CarError(
            "io_error",
            f"{missing} bytes are to come and {folder} has room for {free}; free some space, or"
            " choose another disk with --models-dir or HF_HUB_CACHE",
            needed_bytes=missing,
            free_bytes=free,
        )


def _copy(origin: Path, into: Path, note: Callable[[int], None]) -> None:
    with origin.open("rb") as reader, into.open("wb") as writer:
        while chunk := reader.read(_COPY_BYTES):
            writer.write(chunk)
            note(writer.tell())


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
