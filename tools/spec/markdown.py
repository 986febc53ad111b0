"""METHODS.md and ERRORS.md: the documents, for people."""

from __future__ import annotations

import json
from typing import Any

from shapes import Record, Schema, Shape, Union, Words, nullable, shapes, target

_METHODS_HEAD = """\
# Methods

Every message of the wire by its name; [PROTOCOL.md](PROTOCOL.md) says in which order they come and
what both sides guarantee, [ERRORS.md](ERRORS.md) how they fail. A member with a default may be left
out, *optional* means that it may be absent and has no default. Unknown members are ignored.

A union or enumeration marked *open* may get members: a client keeps or ignores what it does not
know.
"""

_STATUSES_HEAD = """
## HTTP statuses

What a provider's status means, unless its body says more: the innermost cause that is named there
decides, so a 403 inside a 502 is `unauthorized`, and a 400 that speaks of the context's length is
`context_overflow`. Any other status that is no success is `provider_error`. A runner that fails
without a `kind`, but with a `status` whose kind is not retryable, is not tried again either.

| status | kind |
|---|---|
"""

_ERRORS_HEAD = """\
# Errors

`error.data.kind` is the contract: what a program decides by. The code follows from the kind, and
`error.message` is the display text, with `{}` replaced by the detail. Every `error.data` is an
[ErrorData](METHODS.md#errordata). *Retryable* says whether the same request may succeed when it is
sent again, *breaker* whether the failure counts toward the model's circuit breaker.

| kind | code | display text | retryable | breaker | meaning |
|---|---|---|---|---|---|
"""

_DIRECTIONS = {
    "client_to_core": "client → core",
    "core_to_client": "core → client",
    "both": "both directions",
}


def files(spec: dict[str, Any], notice: str) -> dict[str, str]:
    """The tables, by path."""
    mark = f"<!-- {notice} -->\n\n"
    return {
        "spec/METHODS.md": mark + _methods(spec["methods"]["methods"], shapes(spec["schema"])),
        "spec/ERRORS.md": mark + _errors(spec["errors"]["kinds"], spec["errors"]["http_statuses"]),
    }


def _errors(kinds: dict[str, Any], http_statuses: dict[str, str]) -> str:
    rows = [
        f"| `{kind}` | {row['code']} | `{row['display']}` | {_yes(row['retryable'])} |"
        f" {_yes(row['counts_toward_breaker'])} | {row['meaning']} |\n"
        for kind, row in kinds.items()
    ]
    statuses = [f"| {status} | `{kind}` |\n" for status, kind in http_statuses.items()]
    return "".join([_ERRORS_HEAD, *rows, _STATUSES_HEAD, *statuses])


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _methods(methods: dict[str, Any], known: dict[str, Shape]) -> str:
    contents = [
        f"| [`{name}`](#{_anchor(name)}) | {row['kind']} | {_DIRECTIONS[row['direction']]} |"
        f" {row['summary']} |\n"
        for name, row in methods.items()
    ]
    shown: set[str] = set()
    sections = [_method(name, row, known, shown) for name, row in methods.items()]
    types = [_type_section(known[name]) for name in sorted(known.keys() - shown)]
    return (
        f"{_METHODS_HEAD}\n| method | kind | direction | what for |\n|---|---|---|---|\n"
        f"{''.join(contents)}\n{''.join(sections)}# Types\n\n{''.join(types)}".rstrip()
        + "\n"
    )


def _method(name: str, row: dict[str, Any], known: dict[str, Shape], shown: set[str]) -> str:
    facts = [row["kind"].replace("either", "request or notification")]
    facts.append(_DIRECTIONS[row["direction"]])
    facts.append(f"since {row['since']}, {row['stability']}")
    if row["logged"]:
        facts.append("kept in the event log")
    if row["inline"]:
        facts.append("handled in order of arrival")
    parts = [f"## `{name}`\n\n{row['summary']}\n\n*{'; '.join(facts)}*\n\n"]
    parts.append(_half("Params", row["params"], known, shown))
    if "result" in row:
        parts.append(_half("Result", row["result"], known, shown))
    if "stream" in row:
        parts.append(f"Events come as [`{row['stream']}`](#{_anchor(row['stream'])}).\n\n")
    if "error_data" in row:
        parts.append(_half("`error.data`", row["error_data"], known, shown))
    return "".join(parts)


def _half(title: str, schema: Schema, known: dict[str, Shape], shown: set[str]) -> str:
    """Params or result: the table where the type is met first, then a link to it."""
    name = target(schema)
    if name is None:
        return f"**{title}**: null\n\n"
    shape = known[name]
    if isinstance(shape, Record) and not shape.fields:
        return f"**{title}**: an empty object\n\n"
    if name in shown or name == "ErrorData":
        return f"**{title}**: [{name}](#{_anchor(name)})\n\n"
    shown.add(name)
    return f'**{title}**: <a id="{_anchor(name)}"></a>{name}. {shape.about}\n\n{_table(shape)}'


def _type_section(shape: Shape) -> str:
    return f"## {shape.name}\n\n{shape.about}\n\n{_body(shape)}"


def _body(shape: Shape) -> str:
    match shape:
        case Record():
            return _table(shape)
        case Union():
            listed = " · ".join(f"[{member}](#{_anchor(member)})" for member in shape.members)
            return f"{_open(shape)}Told apart by `{shape.tag_field}`: {listed}\n\n"
        case Words():
            return f"{_open(shape)}{' · '.join(f'`{value}`' for value in shape.values)}\n\n"


def _open(shape: Union | Words) -> str:
    return "*Open.* " if shape.open else ""


def _table(record: Record) -> str:
    rows = [
        f"| `{field.name}` | {_type(field.schema)} | {_needed(field.schema, field.required)} |"
        f" {_cell(field.about)} |\n"
        for field in record.fields
    ]
    if record.tag is not None:
        rows.insert(0, f"| `{record.tag_field}` | `{record.tag}` | required | Tells the type. |\n")
    if not rows:
        return "No members.\n\n"
    return f"| member | type | needed | meaning |\n|---|---|---|---|\n{''.join(rows)}\n"


def _needed(schema: Schema, required: bool) -> str:
    if required:
        return "required"
    return f"default `{json.dumps(schema['default'])}`" if "default" in schema else "optional"


def _type(schema: Schema) -> str:
    rest, or_null = nullable(schema)
    if or_null:
        return f"{_type(rest)} or null"
    if name := target(rest):
        return f"[{name}](#{_anchor(name)})"
    if "anyOf" in rest:
        return " or ".join(_type(member) for member in rest["anyOf"])
    if "items" in rest:
        item = _type(rest["items"])
        return f"array of ({item})" if " or " in item else f"array of {item}"
    if "additionalProperties" in rest:
        return f"object of {_type(rest['additionalProperties'])}"
    return _plain(rest)


def _plain(schema: Schema) -> str:
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        listed = ", ".join(f"`{value}`" for value in schema["enum"])
        return f"{listed} (*open*)" if schema.get("x-open") else listed
    return f"{schema.get('type', 'any JSON')}{_bounds(schema)}"


def _bounds(schema: Schema) -> str:
    """What is allowed of a number, where it says more than what every JSON reader can hold."""
    lower = schema.get("minimum", schema.get("exclusiveMinimum"))
    upper = schema.get("maximum")
    sign = "≥" if "minimum" in schema else ">"
    said = [f"{sign} {lower}"] if lower is not None else []
    if upper is not None and upper < 2**53 - 1:
        said.append(f"≤ {upper}")
    return f" ({', '.join(said)})" if said else ""


def _anchor(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum() or c in "-_")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
