"""Let go of a model's file where the library computes with copies of its weights.

llama.cpp maps a file and brings all of it into memory. For many processors (AMX, AVX2, NEON) it
then lays the weights out anew, in memory of its own, and next to nothing reads the file any more;
but its pages stay with the process, which so holds its model twice.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def own_bytes() -> int:
    """Memory of this process with no file behind it, in bytes; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def release(paths: Iterable[str]) -> None:
    """Take files out of this process's memory where they are mapped to be read, on Linux.

    What is read of them all the same comes back from the system's cache, at about 8 us for 64 KiB
    (the kernel's ``fault_around_bytes``), so that it costs little where that is not much. Pages
    that are locked in memory stay: the kernel refuses to let go of them.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    files = {os.fsencode(Path(path).resolve()) for path in paths}
    for line in Path("/proc/self/maps").read_bytes().split(b"\n")[:-1]:
        addresses, mode, _, _, _, *names = line.split(maxsplit=5)
        if mode == b"r--s" and names and names[0] in files:
            start, end = (int(address, 16) for address in addresses.split(b"-"))
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
