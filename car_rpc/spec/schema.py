"""One JSON Schema (2020-12) with a definition for every type of the wire.

Members that JSON Schema does not know:

- ``x-family``: the group of methods that a definition belongs to.
- ``x-sender``: who sends values of this type: ``client``, ``core`` or ``both``.
- ``x-tag``: the member that tells the types of a union apart.
- ``x-open``: the union or enumeration may get members that the core then sends: a client must
  keep or ignore what it does not know, and never fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from car_rpc.errors import KINDS
from car_rpc.spec.docstrings import describe
from car_rpc.spec.names import HELD, NAMED, PASSED_ON
from car_rpc.wire.base import WireStruct
from car_rpc.wire.error import ErrorData
from car_rpc.wire.methods import METHODS

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"
Schema: TypeAlias = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{name}"

_ERROR_KIND: Schema = {
    "description": "A kind of the error table; who sends another one is still understood.",
    "anyOf": [{"enum": sorted(KINDS)}, {"type": "string"}],
    "x-family": "error",
    "x-open": True,
}


def schema_document() -> Schema:
    """The schema of every type that a message can hold."""
    types = [type_ for type_, _ in _messages()]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    structs = {struct.__name__: struct for struct in wire_structs()}
    named = _named()
    definitions = {"ErrorKind": _ERROR_KIND, **named}
    for name, component in components.items():
        definitions[name] = _struct(structs[name], component, named)
    senders = _senders(definitions)
    marked = {name: _marked(definitions[name], senders[name]) for name in sorted(senders)}
    return {"$schema": _DIALECT, "title": "The wire types of car-rpc", "$defs": marked}


def wire_structs(base: type[WireStruct] = WireStruct) -> Iterator[type[WireStruct]]:
    """Every type of the wire."""
    for struct in base.__subclasses__():
        yield struct
        yield from wire_structs(struct)


def _messages() -> Iterator[tuple[type[WireStruct], str]]:
    """Every type at the top of a message, and who sends it."""
    yield ErrorData, "core"
    for row in METHODS.values():
        asks, answers = {
            "client_to_core": ("client", "core"),
            "core_to_client": ("core", "client"),
            "both": ("both", "both"),
        }[row.direction]
        yield row.params, asks
        if row.result is not None:
            yield row.result, answers
        if row.error_data is not None:
            yield row.error_data, answers


# Definitions


def _named() -> dict[str, Schema]:
    definitions: dict[str, Schema] = {}
    for module, names in NAMED.items():
        for name, about in names.items():
            schemas, _ = msgspec.json.schema_components([getattr(module, name)], ref_template=_REF)
            body = _clean(schemas[0], {})
            definitions[name] = {"description": about, **body, "x-family": _family(module.__name__)}
    return definitions


def _struct(struct: type[WireStruct], component: Schema, named: dict[str, Schema]) -> Schema:
    about, said = describe(struct)
    tag_field = struct.__struct_config__.tag_field
    properties: dict[str, Schema] = {}
    if tag_field is not None:
        tag = struct.__struct_config__.tag
        properties[tag_field] = {"description": f"Always `{tag}`.", "const": tag}
    for field in msgspec.structs.fields(struct):
        name = field.encode_name
        schema = _clean(component["properties"][name], named)
        if held := HELD.get((struct.__name__, name)):
            schema = _reference(held) | {key: schema[key] for key in schema if key == "default"}
        if field.default_factory is not msgspec.NODEFAULT:
            schema["default"] = field.default_factory()
        properties[name] = {"description": said[name], **schema} if name in said else schema
    closed = {"additionalProperties": False} if "additionalProperties" in component else {}
    return {
        "description": about,
        "type": "object",
        "properties": properties,
        "required": [name for name in component["required"] if name != tag_field],
        **closed,
        "x-family": _family(struct.__module__),
    }


def _family(module: str) -> str:
    return module.rpartition(".")[2]


def _clean(schema: Schema, named: dict[str, Schema]) -> Schema:
    """A schema without what only OpenAPI knows, with names for what has one."""
    cleaned: Schema = {}
    for key, value in schema.items():
        if key == "anyOf":
            cleaned[key] = [_clean(member, named) for member in value]
        elif key in ("items", "additionalProperties"):
            cleaned[key] = _clean(value, named)
        elif key == "discriminator":
            # Only a union needs the tag: a type that stands alone is known without it.
            cleaned |= {"required": [value["propertyName"]], "x-tag": value["propertyName"]}
        elif key == "enum":
            cleaned |= _choices(value)
        else:
            cleaned[key] = value
    default = {"default": cleaned.pop("default")} if "default" in cleaned else {}
    for name, definition in named.items():
        body = {k: v for k, v in definition.items() if k not in ("description", "x-family")}
        if cleaned == body:
            return _reference(name) | default
    return cleaned | default


def _choices(values: list[Any]) -> Schema:
    if all(isinstance(value, str) for value in values):
        return {"type": "string", "enum": values}
    return {"const": values[0]} if len(values) == 1 else {"enum": values}


def _reference(name: str) -> Schema:
    return {"$ref": _REF.format(name=name)}


# Who sends what


def _senders(definitions: dict[str, Schema]) -> dict[str, set[str]]:
    """The senders of every definition that some message leads to."""
    senders: dict[str, set[str]] = {}
    for type_, sender in _messages():
        waiting = [type_.__name__]
        while waiting:
            name = waiting.pop()
            known = senders.setdefault(name, set())
            if sender not in known:
                known.add(sender)
                waiting += _references(name, definitions[name])
    return senders


def _references(name: str, schema: Json, path: str = "") -> Iterator[str]:
    if isinstance(schema, list):
        for member in schema:
            yield from _references(name, member)
    elif isinstance(schema, dict):
        if isinstance(target := schema.get("$ref"), str):
            yield target.rpartition("/")[2]
        for key, value in schema.items():
            if not (path == "properties" and (name, key) in PASSED_ON):
                yield from _references(name, value, key)


def _marked(definition: Schema, senders: set[str]) -> Schema:
    core_sends = senders != {"client"}
    sender = "both" if len(senders) > 1 else next(iter(senders))
    return (_opened(definition) if core_sends else definition) | {"x-sender": sender}


def _opened(schema: Any) -> Any:
    """A schema with every union of types and every enumeration of words marked as open."""
    node: Json = schema
    if isinstance(node, list):
        return [_opened(member) for member in node]
    if not isinstance(node, dict):
        return node
    opened = {key: _opened(value) for key, value in node.items()}
    words = node.get("type") == "string" and "enum" in node
    return opened | {"x-open": True} if words or "x-tag" in node else opened
