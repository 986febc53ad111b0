"""What a JSON schema says of the types of a value, as far as a reader of calls must know."""

from __future__ import annotations

from typing import Any, Final, cast

#: The types of JSON Schema. An integer is also a number.
TYPES: Final = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})

#: Which type a value has that was read from JSON.
_TYPE_OF: Final[dict[type, str]] = {
    bool: "boolean",
    dict: "object",
    float: "number",
    int: "integer",
    list: "array",
    str: "string",
    type(None): "null",
}

#: Most references that are followed, one after the other: they may go in circles.
_MOST_REFERENCES: Final = 16


def types_of(schema: Any, root: Any, depth: int = 0) -> frozenset[str]:
    """The types that a value may have; at least those that a right value has.

    Args:
        schema: The schema of the value.
        root: What its references are looked up in.
        depth: How many schemas it stands in.
    """
    if not isinstance(schema, dict) or depth > _MOST_REFERENCES:
        return TYPES
    keywords = cast("dict[str, Any]", schema)
    types = TYPES & _named(keywords.get("type"))
    if "enum" in keywords:
        types &= {type_of(value) for value in _listed(keywords["enum"])}
    if "const" in keywords:
        types &= {type_of(keywords["const"])}
    if "$ref" in keywords:
        types &= types_of(resolved(keywords["$ref"], root), root, depth + 1)
    for every in _listed(keywords.get("allOf")):
        types &= types_of(every, root, depth + 1)
    for choices in filter(None, (_listed(keywords.get(name)) for name in ("anyOf", "oneOf"))):
        types &= frozenset().union(*(types_of(choice, root, depth + 1) for choice in choices))
    return types


def type_of(value: Any) -> str:
    """The type of a value that was read from JSON."""
    return _TYPE_OF[type(value)]


def resolved(reference: Any, root: Any) -> Any:
    """What a reference within a schema refers to; ``None`` for what is not there."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found = root
    for step in filter(None, reference[1:].split("/")):
        name = step.replace("~1", "/").replace("~0", "~")
        found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
    return found


def _named(types: Any) -> frozenset[str]:
    named = [types] if isinstance(types, str) else _listed(types)
    found = frozenset(each for each in named if isinstance(each, str)) or TYPES
    return found | {"integer"} if "number" in found else found


def _listed(value: Any) -> list[object]:
    """A list; empty where there is none, as in a schema that is wrong."""
    return cast("list[object]", value) if isinstance(value, list) else []
