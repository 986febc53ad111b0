"""What of this machine decides which model is the better one."""

from __future__ import annotations

import platform


def has_apple_gpu() -> bool:
    """Whether MLX has a GPU here. Elsewhere it computes on one core, where llama.cpp uses all."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"
