"""Read the JSON schema of a tool's parameters, where llguidance does not."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from car_rpc.workers.text.calls.schema import resolved, types_of

#: What says nothing of which values are right.
NOTES: Final = frozenset(
    {
        "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated",
        "description", "example", "examples", "readOnly", "title", "writeOnly",
    }
)  # fmt: skip

#: What says something that a grammar of ours does not enforce.
_UNENFORCED: Final = frozenset(
    {
        "$dynamicRef", "$recursiveRef", "additionalItems", "contains", "dependencies",
        "dependentRequired", "dependentSchemas", "else", "if", "maxContains", "maxProperties",
        "minContains", "minProperties", "not", "patternProperties", "prefixItems",
        "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
    }
)  # fmt: skip

#: Most references that are followed, one after the other: they may go in circles.
_MOST_REFERENCES: Final = 16

#: What lists the values themselves.
ENUMERATED: Final = frozenset({"const", "enum"})

#: Keywords of numbers.
NUMERIC: Final[tuple[str, ...]] = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
)

#: Where a schema holds what it refers to.
DEFINITIONS: Final[tuple[str, ...]] = ("$defs", "definitions")

#: Each of these says all, so that nothing may stand beside it.
_ALONE: Final = ("$ref", "allOf", "anyOf", "oneOf")


class UnenforceableError(ValueError):
    """A schema cannot be enforced; the text says why, with the keyword."""


class WrongSchemaError(UnenforceableError):
    """A schema is none, or one of no value.

    Args:
        problem: What is wrong.
        place: Where in the schema, as a JSONPath from its root on; empty where that is unknown.
    """

    def __init__(self, problem: str, place: str = "") -> None:
        super().__init__(problem)
        self.place = place


class Schema:
    """The schema of an object, and what its parts refer to.

    Args:
        root: The schema.

    Raises:
        WrongSchemaError: It is no schema.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        kind = validator_for(root, default=Draft202012Validator)
        try:
            kind.check_schema(root)
        except SchemaError as error:
            raise WrongSchemaError(error.message, error.json_path.removeprefix("$")) from error
        self.root = root
        # An empty registry: what a schema refers to is never fetched.
        self._validator: Any = kind(root, registry=Registry())

    def allows(self, schema: Any, value: Any) -> bool:
        """Whether a part of it allows a value, as far as that can be told."""
        try:
            return bool(self._validator.evolve(schema=schema).is_valid(value))
        except (re.error, Unresolvable, RecursionError):
            # Not every pattern and reference of a right schema is one in this library's eyes.
            return False

    def types(self, schema: Any) -> frozenset[str]:
        """The types of the values that a part of it allows."""
        return types_of(schema, self.root)

    def values(self, schema: dict[str, Any]) -> list[Any]:
        """The values that an enumeration allows, all keywords beside it considered."""
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return [value for value in values if self.allows(schema, value)]

    def arguments(self) -> dict[str, Any]:
        """The part that says which members there are.

        Raises:
            UnenforceableError: There are several.
        """
        part = self.root
        for _ in range(_MOST_REFERENCES):
            choices = self.choices(part)
            if choices is None:
                return part
            if len(choices) != 1 or not isinstance(choices[0], dict):
                break
            part = cast("dict[str, Any]", choices[0])
        raise UnenforceableError("arguments cannot have one of several schemas")

    def referred(self, reference: str) -> Any:
        """What it holds at a reference.

        Raises:
            UnenforceableError: It is elsewhere; nothing is fetched.
        WrongSchemaError: There is nothing, or nothing but another reference to it.
        """
        found = after = resolved(reference, self.root)
        for _ in range(_MOST_REFERENCES):
            if after is None:
                kind = WrongSchemaError if reference.startswith("#") else UnenforceableError
                raise kind(f'what "$ref" names is not present: {reference}')
            if not isinstance(after, dict) or "$ref" not in after:
                return found
            after = resolved(cast("dict[str, Any]", after)["$ref"], self.root)
        raise WrongSchemaError(f'"$ref" goes in circles: {reference}')

    def choices(self, schema: dict[str, Any]) -> list[Any] | None:
        """The schemas of which a value must have one; ``None`` where the schema says it itself.

        Raises:
            UnenforceableError: It holds a keyword that cannot be enforced.
        """
        said = schema.keys() - NOTES
        for keyword in sorted(said & _UNENFORCED):
            raise UnenforceableError(f'"{keyword}" cannot be enforced in calls of such models')
        for keyword in _ALONE:
            if keyword not in said:
                continue
            for other in sorted(said - {keyword}):
                raise UnenforceableError(f'"{keyword}" cannot be enforced beside "{other}"')
            return self._chosen(keyword, schema[keyword])
        return None

    def _chosen(self, keyword: str, value: Any) -> list[Any]:
        if keyword == "$ref":
            return [self.referred(value)]
        if keyword == "allOf" and len(value) > 1:
            raise UnenforceableError('"allOf" cannot be enforced in calls of such models')
        if keyword == "oneOf":
            types = [self.types(choice) for choice in value]
            if sum(map(len, types)) > len(frozenset[str]().union(*types)):
                raise UnenforceableError('"oneOf" cannot be enforced where two may be right')
        return list(value)


def members_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The declared members of an object, and their schemas."""
    declared: dict[str, Any] = schema.get("properties", {})
    return declared | {
        name: others_of(schema) for name in schema.get("required", ()) if name not in declared
    }


def others_of(schema: dict[str, Any]) -> Any:
    """The schema of members that are not declared; ``False`` for none."""
    return schema.get("additionalProperties", True)
