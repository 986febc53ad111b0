"""What to download, and where to: from a hub's repository, from an address, from a folder."""

from __future__ import annotations

import hashlib
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit, urlunsplit

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
from car_rpc.wire.parts import file_parts
from car_rpc.wire.worker import Pulled
from car_rpc.workers.hub.download import (
    PARTIAL_SUFFIX,
    Digest,
    RemoteFile,
    digest_of,
    fetch,
)

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


class _Fetch(NamedTuple):
    """A file that is to come.

    Attributes:
        remote: Where it is.
        partial: Where it grows.
        target: Where it goes.
    """

    remote: RemoteFile
    partial: Path
    target: Path


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
    files: list[_Fetch] = []
    for each in wanted:
        url = hf_hub_url(source.repo, each.rfilename, revision=info.sha)
        blob = _blob(blobs, each)
        remote = RemoteFile(url, each.size, _digest(each), headers)
        files.append(_Fetch(remote, _partial(blob), blob))
    _make_sure_of_room(blobs, _missing_bytes(files))
    size = sum(each.size or 0 for each in wanted)
    total = _Total(size, note)
    downloaded = 0
    for each, (remote, partial, blob) in zip(wanted, files, strict=True):
        downloaded += fetch(remote, partial, blob, total)
        # It finds the content in place and only links it, in its own layout.
        hf_hub_download(source.repo, each.rfilename, cache_dir=source.hub_dir)
        total.next_file(each.size or 0)
    return Pulled(size_bytes=size, downloaded_bytes=downloaded)


def from_url(source: FromUrl, note: Callable[[int, int], None]) -> Pulled:
    """Bring a file from an address, or those of a model that was split.

    A part of one is gone on from only while the server says that the file is still the same.

    Raises:
        CarError: ``download_failed`` or ``io_error``.
    """
    address = urlsplit(source.url)
    urls = [urlunsplit(address._replace(path=path)) for path in file_parts(address.path)]
    targets = [Path(target) for target in file_parts(source.target)]
    digest = None if source.sha256 is None else Digest("sha256", source.sha256)
    files = [_at_address(*each, digest) for each in zip(urls, targets, strict=True)]
    _make_sure_of_room(targets[0].parent, _missing_bytes(files))
    total = _Total(sum(each.remote.size_bytes or 0 for each in files), note)
    downloaded = 0
    for remote, partial, target in files:
        downloaded += fetch(remote, partial, target, total)
        total.next_file(target.stat().st_size)
    size = sum(target.stat().st_size for target in targets)
    return Pulled(size_bytes=size, downloaded_bytes=downloaded)


def _at_address(url: str, target: Path, digest: Digest | None) -> _Fetch:
    response = get_session().head(
        url,
        headers={"Accept-Encoding": "identity"},  # or the size would be that of a compressed one
        follow_redirects=True,
        timeout=_ANSWER_TIMEOUT_S,
    )
    # Some servers refuse HEAD and still serve the file; then its size is not known beforehand.
    known: Mapping[str, str] = response.headers if response.is_success else {}
    size = int(known["content-length"]) if "content-length" in known else None
    version = (url, known.get("etag"), known.get("last-modified"), size)
    name = f"{target.name}.{hashlib.sha256(repr(version).encode()).hexdigest()[:16]}"
    partial = target.with_name(name + PARTIAL_SUFFIX)
    return _Fetch(RemoteFile(url, size, digest), partial, target)


def from_path(source: FromPath, note: Callable[[int, int], None]) -> Pulled:
    """Copy a file or a folder, or the files of a split model, and let the copy appear as a whole.

    Raises:
        CarError: ``not_found`` where nothing is there, ``conflict`` for what is something else,
            ``io_error`` where the disk has no room.
    """
    origin, target = Path(source.path), Path(source.target)
    if not origin.exists():
        raise CarError("not_found", f"there is no file or folder {origin}", path=str(origin))
    if origin.is_dir() is not source.is_folder:
        wanted = "folder" if source.is_folder else "file"
        detail = f"{origin} is no {wanted}, which a model of this kind is"
        raise CarError("conflict", detail, path=str(origin))
    origins = [origin.with_name(name) for name in file_parts(origin.name)]
    targets = [target.with_name(name) for name in file_parts(target.name)]
    copies = [_partial(each) for each in targets]
    sizes = [_size(each) for each in origins]
    target.parent.mkdir(parents=True, exist_ok=True)
    _make_sure_of_room(target.parent, sum(sizes))
    total = _Total(sum(sizes), note)
    with FileLock(f"{copies[0]}.lock"):
        try:
            for each, copy in zip(origins, copies, strict=True):
                _delete(copy)
                _copy_all(each, copy, total)
            if source.sha256 is not None:
                _check_copy(origin, copies[0], source.sha256)
        except BaseException:
            for copy in copies:
                _delete(copy)  # it cannot be gone on with, and takes room
            raise
        for copy, each in zip(copies, targets, strict=True):
            if each.is_dir():
                _delete(each)
            copy.replace(each)
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


def _missing_bytes(files: Iterable[_Fetch]) -> int:
    missing = 0
    for remote, partial, target in files:
        if not target.exists():
            have = partial.stat().st_size if partial.exists() else 0
            missing += max(0, (remote.size_bytes or 0) - have)
    return missing


def _make_sure_of_room(folder: Path, missing: int) -> None:
    """Refuse what would fill the disk, before it begins."""
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


def _copy_all(origin: Path, copy: Path, total: _Total) -> None:
    for file in _files(origin):
        into = copy / file.relative_to(origin) if file != origin else copy
        into.parent.mkdir(parents=True, exist_ok=True)
        _copy(file, into, total)
        total.next_file(into.stat().st_size)


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) or [path]


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in _files(path))


def _copy(origin: Path, into: Path, note: Callable[[int], None]) -> None:
    with origin.open("rb") as reader, into.open("wb") as writer:
        while chunk := reader.read(_COPY_BYTES):
            writer.write(chunk)
            note(writer.tell())


def _check_copy(origin: Path, copy: Path, sha256: str) -> None:
    found = digest_of(copy, "sha256")
    if found != sha256.lower():
        detail = (
            f"{origin} is another file than the model's: its SHA-256 is {found}, and that of the"
            f" model {sha256.lower()}; import the right one, or register this one as a model"
        )
        raise CarError("conflict", detail, path=str(origin), expected=sha256.lower(), found=found)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
