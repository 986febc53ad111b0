"""JSON that a server made: of the type that is needed, or empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast


def text(value: Any) -> str:
    """The text, or an empty one."""
    return value if isinstance(value, str) else ""


def members(value: Any) -> dict[str, Any]:
    """The object, or an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def items(value: Any) -> Sequence[Any]:
    """The array, or an empty one."""
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()
