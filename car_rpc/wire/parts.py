"""Models that were split into several GGUF files: the first of them stands for all.

The names are those of ``llama-gguf-split`` (llama.cpp, ``llama_split_path``).
"""

from __future__ import annotations

import re

#: Most files of one model. What names more is taken for a file like any other.
MAX_PARTS = 512

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z")


def file_parts(name: str) -> list[str]:
    """All files of a model, the first one first.

    Args:
        name: Name, path or address of its first file.

    Returns:
        The same for each of its files; of a model in one file, and of a later part, only that.
    """
    part = _PART.search(name)
    if part is None:
        return [name]
    number, count = map(int, part.groups())
    if number != 1 or count > MAX_PARTS:
        return [name]
    start = name[: part.start()]
    return [f"{start}-{each:05}-of-{count:05}.gguf" for each in range(1, max(count, 1) + 1)]


def is_later_part(name: str) -> bool:
    """Whether a file is a part of a model and not the first, which stands for it."""
    part = _PART.search(name)
    return part is not None and int(part[1]) != 1
