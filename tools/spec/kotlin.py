"""Kotlin types for kotlinx.serialization, one file for each family of methods.

What they lean on is written by hand beside them: ``UnionSerializer``, ``Either``, ``RpcMethod``.
An absent member is one that equals its default, so they want ``encodeDefaults = false``, which is
what ``Json`` does by itself, and ``ignoreUnknownKeys = true``.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

from shapes import (
    Field,
    Record,
    Schema,
    Shape,
    Union,
    Words,
    camel,
    covering,
    families,
    named,
    nullable,
    pascal,
    shapes,
    target,
    unions_of,
)

FOLDER = "bindings/kotlin/src/main/kotlin/carrpc/wire"

_KEYWORDS = {"as", "do", "else", "fun", "if", "in", "is", "object", "this", "val", "var", "when"}
_PLAIN = {
    "boolean": "Boolean",
    "integer": "Long",
    "number": "Double",
    "string": "String",
    "array": "JsonArray",
    "object": "JsonObject",
}
_SCALARS = {"boolean", "integer", "number", "string"}
_IMPORTS = {
    "JvmInline": "kotlin.jvm.JvmInline",
    "SerialName": "kotlinx.serialization.SerialName",
    "Serializable": "kotlinx.serialization.Serializable",
    "JsonArray": "kotlinx.serialization.json.JsonArray",
    "JsonElement": "kotlinx.serialization.json.JsonElement",
    "JsonNull": "kotlinx.serialization.json.JsonNull",
    "JsonObject": "kotlinx.serialization.json.JsonObject",
    "JsonPrimitive": "kotlinx.serialization.json.JsonPrimitive",
}


def files(spec: dict[str, Any], notice: str) -> dict[str, str]:
    """The sources, by path."""
    known = named(shapes(spec["schema"]))
    texts = {
        pascal(family): "\n".join(_declaration(shape, known) for shape in members)
        for family, members in families(known).items()
    }
    texts["Methods"] = _methods(spec["methods"]["methods"])
    texts["Spec"] = _version(spec["version"])
    return {f"{FOLDER}/{name}.kt": _file(text, notice) for name, text in texts.items()}


def _file(text: str, notice: str) -> str:
    words = set("".join(c if c.isalnum() else " " for c in text).split())
    imports = sorted(path for name, path in _IMPORTS.items() if name in words)
    listed = "".join(f"import {path}\n" for path in imports)
    return f"// {notice}\n\npackage carrpc.wire\n\n{listed}{chr(10) if listed else ''}{text}"


def _declaration(shape: Shape, known: dict[str, Shape]) -> str:
    match shape:
        case Record():
            return _class(shape, known)
        case Union():
            return _sealed(shape, known)
        case Words():
            return _words(shape)


def _words(shape: Words) -> str:
    values = "".join(
        f'        val {value.upper()} = {shape.name}("{value}")\n' for value in shape.values
    )
    return (
        f"{_comment(shape.about)}@Serializable\n@JvmInline\n"
        f"value class {shape.name}(val value: String) {{\n"
        f"    companion object {{\n{values}    }}\n}}\n"
    )


def _class(record: Record, known: dict[str, Shape]) -> str:
    unions = [union.name for union in unions_of(record.name, known)]
    parents = f" : {', '.join(unions)}" if unions else ""
    head = f"{_comment(record.about)}@Serializable\n"
    if not record.fields:
        return f"{head}data object {record.name}{parents}\n"
    fields = "".join(_property(field, known) for field in record.fields)
    return f"{head}data class {record.name}(\n{fields}){parents}\n"


def _property(field: Field, known: dict[str, Shape]) -> str:
    schema, or_null = nullable(field.schema)
    type_ = _type(schema, known)
    default = None if field.required else _default(schema, type_, known)
    if or_null or default == "null":
        type_ += "?"
    name = f"`{camel(field.name)}`" if camel(field.name) in _KEYWORDS else camel(field.name)
    serial_name = f'    @SerialName("{field.name}")\n' if camel(field.name) != field.name else ""
    value = "" if default is None else f" = {default}"
    return f"{_comment(_about(field), '    ')}{serial_name}    val {name}: {type_}{value},\n"


def _default(schema: Schema, type_: str, known: dict[str, Shape]) -> str:
    """What stands for an absent member: its default where that is plain, else null."""
    value = schema.get("default")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str) and isinstance(known.get(type_), Words):
        return f'{type_}("{value}")'
    if isinstance(value, str) and type_ == "String":
        return json.dumps(value)
    return "emptyList()" if value == [] and type_.startswith("List<") else "null"


def _sealed(union: Union, known: dict[str, Shape]) -> str:
    members = "".join(
        f'            member<{name}>("{_tag(known[name])}"),\n' for name in union.members
    )
    return (
        f"{_comment(union.about)}@Serializable(with = {union.name}Serializer::class)\n"
        f"sealed interface {union.name} {{\n"
        "    /** A member that this version does not know, as it came. */\n"
        "    data class Unknown(override val type: String, override val raw: JsonObject) :\n"
        f"        {union.name}, UnknownMember\n}}\n\n"
        f"object {union.name}Serializer : UnionSerializer<{union.name}>(\n"
        f'    "{union.name}",\n    {union.name}::Unknown,\n'
        f"    {{\n        listOf(\n{members}        )\n    }},\n)\n"
    )


def _tag(shape: Shape) -> str:
    return (shape.tag or "") if isinstance(shape, Record) else ""


def _about(field: Field) -> str:
    if "default" not in field.schema:
        return field.about
    return f"{field.about}\nDefault: `{json.dumps(field.schema['default'])}`."


def _type(schema: Schema, known: dict[str, Shape]) -> str:
    name = target(schema) or covering(schema, known)
    if name is not None:
        return name
    if "anyOf" in schema:
        return _choice(schema["anyOf"], known)
    if "items" in schema:
        return f"List<{_type(schema['items'], known)}>"
    if "additionalProperties" in schema:
        return f"Map<String, {_type(schema['additionalProperties'], known)}>"
    return "Boolean" if "const" in schema else _PLAIN.get(schema.get("type", ""), "JsonElement")


def _choice(members: list[Schema], known: dict[str, Shape]) -> str:
    if all(member.get("type") in _SCALARS for member in members):
        return "JsonPrimitive"  # it keeps a number and a string of digits apart
    return f"Either<{', '.join(_type(member, known) for member in members)}>"


def _methods(table: dict[str, Any]) -> str:
    objects: list[str] = []
    for name, about, directions in (
        ("Methods", "What the app sends.", ("client_to_core", "both")),
        ("CoreMethods", "What the core sends.", ("core_to_client", "both")),
    ):
        rows = [
            _row(method, row, kind)
            for method, row in table.items()
            for kind in ("request", "notification")
            if row["direction"] in directions and row["kind"] in (kind, "either")
        ]
        objects.append(f"{_comment(about)}object {name} {{\n{''.join(rows)}}}\n")
    return "\n".join(objects)


def _row(method: str, row: dict[str, Any], kind: str) -> str:
    params, name = target(row["params"]), camel(method)
    if kind == "request":
        made = f"method<{params}, {target(row['result']) or 'JsonNull'}>"
    else:
        made = f"notification<{params}>"
        name += "Notification" if row["kind"] == "either" else ""
    text = json.dumps(method).replace("$", "\\$")
    return f"{_comment(row['summary'], '    ')}    val {name} = {made}({text})\n"


def _version(version: dict[str, Any]) -> str:
    return (
        "/** The specification that these types were made from. */\nobject Spec {\n"
        f"    const val PROTOCOL_VERSION = {version['protocol_version']}\n"
        f"    const val MAJOR = {version['major']}\n"
        f"    const val MINOR = {version['minor']}\n"
        f'    const val HASH = "{version["hash"]}"\n}}\n'
    )


def _comment(text: str, indent: str = "") -> str:
    if "\n" not in text and len(indent) + len(text) + 7 <= 100:
        return f"{indent}/** {text} */\n"
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines += textwrap.wrap(paragraph, 97 - len(indent), break_long_words=False) or [""]
    body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"
