"""TypeScript declarations for Node, one file for each family of methods."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from shapes import Record, Schema, Shape, Union, Words, families, shapes, target

FOLDER = "bindings/node/src/wire"

_OPEN = """\
/** Any object. */
export type JsonObject = Record<string, unknown>;

/** The tag of a member that this version does not know: some other string. */
declare enum UnknownTag {
  Unknown = '',
}

/**
 * A member of an open union that this version does not know: keep it or ignore it, never fail.
 * Comparing `type` tells the known members apart, and this is what remains.
 */
export interface UnknownMember {
  type: UnknownTag;
  [member: string]: unknown;
}

// Without it, what is not exported above would be.
export {};
"""

_PLAIN = {
    "array": "unknown[]",
    "boolean": "boolean",
    "integer": "number",
    "null": "null",
    "number": "number",
    "object": "JsonObject",
    "string": "string",
}

#: Who sends and receives: name of the map, its meaning, direction and kind of its methods.
_MAPS = [
    ("Methods", "Requests that the app sends.", "client_to_core", "request"),
    ("Notifications", "Notifications that the app sends.", "client_to_core", "notification"),
    ("CoreMethods", "Requests that the core sends.", "core_to_client", "request"),
    ("CoreNotifications", "Notifications that the core sends.", "core_to_client", "notification"),
]


def files(spec: dict[str, Any], notice: str) -> dict[str, str]:
    """The declarations, by path."""
    known = shapes(spec["schema"])
    parts = {"open": _OPEN, "methods": _methods(spec["methods"]["methods"])}
    for family, members in families(known).items():
        parts[family] = "\n".join(_declaration(shape, known) for shape in members)
    owners = {"JsonObject": "open", "UnknownMember": "open"}
    owners |= {shape.name: shape.family for shape in known.values()}
    owners |= {f"Known{s.name}": s.family for s in known.values() if getattr(s, "open", False)}
    texts = {name: _imports(name, text, owners) + text for name, text in parts.items()}
    texts["index"] = "".join(f"export * from './{name}.js';\n" for name in sorted(parts))
    return {f"{FOLDER}/{name}.d.ts": f"// {notice}\n\n{text}" for name, text in texts.items()}


def _imports(name: str, text: str, owners: dict[str, str]) -> str:
    """Import lines for what a file mentions and does not declare."""
    words = set("".join(c if c.isalnum() else " " for c in _without_comments(text)).split())
    wanted: dict[str, list[str]] = {}
    for word in sorted(words & owners.keys()):
        if owners[word] != name:
            wanted.setdefault(owners[word], []).append(word)
    lines: list[str] = []
    for owner, words_of_owner in sorted(wanted.items()):
        line = f"import type {{ {', '.join(words_of_owner)} }} from './{owner}.js';"
        if len(line) > 100:
            listed = "".join(f"  {word},\n" for word in words_of_owner)
            line = f"import type {{\n{listed}}} from './{owner}.js';"
        lines.append(line)
    return "".join(f"{line}\n" for line in lines) + ("\n" if lines else "")


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.strip().startswith(("/*", "*")))


def _declaration(shape: Shape, known: dict[str, Shape]) -> str:
    match shape:
        case Record():
            return _interface(shape, known)
        case Union():
            return _alias(shape.name, shape.about, shape.members, "UnknownMember", shape.open)
        case Words():
            values = [_literal(value) for value in shape.values]
            return _alias(shape.name, shape.about, values, "(string & {})", shape.open)


def _alias(name: str, about: str, members: list[str], rest: str, is_open: bool) -> str:
    one_each = "".join(f"\n  | {member}" for member in members)
    if not is_open:
        return f"{_comment(about)}export type {name} ={one_each};\n"
    known = _comment(about.removesuffix(".") + ": what this version knows.")
    return (
        f"{known}export type Known{name} ={one_each};\n\n"
        f"{_comment(about)}export type {name} = Known{name} | {rest};\n"
    )


def _interface(record: Record, known: dict[str, Shape]) -> str:
    lines = [f"{_comment(record.about)}export interface {record.name} {{\n"]
    if record.tag is not None:
        lines.append(f"  {record.tag_field}: {_literal(record.tag)};\n")
    for field in record.fields:
        about = field.about
        if "default" in field.schema:
            about += f"\n@defaultValue `{json.dumps(field.schema['default'])}`"
        optional = "" if field.required else "?"
        type_ = _type(field.schema, known, sent_by_app=record.sender == "client")
        lines.append(f"{_comment(about, '  ')}  {field.name}{optional}: {type_};\n")
    return "".join(lines) + "}\n"


def _type(schema: Schema, known: dict[str, Shape], *, sent_by_app: bool) -> str:
    """The type of a value. An app sends only what this version knows."""

    def inner(part: Schema) -> str:
        return _type(part, known, sent_by_app=sent_by_app)

    name = target(schema)
    if name is not None:
        return _named(known[name], sent_by_app=sent_by_app)
    if "anyOf" in schema:
        if "x-tag" in schema:
            return " | ".join(target(member) or "" for member in schema["anyOf"])
        return " | ".join(inner(member) for member in schema["anyOf"])
    if "items" in schema:
        item = inner(schema["items"])
        return f"Array<{item}>" if " " in item else f"{item}[]"
    if "additionalProperties" in schema:
        return f"Record<string, {inner(schema['additionalProperties'])}>"
    return _plain(schema)


def _named(shape: Shape, *, sent_by_app: bool) -> str:
    if isinstance(shape, Record):
        # Where a type stands alone, nobody needs its tag.
        return f"Omit<{shape.name}, '{shape.tag_field}'>" if shape.tag else shape.name
    return f"Known{shape.name}" if sent_by_app and shape.open else shape.name


def _plain(schema: Schema) -> str:
    if "const" in schema:
        return _literal(schema["const"])
    if "enum" in schema:
        values = " | ".join(_literal(value) for value in schema["enum"])
        return f"{values} | (string & {{}})" if schema.get("x-open") else values
    return _PLAIN.get(schema.get("type", ""), "unknown")


def _methods(table: dict[str, Any]) -> str:
    maps: list[str] = []
    for name, about, direction, kind in _MAPS:
        rows = [
            _row(method, row, kind)
            for method, row in table.items()
            if row["direction"] in (direction, "both") and row["kind"] in (kind, "either")
        ]
        maps.append(f"{_comment(about)}export interface {name} {{\n{''.join(rows)}}}\n")
    return "\n".join(maps)


def _row(method: str, row: dict[str, Any], kind: str) -> str:
    result = f"; result: {target(row['result']) or 'null'}" if kind == "request" else ""
    types = f"{{ params: {target(row['params'])}{result} }}"
    return f"{_comment(row['summary'], '  ')}  {_literal(method)}: {types};\n"


def _literal(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


def _comment(text: str, indent: str = "") -> str:
    text = text.replace("*/", "*\\/")
    if "\n" not in text and len(indent) + len(text) + 7 <= 100:
        return f"{indent}/** {text} */\n"
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines += textwrap.wrap(paragraph, 97 - len(indent), break_long_words=False) or [""]
    body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"
