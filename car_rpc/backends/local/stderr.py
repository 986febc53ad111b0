"""What a worker writes to its standard error."""

from __future__ import annotations

import logging

_LEVELS = {"3": logging.ERROR, "4": logging.WARNING, "7": logging.DEBUG}


def leveled(line: str) -> tuple[int, str, str]:
    """Arguments for the logger: a line may begin with its level as in sd-daemon(3)."""
    if line[:1] == "<" and line[2:3] == ">" and line[1] in _LEVELS:
        return _LEVELS[line[1]], "%s", line[3:]
    return logging.INFO, "%s", line
