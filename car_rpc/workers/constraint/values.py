"""From JSON schemas to grammars of values in languages that are not JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from car_rpc.workers.constraint.lark import one_of, quoted
from car_rpc.workers.constraint.schema import (
    ENUMERATED,
    NUMERIC,
    UnenforceableError,
    WrongSchemaError,
    members_of,
    others_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from car_rpc.workers.constraint.languages import Language
    from car_rpc.workers.constraint.lark import Rules
    from car_rpc.workers.constraint.schema import Schema

#: Numbers without bounds; none is too large for what reads them, which may be Python.
_NUMBER: Final = (
    r"/-?((0|[1-9][0-9]{0,299})(\.[0-9]+)?"
    r"|[0-9](\.[0-9]+)?[eE](\+?([0-9]{1,2}|[12][0-9]{2}|30[0-7])|-[0-9]{1,3}))/"
)

#: Numbers have no white space, so they mix with other terminals.
_NO_SPACE: Final[dict[str, Any]] = {"whitespace_flexible": False, "lenient": False}

#: How constants are spelled: as in Python or as in JSON, whichever a template writes.
_CONSTANTS: Final = {None: ("None", "null"), True: ("True", "true"), False: ("False", "false")}


class Values:
    """Grammars of values in one language, for one schema.

    Args:
        schema: The schema.
        language: How values are spelled.
        rules: Where the rules go.
    """

    def __init__(self, schema: Schema, language: Language, rules: Rules) -> None:
        self._schema = schema
        self._language = language
        self._rules = rules
        self._referred: dict[str, str] = {}

    def arguments(self) -> str:
        """The arguments of a call, without what stands around them.

        Raises:
            UnenforceableError: They cannot be enforced.
        """
        part = self._schema.arguments()
        return self._members(part, self._language.argument, self._language.other_argument)

    def value(self, schema: Any) -> str:
        """A value that a part of the schema allows.

        Raises:
            UnenforceableError: It cannot be enforced.
        """
        if schema is False:
            raise WrongSchemaError("a value is demanded where the schema allows none")
        part: dict[str, Any] = {} if schema is True else schema
        choices = self._schema.choices(part)
        if "$ref" in part:
            return self._named(part["$ref"], choices[0] if choices else True)
        if choices is not None:
            return one_of([self.value(choice) for choice in choices])
        if ENUMERATED & part.keys():
            return self._constants(part)
        types = self._schema.types(part)
        if "number" in types:
            types -= {"integer"}
        if not types:
            raise WrongSchemaError("a value is demanded where the schema allows none")
        return one_of([self._typed(each, part) for each in sorted(types)])

    def _named(self, reference: str, schema: Any) -> str:
        """The rule for what is referred to, which may hold itself."""
        if reference not in self._referred:
            name = self._referred[reference] = self._rules.reserve()
            self._rules.define(name, self.value(schema))
        return self._referred[reference]

    def _constants(self, part: dict[str, Any]) -> str:
        values = self._schema.values(part)
        if not values:
            raise WrongSchemaError("no value of the enumeration has the rest of its schema")
        spelled = [said for value in values if (said := self._said(value))]
        if not spelled:
            raise UnenforceableError("no value of the enumeration can be said")
        return one_of(spelled)

    def _said(self, value: Any) -> str:
        """One value; empty where it cannot be spelled."""
        language = self._language
        match value:
            case None | bool():
                return one_of([quoted(word) for word in _CONSTANTS[value]])
            case str():
                ways = language.said(value, self._rules)
                return one_of(ways) if ways else ""
            case list():
                items = cast("list[object]", value)
                return self._listed([self._said(item) for item in items], "[]")
            case dict():
                members = cast("dict[str, object]", value)
                pairs = [(language.key(key), self._said(item)) for key, item in members.items()]
                return self._listed([f"{key} {item}" if item else "" for key, item in pairs], "{}")
            case _:
                return quoted(json.dumps(value))

    def _listed(self, items: list[str], brackets: str) -> str:
        if not all(items):
            return ""
        opening, closing = map(quoted, brackets)
        return f"({opening} {f' {quoted(self._language.separator)} '.join(items)} {closing})"

    def _typed(self, type_: str, part: dict[str, Any]) -> str:
        match type_:
            case "null" | "boolean":
                values = [None] if type_ == "null" else [True, False]
                return one_of([self._said(value) for value in values])
            case "string":
                return self._language.text(part, self._rules)
            case "array":
                return self._array(part)
            case "object":
                language = self._language
                inner = self._members(part, language.key, language.other_key)
                return self._rules.rule(f'"{{" {inner} "}}"')
            case "number" if not part.keys() & set(NUMERIC):
                return _NUMBER
            case _:
                numeric = {name: part[name] for name in NUMERIC if name in part}
                schema: dict[str, Any] = {"type": type_, **numeric, "x-guidance": _NO_SPACE}
                return self._rules.rule(f"%json {json.dumps(schema)}")

    def _array(self, part: dict[str, Any]) -> str:
        item = self._rules.rule(self._inner(part.get("items", True)))
        least, most = part.get("minItems", 0), part.get("maxItems")
        if most is not None and least > most:
            raise WrongSchemaError('"minItems" is more than "maxItems"')
        if most == 0:
            return '"[]"'
        inner = item
        if most != 1:
            end = "" if most is None else most - 1
            separator = quoted(self._language.separator)
            inner = f"{item} ({separator} {item}){{{max(least - 1, 0)},{end}}}"
        return self._rules.rule(f'"[" {inner if least else f"({inner})?"} "]"')

    def _inner(self, schema: Any) -> str:
        """A value within another one; any value may hold any value, without an end."""
        is_any = schema is True or schema == {}
        return self._named("", True) if is_any else self.value(schema)

    def _members(
        self,
        part: dict[str, Any],
        key: Callable[[str], str],
        other_key: Callable[[Iterable[str], Rules], str],
    ) -> str:
        """Members in their order; those that are not declared come last."""
        declared, others = members_of(part), others_of(part)
        required = part.get("required", ())
        names = sorted(declared, key=str.lower) if self._language.sorts else list(declared)
        separator = quoted(self._language.separator)
        first: list[str] = []  # what may come first, each with what follows it
        other, rest = "", ""
        if others is not False:
            other = f"{other_key(names, self._rules)} {self._inner(others)}"
            rest = f"({separator} {other})*"
            first = [f"{other} {rest}"]
        may_be_empty = True
        for name in reversed(names):
            member = self._rules.rule(f"{key(name)} {self._inner(declared[name])}")
            follows = f"{member} {self._rules.rule(rest) if rest else ''}"
            if name in required:
                first, may_be_empty = [follows], False
                rest = f"{separator} {follows}"
            else:
                first = [follows, *first]
                rest = f"({separator} {member})? {self._rules.rule(rest) if rest else ''}"
        if not first:
            return ""
        return f"({' | '.join(first)}){'?' if may_be_empty else ''}"
