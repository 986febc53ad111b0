"""The llama.cpp library itself: how it is loaded, where it logs, what it is given.

The only module that imports ``llama_cpp``; the others take :data:`lib` from here, so that the
environment and the log are in place before native code runs.
"""

from __future__ import annotations

import collections
import ctypes
import importlib
import os
import sys
from typing import Any

# On an assert ggml would start a debugger on this process and print prompts to the console.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# GNU OpenMP's threads spin while they wait. This many turns, some milliseconds, are the fastest on
# an idle machine; sleeping at once takes 40 % longer there. On a busy one `Threads` sees to it that
# they seldom wait.
os.environ.setdefault("GOMP_SPINCOUNT", "100000")

import llama_cpp.llama_cpp as _llama_cpp

#: Name of this engine in error texts.
BACKEND = "llama_cpp"

#: The functions and types of llama.h. The library ships no types, hence ``Any``.
lib: Any = _llama_cpp

#: enum ggml_log_level of ggml.h (the numbers in llama-cpp-python's own comment are outdated)
_LEVEL_DEBUG, _LEVEL_ERROR, _LEVEL_CONTINUES = 1, 4, 5

#: How a line's level is told to whoever reads standard error (sd-daemon(3)). What llama.cpp
#: calls information is a hundred lines a model, so it counts as debugging here.
_PREFIX = {3: b"<4>", _LEVEL_ERROR: b"<3>"}
_DEBUG_PREFIX = b"<7>"

#: Native error lines kept to explain a failure: llama.cpp says what is wrong in its last few.
_KEPT_ERRORS = 8

#: Blocks of so many bytes or more go back to the system when they are freed: what is saved of
#: prompts, and contexts that were remade. glibc by itself takes to keeping those of up to 32 MB
#: (mallopt(3), M_MMAP_THRESHOLD), and holes of freed ones stay between others.
_LARGE_BYTES = 4 * 1024**2

#: malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_errors: collections.deque[str] = collections.deque(maxlen=_KEPT_ERRORS)


class _Log:
    """Writes native messages to standard error as whole lines, and keeps the errors."""

    def __init__(self) -> None:
        self._line = b""
        self._level = 0

    def __call__(self, level: int, text: bytes | None, _data: Any) -> None:
        if level != _LEVEL_CONTINUES:
            self._level = level
        if self._level == _LEVEL_DEBUG or not text:
            return
        *lines, self._line = (self._line + text).split(b"\n")
        for line in lines:
            os.write(2, _PREFIX.get(self._level, _DEBUG_PREFIX) + line + b"\n")
            if self._level == _LEVEL_ERROR:
                _errors.append(line.decode("utf-8", "replace"))


def _give_large_blocks_back() -> None:
    # Windows has no library of all that is loaded, and other systems another malloc.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # else it is no glibc
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)


_give_large_blocks_back()
# llama.cpp keeps a bare pointer to the callback, so it must live as long as the process.
_log_callback = lib.llama_log_callback(_Log())
lib.llama_log_set(_log_callback, ctypes.c_void_p(0))
lib.llama_backend_init()


def load_mtmd() -> Any:
    """The functions of mtmd.h, which only models with a projector need."""
    mtmd = importlib.import_module("llama_cpp.mtmd_cpp")
    mtmd.mtmd_helper_log_set(_log_callback, ctypes.c_void_p(0))
    return mtmd


def log_debug(text: str) -> None:
    """Write a line of our own among the native messages."""
    os.write(2, _DEBUG_PREFIX + text.encode() + b"\n")


def recent_errors() -> str:
    """The last errors that the library logged, as one line."""
    return "; ".join(_errors)


def version() -> str:
    """Version of the library, for the log."""
    return f"llama.cpp {lib.llama_version().decode()}"
