"""From JSON schemas to grammars of arguments whose values stand between tags.

A text stands there as it is, anything else as JSON. Where a value may be either, what a reader
takes for JSON of another declared type (:func:`car_rpc.workers.text.calls.readers.json_of`) cannot
be a text.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from car_rpc.workers.constraint.grammar import JSON_OPTIONS
from car_rpc.workers.constraint.lark import none_of, one_of, quoted
from car_rpc.workers.constraint.schema import (
    DEFINITIONS,
    ENUMERATED,
    NOTES,
    NUMERIC,
    UnenforceableError,
    WrongSchemaError,
    members_of,
    others_of,
)
from car_rpc.workers.constraint.texts import demands_of, holding, length_of
from car_rpc.workers.text.calls.readers import json_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from car_rpc.workers.constraint.lark import Rules
    from car_rpc.workers.constraint.schema import Schema
    from car_rpc.workers.text.calls.families import Tags

#: JSON whose white space is part of its terminals, so that it mixes with texts.
_MIXED: Final[dict[str, Any]] = {
    "whitespace_flexible": False,
    "item_separator": r",\x20?",
    "key_separator": r":\x20?",
    "lenient": False,
}

#: How a reader knows the types of values: what the regular expression matches is none of a text.
_READINGS: Final = {
    "null": "null|None",
    "boolean": "true|false|True|False",
    "integer": "-?(0|[1-9][0-9]*)",
    "number": r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?",
}
_BRACKETS: Final = {"array": r"\[", "object": r"\{"}

#: What Python's templates write for constants.
_CONSTANTS: Final = (("True", True), ("False", False), ("None", None))


#: Most references that are followed, one after the other: they may go in circles.
_MOST_REFERENCES: Final = 16

#: What Python trims of a text besides what Rust calls white space.
_SPACE: Final = r"[\s\x1c-\x1f]*"

#: Names that can stand in a tag.
_KEY: Final = re.compile(r"[^\s<>]([^<>\n]*[^\s<>])?")

#: Names of arguments that are not declared.
_NAME: Final = "[A-Za-z_][A-Za-z0-9_.-]*"


class TaggedArguments:
    """Grammars of arguments between tags, for one schema.

    Args:
        schema: The schema.
        tags: The tags.
        rules: Where the rules go.
    """

    def __init__(self, schema: Schema, tags: Tags, rules: Rules) -> None:
        self._schema = schema
        self._tags = tags
        self._rules = rules
        self._marker = tags.end.strip()

    def arguments(self) -> str:
        """All arguments, in their order; those that are not declared come last.

        Raises:
            UnenforceableError: They cannot be enforced.
        """
        part = self._schema.arguments()
        declared, others = members_of(part), others_of(part)
        parts: list[str] = []
        for name, schema in declared.items():
            argument = self._rules.rule(f"{self._key(name)} {self._value(schema)}")
            parts.append(argument if name in part.get("required", ()) else f"{argument}?")
        if others is not False:
            parts.append(f"({self._other_key(declared)} {self._value(others)})*")
        return " ".join(parts)

    def _key(self, name: str) -> str:
        if not _KEY.fullmatch(name):
            raise UnenforceableError(f"{name!r} is no name that such models can say")
        return self._named(quoted(name))

    def _other_key(self, names: Iterable[str]) -> str:
        return self._named(self._rules.terminal(f"/{_NAME}/{none_of(names)}"))

    def _named(self, name: str) -> str:
        rules, tags = self._rules, self._tags
        return f"{rules.said(tags.before_key)} {rules.ended(name, tags.after_key)}"

    def _value(self, schema: Any) -> str:
        if schema is False:
            raise WrongSchemaError("a value is demanded where the schema allows none")
        types = self._schema.types(schema)
        if "string" not in types:
            return self._json(schema, mixed=bool(types & {"boolean", "null"}))
        leaves = self._leaves(schema)
        if any(leaf.keys() <= NOTES for leaf in leaves):
            return self._ended(self._text({}, []))
        readings = self._readings(leaves, types)
        ways = [way for leaf in leaves for way in self._ways(leaf, types, readings)]
        if not ways:
            raise UnenforceableError("no value of the enumeration can be said")
        return one_of(ways)

    def _leaves(self, schema: Any, depth: int = 0) -> list[dict[str, Any]]:
        """The schemas of which a value must have one."""
        if depth > _MOST_REFERENCES:
            raise WrongSchemaError('"$ref" goes in circles')
        if schema is False:
            return []
        part: dict[str, Any] = {} if schema is True else schema
        choices = self._schema.choices(part)
        if choices is None:
            return [part]
        return [leaf for choice in choices for leaf in self._leaves(choice, depth + 1)]

    def _readings(self, leaves: list[dict[str, Any]], types: frozenset[str]) -> list[str]:
        """What no text may be, as it would be read as a value of another type and may be wrong."""
        free: set[str] = set()
        for leaf in leaves:
            of_leaf = self._schema.types(leaf)
            bounds = [name for name in NUMERIC if name in leaf]
            if bounds and "integer" in of_leaf:
                raise UnenforceableError(f'"{bounds[0]}" cannot be enforced beside a text')
            if not ENUMERATED & leaf.keys():
                free |= of_leaf
        scalars = [_READINGS[each] for each in sorted(types) if each in _READINGS.keys() - free]
        brackets = [_BRACKETS[each] + "(?s:.*)" for each in sorted(types & _BRACKETS.keys())]
        return [f"/{_SPACE}({reading}){_SPACE}/" for reading in [*scalars, *brackets]]

    def _ways(
        self, leaf: dict[str, Any], types: frozenset[str], readings: list[str]
    ) -> Iterator[str]:
        if ENUMERATED & leaf.keys():
            for value in self._schema.values(leaf):
                for text in self._spellings(value, types):
                    yield self._ended(quoted(text))
            return
        for each in sorted(self._schema.types(leaf)):
            if each == "string":
                yield self._ended(self._text(leaf, readings))
            elif each in _BRACKETS:
                yield self._json({"allOf": [leaf, {"type": each}]}, mixed=True)
            else:
                yield self._ended(f"/{_READINGS[each]}/")

    def _spellings(self, value: Any, types: frozenset[str]) -> list[str]:
        """The ways to write a value of an enumeration that are read as this value."""
        words = [word for word, constant in _CONSTANTS if constant is value]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return [
            each
            for each in [text, *words]
            if self._marker not in each and json.loads(json_of(each, types)) == value
        ]

    def _text(self, schema: dict[str, Any], readings: list[str]) -> str:
        demands = [*demands_of(schema), f"/(?s:.){length_of(schema) or '*'}/"]
        never = [f"~{each}" for each in [holding(self._marker), *readings]]
        return self._rules.terminal(" & ".join([*demands, *never]))

    def _json(self, schema: dict[str, Any], *, mixed: bool) -> str:
        """A value as JSON, or as Python writes a constant."""
        root = self._schema.root
        shared = {name: root[name] for name in DEFINITIONS if name in root}
        options = _MIXED if mixed else JSON_OPTIONS
        document: dict[str, Any] = {**shared, **schema, "x-guidance": options}
        words = [quoted(word) for word, value in _CONSTANTS if self._schema.allows(schema, value)]
        value = one_of([self._rules.rule(f"%json {json.dumps(document)}"), *words])
        return f"{value} {self._rules.said(self._tags.end + self._tags.between)}"

    def _ended(self, inner: str) -> str:
        return self._rules.ended(inner, self._tags.end + self._tags.between)
