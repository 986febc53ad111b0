"""Swift types, one file for each family of methods.

What they lean on is written by hand beside them: ``JSONValue``, ``Either`` and ``RPCMethod``.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
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
)

FOLDER = "bindings/swift/Sources/CarRPC/Wire"

_KEYWORDS = {"default", "repeat", "in", "is", "func", "operator", "protocol", "self", "case"}
_PLAIN = {
    "boolean": "Bool",
    "integer": "Int",
    "number": "Double",
    "string": "String",
    "array": "[JSONValue]",
    "object": "[String: JSONValue]",
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
    return {f"{FOLDER}/{name}.swift": f"// {notice}\n\n{text}" for name, text in texts.items()}


def _declaration(shape: Shape, known: dict[str, Shape]) -> str:
    match shape:
        case Record():
            return _struct(shape, known)
        case Union():
            return _enum(shape, known)
        case Words():
            return _words(shape)


def _words(shape: Words) -> str:
    values = "".join(
        f'    public static let {_constant(value)} = {shape.name}(rawValue: "{value}")\n'
        for value in shape.values
    )
    return (
        f"{_comment(shape.about)}public struct {shape.name}: RawRepresentable, Codable, Sendable,"
        f" Hashable {{\n    public let rawValue: String\n\n{values}\n"
        "    public init(rawValue: String) {\n        self.rawValue = rawValue\n    }\n}\n"
    )


def _constant(value: str) -> str:
    # Where an optional is expected, `.none` would be nil.
    return "noneValue" if value == "none" else _name(value)


def _struct(record: Record, known: dict[str, Shape]) -> str:
    types = {field.name: _field_type(field, known) for field in record.fields}
    stored = "".join(
        _comment(_about(field), "    ")
        + f"    public var {_name(field.name)}: {types[field.name]}\n"
        for field in record.fields
    )
    parameters = _parameters(
        f"{_name(field.name)}: {types[field.name]}" + ("" if field.required else " = nil")
        for field in record.fields
    )
    assigned = "".join(
        f"        self.{camel(field.name)} = {_name(field.name)}\n" for field in record.fields
    )
    keys = "".join(
        f"        case {_name(field.name)}"
        + (f' = "{field.name}"' if camel(field.name) != field.name else "")
        + "\n"
        for field in record.fields
    )
    head = f"{_comment(record.about)}public struct {record.name}: Codable, Sendable, Hashable {{\n"
    if not record.fields:
        return f"{head}    public init() {{}}\n}}\n"
    return (
        f"{head}{stored}\n    public init({parameters}) {{\n{assigned}    }}\n\n"
        f"    private enum CodingKeys: String, CodingKey {{\n{keys}    }}\n}}\n"
    )


def _parameters(parameters: Iterable[str]) -> str:
    listed = [*parameters]
    line = ", ".join(listed)
    return line if len(line) <= 76 else "".join(f"\n        {p}," for p in listed)[:-1] + "\n    "


def _enum(union: Union, known: dict[str, Shape]) -> str:
    tags = {name: _tag(known[name]) for name in union.members}
    cases = "".join(f"    case {_name(tag)}({name})\n" for name, tag in tags.items())
    decoded = "".join(
        f'        case "{tag}": self = .{_name(tag)}(try {name}(from: decoder))\n'
        for name, tag in tags.items()
    )
    encoded = "".join(
        f'        case .{_name(tag)}(let value): try encoder.encode(value, tag: "{tag}")\n'
        for tag in tags.values()
    )
    return (
        f"{_comment(union.about)}public enum {union.name}: Codable, Sendable, Hashable {{\n{cases}"
        "    /// A member that this version does not know, as it came.\n"
        "    case unknown(type: String, raw: JSONValue)\n\n"
        "    public init(from decoder: Decoder) throws {\n"
        "        switch try decoder.tag() {\n"
        f"{decoded}"
        "        case let type: self = .unknown(type: type, raw: try JSONValue(from: decoder))\n"
        "        }\n    }\n\n"
        "    public func encode(to encoder: Encoder) throws {\n        switch self {\n"
        f"{encoded}"
        "        case .unknown(_, let raw): try raw.encode(to: encoder)\n"
        "        }\n    }\n}\n"
    )


def _tag(shape: Shape) -> str:
    return (shape.tag or "") if isinstance(shape, Record) else ""


def _about(field: Field) -> str:
    if "default" not in field.schema:
        return field.about
    return f"{field.about}\nDefault: `{json.dumps(field.schema['default'])}`."


def _field_type(field: Field, known: dict[str, Shape]) -> str:
    schema, or_null = nullable(field.schema)
    return _type(schema, known) + ("?" if or_null or not field.required else "")


def _type(schema: Schema, known: dict[str, Shape]) -> str:
    name = target(schema) or covering(schema, known)
    if name is not None:
        return name
    if "anyOf" in schema:
        first, second = schema["anyOf"]
        return f"Either<{_type(first, known)}, {_type(second, known)}>"
    if "items" in schema:
        return f"[{_type(schema['items'], known)}]"
    if "additionalProperties" in schema:
        return f"[String: {_type(schema['additionalProperties'], known)}]"
    if "const" in schema:
        return "Bool"
    return _PLAIN.get(schema.get("type", ""), "JSONValue")


def _methods(table: dict[str, Any]) -> str:
    enums: list[str] = []
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
        enums.append(f"{_comment(about)}public enum {name} {{\n{''.join(rows)}}}\n")
    return "\n".join(enums)


def _row(method: str, row: dict[str, Any], kind: str) -> str:
    params, name = target(row["params"]), camel(method)
    if kind == "request":
        type_ = f"RPCMethod<{params}, {target(row['result']) or 'JSONValue'}>"
    else:
        type_ = f"RPCNotification<{params}>"
        name += "Notification" if row["kind"] == "either" else ""
    return f'{_comment(row["summary"], "    ")}    public static let {name} = {type_}("{method}")\n'


def _version(version: dict[str, Any]) -> str:
    return (
        "/// The specification that these types were made from.\npublic enum Spec {\n"
        f"    public static let protocolVersion = {version['protocol_version']}\n"
        f"    public static let major = {version['major']}\n"
        f"    public static let minor = {version['minor']}\n"
        f'    public static let hash = "{version["hash"]}"\n}}\n'
    )


def _name(name: str) -> str:
    name = camel(name)
    return f"`{name}`" if name in _KEYWORDS else name


def _comment(text: str, indent: str = "") -> str:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines += textwrap.wrap(paragraph, 96 - len(indent), break_long_words=False) or [""]
    return "".join(f"{indent}/// {line}".rstrip() + "\n" for line in lines)
