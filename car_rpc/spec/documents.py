"""The documents that make up the specification, and the literals that the process announces."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeAlias

from car_rpc.errors import HTTP_STATUS_KINDS, KINDS
from car_rpc.spec.schema import Json, schema_document
from car_rpc.wire.base import WireStruct
from car_rpc.wire.lifecycle import PROTOCOL_VERSION, SPEC_MAJOR, SPEC_MINOR
from car_rpc.wire.method import Method
from car_rpc.wire.methods import METHODS

Document: TypeAlias = dict[str, Json]

#: Members that explain and do not bind: a better sentence is no other protocol.
_WORDS = frozenset({"description", "examples", "meaning", "summary", "title"})


def documents() -> dict[str, Document]:
    """The specification, by the name of its parts."""
    parts = {"schema": schema_document(), "methods": _methods(), "errors": _errors()}
    return {"version": _version(parts), **parts}


def literals() -> dict[str, Any]:
    """What ``initialize`` announces of the specification, without building it."""
    version = documents()["version"]
    methods = sorted(name for name, row in METHODS.items() if row.direction != "core_to_client")
    return {
        "PROTOCOL_VERSION": version["protocol_version"],
        "SPEC_MAJOR": version["major"],
        "SPEC_MINOR": version["minor"],
        "SPEC_HASH": version["hash"],
        "METHODS": methods,
    }


def _version(parts: dict[str, Document]) -> Document:
    canonical = json.dumps(_binding({**parts}), sort_keys=True, separators=(",", ":"))
    return {
        "protocol_version": PROTOCOL_VERSION,
        "major": SPEC_MAJOR,
        "minor": SPEC_MINOR,
        "hash": hashlib.sha256(canonical.encode()).hexdigest()[:16],
    }


def _binding(node: Json) -> Json:
    """A document without its explanations. A type may well have a field named ``description``."""
    if isinstance(node, list):
        return [_binding(member) for member in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _binding(value)
        for key, value in node.items()
        if key not in _WORDS or isinstance(value, dict)
    }


def _methods() -> Document:
    return {"methods": {name: _method(METHODS[name]) for name in sorted(METHODS)}}


def _method(row: Method) -> Document:
    optional: Document = {}
    if row.kind != "notification":
        optional["result"] = _type(row.result) if row.result else {"type": "null"}
    if row.stream is not None:
        optional["stream"] = row.stream
    if row.error_data is not None:
        optional["error_data"] = _type(row.error_data)
    return {
        "summary": row.summary,
        "kind": row.kind,
        "direction": row.direction,
        "params": _type(row.params),
        **optional,
        "inline": row.inline,
        "logged": row.logged,
        "family": (row.result or row.params).__module__.rpartition(".")[2],
        "since": row.since,
        "stability": row.stability,
    }


def _type(struct: type[WireStruct]) -> Document:
    return {"$ref": f"schema.json#/$defs/{struct.__name__}"}


def _errors() -> Document:
    return {
        "kinds": {kind: row._asdict() for kind, row in KINDS.items()},
        "http_statuses": {str(status): kind for status, kind in HTTP_STATUS_KINDS.items()},
    }
