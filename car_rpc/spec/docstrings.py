"""Descriptions, taken from docstrings in Google's style."""

from __future__ import annotations

import inspect
import re
from typing import Any

_ATTRIBUTES = re.compile(r"\n\s*Attributes:\n")
_FIELD = re.compile(r"^    (\w+): ", re.MULTILINE)


def describe(documented: Any) -> tuple[str, dict[str, str]]:
    """What a docstring says of a type, and of each of its fields, in Markdown.

    What it does not say of a field is taken from the type that it extends.
    """
    text = inspect.cleandoc(documented.__doc__ or "")
    about, *attributes = _ATTRIBUTES.split(f"{text}\n", maxsplit=1)
    # Text before the first field, then name and text in turns.
    _, *parts = _FIELD.split(attributes[0]) if attributes else [""]
    fields = {name: _line(said) for name, said in zip(parts[::2], parts[1::2], strict=True)}
    base: Any = getattr(documented, "__base__", object)
    inherited = {} if base is object else describe(base)[1]
    about = "\n\n".join(_line(paragraph) for paragraph in about.strip().split("\n\n"))
    return about, inherited | fields


def _line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")
