"""The schema is a real one, says what every member means, and judges as the core does."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator

from car_rpc.errors import KINDS, CarError
from car_rpc.spec.names import HELD, NAMED
from car_rpc.spec.schema import schema_document, wire_structs
from car_rpc.wire.base import WireStruct
from car_rpc.wire.methods import METHODS

DEFINITIONS: dict[str, Any] = schema_document()["$defs"]
TYPES: dict[str, Any] = {
    **{struct.__name__: struct for struct in wire_structs()},
    **{name: getattr(module, name) for module, names in NAMED.items() for name in names},
    "ErrorKind": str,
}
# msgspec leaves raw JSON alone, and the schema says what it holds.
JUDGED_ALIKE = sorted(DEFINITIONS.keys() - {"RunnerEventParams", "RunnerRunParams"})


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for value in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(value, dict | list):
            yield from nodes(value)


def test_the_schema_is_valid_and_every_reference_leads_somewhere() -> None:
    document = schema_document()
    Draft202012Validator.check_schema(document)
    targets = {node["$ref"] for node in nodes(document) if "$ref" in node}
    assert targets <= {f"#/$defs/{name}" for name in DEFINITIONS}
    assert targets


def test_it_holds_nothing_that_only_openapi_knows() -> None:
    for node in nodes(schema_document()):
        assert not isinstance(node.get("discriminator"), dict) or "propertyName" not in node
        assert "nullable" not in node


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_every_type_and_every_member_is_described_in_its_docstring(name: str) -> None:
    assert DEFINITIONS[name]["description"]
    members = DEFINITIONS[name].get("properties", {})
    assert [member for member, schema in members.items() if "description" not in schema] == []


def test_what_is_named_by_hand_exists_and_is_used() -> None:
    named = {name for names in NAMED.values() for name in names}
    assert named | set(HELD.values()) <= DEFINITIONS.keys()
    for struct, member in HELD:
        assert "$ref" in DEFINITIONS[struct]["properties"][member]


def test_raw_json_is_said_to_hold_something() -> None:
    raw = {
        (name, field.name)
        for name, struct in TYPES.items()
        if name in DEFINITIONS and isinstance(struct, type) and issubclass(struct, WireStruct)
        for field in msgspec.structs.fields(struct)
        if field.type is msgspec.Raw
    }
    assert raw <= HELD.keys()
    assert raw


def test_a_member_of_a_union_has_its_tag_as_the_one_value() -> None:
    for definition in DEFINITIONS.values():
        if "x-tag" in definition:
            members = [member["$ref"].rpartition("/")[2] for member in definition["anyOf"]]
            tags = [DEFINITIONS[name]["properties"]["type"]["const"] for name in members]
            assert len(set(tags)) == len(members)


def test_what_the_core_sends_is_open_and_what_only_a_client_sends_is_not() -> None:
    assert DEFINITIONS["StreamEvent"]["x-open"]
    assert DEFINITIONS["StopReason"]["x-open"]
    assert DEFINITIONS["ProgressValue"]["properties"]["kind"]["x-open"]
    assert DEFINITIONS["RunnerRunParams"]["properties"]["operation"]["x-open"]
    assert "x-open" not in DEFINITIONS["ContentBlock"]
    assert "x-open" not in DEFINITIONS["GenerateRequest"]["properties"]["overflow"]


def test_every_type_says_who_sends_it() -> None:
    senders = {name: definition["x-sender"] for name, definition in DEFINITIONS.items()}
    assert senders["GenerateRequest"] == "client"
    assert senders["RunnerResult"] == "client"
    assert senders["InferenceResult"] == "core"
    assert senders["RunnerRunParams"] == "core"
    assert senders["ModelSchema"] == "both"
    assert set(senders.values()) == {"client", "core", "both"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_data_of_every_error_is_as_the_schema_says(
    kind: str, validators: dict[str, Validator]
) -> None:
    assert validators["ErrorData"].is_valid(CarError(kind, "x", path="$.a").data)
    assert not validators["ErrorData"].is_valid({"kind": kind})


# The schema and msgspec judge alike


# To a validator 1.0 is an integer; the core wants it written as 1.
FRACTIONS = st.floats(-1e6, 1e6).filter(lambda value: not value.is_integer())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FRACTIONS | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema takes, or nearly takes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return st.deferred(lambda: values(DEFINITIONS[name]))
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    if "anyOf" in schema:
        return st.one_of([values(member) for member in schema["anyOf"]])
    if "properties" in schema:
        return records(schema)
    return plain(schema)


def records(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    members = {name: values(member) for name, member in schema["properties"].items()}
    required = {name: members[name] for name in schema["required"]}
    optional = {name: member for name, member in members.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


def plain(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    least = schema.get("minItems", 0)
    strategies: dict[str | None, Callable[[], st.SearchStrategy[Any]]] = {
        None: lambda: JSON,
        "null": st.none,
        "string": lambda: words(schema),
        "integer": lambda: st.integers(schema.get("minimum", -3), min(schema.get("maximum", 9), 9)),
        "number": lambda: st.floats(schema.get("minimum", -9), schema.get("maximum", 9)),
        "boolean": st.booleans,
        "array": lambda: st.lists(
            values(schema.get("items", {})), min_size=least, max_size=least + 2
        ),
        "object": lambda: st.dictionaries(
            st.text(), values(schema.get("additionalProperties", {})), max_size=2
        ),
    }
    return strategies[schema.get("type")]()


def words(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "examples" in schema:
        return st.sampled_from(schema["examples"])
    if "pattern" in schema:
        return st.from_regex(re.compile(schema["pattern"]))
    return st.text(min_size=schema.get("minLength", 0), max_size=9)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield (*path, key)
            yield from places(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield (*path, index)
            yield from places(member, (*path, index))


@st.composite
def nearly(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """A value that the schema takes, or one in which one place was changed or taken away."""
    value = draw(values(schema))
    found = list(places(value))
    if not found or draw(st.booleans()):
        return value
    value = json.loads(json.dumps(value))
    *path, last = draw(st.sampled_from(found))
    holder = value
    for step in path:
        holder = holder[step]
    if draw(st.booleans()):
        holder[last] = draw(JSON)
    else:
        del holder[last]
    return value


def msgspec_takes(value: Any, type_: Any) -> bool:
    try:
        msgspec.json.decode(json.dumps(value), type=type_)
    except msgspec.ValidationError:
        return False
    return True


def test_the_schema_takes_what_msgspec_takes(
    validators: dict[str, Validator], proof_count: Any
) -> None:
    verdicts: set[bool] = set()

    @settings(max_examples=proof_count(300, 20_000))
    @given(data=st.data())
    def judge(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(JUDGED_ALIKE))
        value = data.draw(nearly(DEFINITIONS[name]))
        verdict = msgspec_takes(value, TYPES[name])
        assert validators[name].is_valid(value) == verdict, (name, value)
        verdicts.add(verdict)

    judge()
    assert verdicts == {True, False}


def test_both_refuse_some(validators: dict[str, Validator]) -> None:
    wrong = [
        ("GenerateRequest", {"params": {"temperature": "hot"}}),
        ("GenerateRequest", {"messages": [{"role": "robot"}]}),
        ("GenerateRequest", {"messages": [{"role": "user", "content": [{"type": "smell"}]}]}),
        ("GenerateParams", {"max_tokens": 0}),
        ("GenerateParams", {"top_k": 2**53}),
        ("ScriptStep", {"sing": True}),
        ("StreamEvent", {"type": "text_delta"}),
        ("ModelSchema", {"id": "x", "source": {"type": "delegated"}, "capabilities": ["embed"]}),
        ("InitializeParams", []),
    ]
    for name, value in wrong:
        assert not validators[name].is_valid(value), (name, value)
        assert not msgspec_takes(value, TYPES[name]), (name, value)


def test_raw_members_are_judged_by_what_they_hold(validators: dict[str, Validator]) -> None:
    event = {"call_id": "c", "event": {"type": "text_delta", "text": "x"}}
    assert validators["RunnerEventParams"].is_valid(event)
    assert not validators["RunnerEventParams"].is_valid({**event, "event": {"type": "text_delta"}})
    assert METHODS["runner.event"].params is TYPES["RunnerEventParams"]
