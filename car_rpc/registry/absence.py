"""What is missing of a local model's files, as far as one sees from outside."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from car_rpc.wire.models import LocalSource, MlxSource, ModelSource
from car_rpc.wire.parts import file_parts
from car_rpc.wire.sources import adapters_of, draft_of

#: Permissions of a file that everybody may read.
_ALL_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH

#: What a folder of MLX weights, or an adapter for MLX, is not without.
_MLX_MODEL: tuple[str, ...] = ("config.json",)
_MLX_ADAPTER: tuple[str, ...] = ("adapter_config.json", "adapters.safetensors")


def missing(source: ModelSource) -> str | None:
    """Why a model's weights are not ready: which file is not there, or what it lacks.

    Returns:
        The reason, for people; ``None`` where all files are there, or none are needed.
    """
    if not isinstance(source, LocalSource | MlxSource):
        return None
    if not isinstance(source.path, str):
        return "its weights are not on this machine"
    is_file = isinstance(source, LocalSource)
    members = () if is_file else _MLX_MODEL
    for path in file_parts(source.path) if is_file else [source.path]:
        if not _is_there(path, members):
            return _why("model", Path(path), members)
    members = () if is_file else _MLX_ADAPTER
    for index, adapter in enumerate(adapters_of(source)):
        if not _is_there(adapter.path, members):
            return f"adapters[{index}]: {_why('adapter', Path(adapter.path), members)}"
    draft = draft_of(source)
    if draft is not None and not _is_there(draft, ()):
        return f"speculation.path: {_why('model', Path(draft), ())}"
    return None


# Every decision looks at every file, so the system is asked as little as possible: the long look
# is for what is not there.
def _is_there(path: str, members: tuple[str, ...]) -> bool:
    """Whether a file, or all members of a folder, can be read."""
    return all(_readable(f"{path}/{member}") for member in members) if members else _readable(path)


def _readable(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - once per model at every decision
        return stat.S_ISREG(mode) and (mode & _ALL_READ == _ALL_READ or os.access(path, os.R_OK))
    except (OSError, ValueError):  # it is not there, or its name cannot be
        return False


def _why(what: Literal["model", "adapter"], path: Path, members: tuple[str, ...]) -> str:
    try:
        return _lack(what, path, members) or f"{path} may not be read by you; see its permissions"
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"


def _lack(what: str, path: Path, members: tuple[str, ...]) -> str | None:
    if not path.parent.exists():
        # Disks that come and go do so outside of people's home folders.
        home = os.path.expanduser("~")  # noqa: PTH111 - raises nothing where there is none
        question = "" if path.is_relative_to(home) else "; is its disk connected?"
        return f"{path} is not there, and its folder is not either{question}"
    if not path.exists():
        return f"{path} is not there"
    if not members and not path.is_file():
        return f"{path} is no file; a GGUF {what} is one file"
    if members and not path.is_dir():
        return f"{path} is no folder; an MLX {what} is a folder"
    lacking = next((member for member in members if not (path / member).is_file()), None)
    return lacking and f"{path} holds no {lacking}; is its download complete?"
