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


# For languages in which every type needs a name


def named(known: dict[str, Shape]) -> dict[str, Shape]:
    """The definitions, with a name also for each list of words that stands in a field."""
    everything = dict(known)
    for shape in known.values():
        if isinstance(shape, Record):
            fields = [_with_named_words(shape, field, everything) for field in shape.fields]
            everything[shape.name] = shape._replace(fields=fields)
    return everything


def covering(schema: Schema, known: dict[str, Shape]) -> str | None:
    """Name of the smallest union that has every member of a union that stands in a field."""
    if "x-tag" not in schema:
        return None
    members = {target(member) for member in schema["anyOf"]}
    unions = [shape for shape in known.values() if isinstance(shape, Union)]
    fitting = [union for union in unions if members <= set(union.members)]
    return min(fitting, key=lambda union: len(union.members)).name


def unions_of(name: str, known: dict[str, Shape]) -> list[Union]:
    """The unions that a record is a member of."""
    return [s for s in known.values() if isinstance(s, Union) and name in s.members]


def pascal(name: str) -> str:
    """``TextDelta`` for ``text_delta``, ``eventlog.query`` and the like in one word."""
    words = "".join(c if c.isalnum() else " " for c in name).split()
    return "".join(word[:1].upper() + word[1:] for word in words)


def camel(name: str) -> str:
    """``textDelta`` for ``text_delta``."""
    return pascal(name)[:1].lower() + pascal(name)[1:]


def _with_named_words(record: Record, field: Field, everything: dict[str, Shape]) -> Field:
    schema = field.schema
    if "enum" not in schema:
        return field
    name = record.name + pascal(field.name)
    is_open = schema.get("x-open", False)
    everything[name] = Words(name, field.about, record.family, schema["enum"], is_open)
    kept = {key: schema[key] for key in ("default",) if key in schema}
    return field._replace(schema={"$ref": f"#/$defs/{name}", **kept})
