"""The types of the schema as records, unions and words: what a language's generator walks over."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

Schema: TypeAlias = dict[str, Any]


class Field(NamedTuple):
    """A member of a record."""

    name: str
    about: str
    schema: Schema
    required: bool


class Record(NamedTuple):
    """An object with known members. ``tag`` is its own value of the union's ``tag_field``."""

    name: str
    about: str
    family: str
    sender: str
    tag: str | None
    tag_field: str
    fields: list[Field]


class Union(NamedTuple):
    """One of several records, told apart by a member."""

    name: str
    about: str
    family: str
    tag_field: str
    members: list[str]
    open: bool


class Words(NamedTuple):
    """One of several strings."""

    name: str
    about: str
    family: str
    values: list[str]
    open: bool


Shape: TypeAlias = Record | Union | Words


def shapes(schema: Schema) -> dict[str, Shape]:
    """Every definition of the schema, by name."""
    return {name: _shape(name, definition) for name, definition in schema["$defs"].items()}


def families(known: dict[str, Shape]) -> dict[str, list[Shape]]:
    """The definitions of each family, unions and words first."""
    grouped: dict[str, list[Shape]] = {}
    for shape in sorted(known.values(), key=lambda shape: isinstance(shape, Record)):
        grouped.setdefault(shape.family, []).append(shape)
    return dict(sorted(grouped.items()))


def target(schema: Schema) -> str | None:
    """Name of the definition that a schema refers to, if it is a reference."""
    return schema["$ref"].rpartition("/")[2] if "$ref" in schema else None


def nullable(schema: Schema) -> tuple[Schema, bool]:
    """A schema without null, and whether null was allowed."""
    members = schema.get("anyOf", [])
    rest = [member for member in members if member != {"type": "null"}]
    if len(rest) == len(members):
        return schema, False
    return (rest[0] if len(rest) == 1 else {"anyOf": rest}), True


def _shape(name: str, definition: Schema) -> Shape:
    about, family = definition["description"], definition["x-family"]
    is_open = definition.get("x-open", False)
    if "x-tag" in definition:
        members = [target(member) or "" for member in definition["anyOf"]]
        return Union(name, about, family, definition["x-tag"], members, is_open)
    if definition.get("type") != "object":
        # An open list of words may be written as "one of these, or any string".
        values = definition.get("enum") or definition["anyOf"][0]["enum"]
        return Words(name, about, family, values, is_open)
    properties = definition["properties"]
    tags = [key for key, value in properties.items() if isinstance(value.get("const"), str)]
    tag_field = tags[0] if tags else ""
    fields = [
        Field(key, value.get("description", ""), value, key in definition["required"])
        for key, value in properties.items()
        if key != tag_field
    ]
    tag = properties[tag_field]["const"] if tags else None
    return Record(name, about, family, definition["x-sender"], tag, tag_field, fields)
