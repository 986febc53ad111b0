"""What an ordered list of rules decides."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.policy.rules import Rules, Verdict, check
from car_rpc.testing import scripted_model
from car_rpc.wire.models import DelegatedSource, ModelSchema, OpenAICompatSource
from car_rpc.wire.policy import PolicyRule

HERE = scripted_model("test/here:a", [])
CLOUD = ModelSchema(
    id="openai/gpt-x:latest",
    name="gpt-x",
    provider="openai",
    source=OpenAICompatSource(endpoint="https://api.example.com", model="gpt-x"),
    capabilities=["generate"],
)
APP = ModelSchema(
    id="app/claude:1",
    name="claude",
    provider="app",
    source=DelegatedSource(hint="anthropic/claude"),
    capabilities=["generate"],
)


def rule(action: str, rule_id: str = "r", **fields: Any) -> PolicyRule:
    match = {name: fields.pop(name) for name in [*fields] if name in MATCHED}
    return msgspec.convert({"id": rule_id, "action": action, "match": match, **fields}, PolicyRule)


MATCHED = ("models", "providers", "hints", "tools", "tool_arguments", "methods")


def denies(rules: Rules, model: ModelSchema | None = HERE, method: str = "generate") -> str | None:
    verdict = rules.request(method, model)
    return verdict.rule.id if verdict.is_denied and verdict.rule else None


def test_without_rules_everything_may_happen() -> None:
    assert Rules().request("generate", CLOUD) == Verdict()
    assert Rules().offered("generate", CLOUD, "shell") is None
    assert Rules().call("generate", CLOUD, "shell", {}) == Verdict()
    assert Rules().content("generate", CLOUD) == []


@pytest.mark.parametrize(
    ("match", "refused"),
    [
        ({}, {HERE.id, CLOUD.id, APP.id}),
        ({"models": ["openai/*"]}, {CLOUD.id}),
        ({"models": ["gpt-?", "nothing"]}, {CLOUD.id}),
        ({"models": ["GPT-X"]}, set()),
        ({"providers": ["openai", "app"]}, {CLOUD.id, APP.id}),
        ({"hints": ["anthropic/*"]}, {APP.id}),
        ({"hints": ["*"]}, {APP.id}),
        ({"providers": ["app"], "hints": ["openai/*"]}, set()),
        ({"methods": ["gen*"], "models": ["*"]}, {HERE.id, CLOUD.id, APP.id}),
        ({"methods": ["embed"]}, set()),
    ],
)
def test_a_rule_is_about_what_all_it_gives_matches(
    match: dict[str, Any], refused: set[str]
) -> None:
    rules = Rules([rule("deny", **match)])
    assert {model.id for model in (HERE, CLOUD, APP) if denies(rules, model)} == refused


def test_the_first_rule_that_matches_decides() -> None:
    allow, deny = rule("allow", "a", models=["openai/*"]), rule("deny", "d", providers=["o*"])
    assert denies(Rules([allow, deny]), CLOUD) is None
    assert denies(Rules([deny, allow]), CLOUD) == "d"


def test_require_local_refuses_what_is_elsewhere_and_goes_on_with_what_is_here() -> None:
    rules = Rules([rule("require_local", "l"), rule("deny", "d", models=["test/here:a"])])
    assert [denies(rules, model) for model in (CLOUD, APP, HERE)] == ["l", "l", "d"]


def test_caps_add_up_to_the_tightest_until_a_rule_allows() -> None:
    rules = Rules(
        [
            rule("cap", "one", max_tokens=100, max_time_ms=5),
            rule("cap", "two", max_tokens=50, max_cost_usd=1.0),
            rule("allow", "all"),
            rule("cap", "three", max_tokens=1),
        ]
    )
    caps = rules.request("generate", CLOUD).caps
    assert [(limit.value, limit.rule.id) for limit in caps if limit] == [
        (50, "two"), (1.0, "two"), (5, "one"),
    ]  # fmt: skip


def test_what_runs_no_model_is_only_a_matter_of_rules_that_name_its_method() -> None:
    rules = Rules([rule("deny", "d"), rule("deny", "m", methods=["models.*"])])
    assert rules.request("routing.set_config", None, by_name=True) == Verdict()
    assert rules.request("models.register", HERE, by_name=True).is_denied
    providers = Rules([rule("deny", "p", methods=["models.register"], providers=["openai"])])
    assert providers.request("models.register", CLOUD, by_name=True).is_denied
    assert not providers.request("models.register", HERE, by_name=True).is_denied


def test_a_tool_is_refused_at_once_only_where_all_its_calls_are() -> None:
    harmless = rule("allow", "ls", tools=["shell"], tool_arguments={"/cmd": "^ls"})
    no_shell = rule("deny", "no", tools=["sh*"])
    assert Rules([no_shell]).offered("generate", HERE, "shell") == no_shell
    assert Rules([harmless, no_shell]).offered("generate", HERE, "shell") is None
    assert Rules([harmless, no_shell]).offered("generate", HERE, "shred") == no_shell
    some = rule("deny", "rm", tools=["shell"], tool_arguments={"/cmd": "^rm"})
    assert Rules([some]).offered("generate", HERE, "shell") is None


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ({"cmd": "ls"}, False),
        ({"cmd": "rm x"}, True),
        ({"cmd": "sudo rm x"}, False),
        ({"cmd": ["rm"]}, False),
        ({"other": "rm"}, False),
        ({}, False),
    ],
)
def test_a_call_is_judged_by_its_arguments(arguments: dict[str, Any], refused: bool) -> None:
    rules = Rules([rule("deny", tool_arguments={"/cmd": "^rm"})])
    assert rules.call("generate", HERE, "shell", arguments).is_denied == refused
    assert rules.judges_calls("generate", HERE, "anything")


@pytest.mark.parametrize(
    ("pointer", "pattern", "matches"),
    [
        ("", r'^\{"a":', True),
        ("/a/0/b~1c", "^x$", True),
        ("/a/0/t~0d", "^7$", True),
        ("/a/1", "", False),
        ("/a/00", "", False),
        ("/a/-", "", False),
        ("/n", "^null$", True),
        ("/a/0/b~1c/0", "", False),
    ],
)
def test_arguments_are_found_by_json_pointer(pointer: str, pattern: str, matches: bool) -> None:
    arguments = {"a": [{"b/c": "x", "t~d": 7}], "n": None}
    rules = Rules([rule("deny", tool_arguments={pointer: pattern or "(?:)|."})])
    assert rules.call("generate", HERE, "t", arguments).is_denied == matches


def test_approvals_of_calls_add_up_and_rules_about_tools_say_nothing_of_requests() -> None:
    asks = [rule("require_approval", name, tools=["*"]) for name in ("one", "two")]
    rules = Rules([*asks, rule("allow", "all", tools=["*"]), rule("deny", "no", tools=["*"])])
    verdict = rules.call("generate", HERE, "shell", {})
    assert [each.id for each in verdict.approvals] == ["one", "two"]
    assert (verdict.rule.id, verdict.is_denied) == ("all", False)
    assert rules.request("generate", HERE) == Verdict()


def test_rules_about_content_are_neither_about_requests_nor_about_calls() -> None:
    rules = Rules([rule("deny", patterns=["secret"], providers=["openai"])])
    assert rules.request("generate", CLOUD) == Verdict()
    assert rules.call("generate", CLOUD, "t", {"a": "secret"}) == Verdict()
    assert [each.rule.id for each in rules.content("generate", CLOUD)] == ["r"]
    assert rules.content("generate", HERE) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"action": "cap"}, "'cap' needs one of `max_tokens`"),
        ({"action": "deny", "max_tokens": 1}, "`max_tokens` is for 'cap'"),
        ({"action": "allow", "patterns": ["x"]}, "`patterns` is for 'redact' and 'deny'"),
        ({"action": "redact"}, "'redact' needs `patterns`"),
        ({"action": "redact", "patterns": ["x*"]}, "'x*' matches the empty text"),
        ({"action": "redact", "patterns": ["x+"]}, "may match more than 512 characters"),
        ({"action": "redact", "patterns": ["x{513}"]}, "may match more than 512 characters"),
        ({"action": "redact", "patterns": ["("]}, "'(' is refused: a `(` without"),
        ({"action": "deny", "patterns": ["x"], "tools": ["t"]}, "not in tool calls alone"),
        ({"action": "require_local", "tools": ["t"]}, "'require_local' is not for tools"),
        ({"action": "deny", "deadline_ms": 1}, "`deadline_ms` is for 'require_approval'"),
        ({"action": "deny", "tool_arguments": {"x": "y"}}, "'x' is no JSON Pointer"),
        ({"action": "deny", "tool_arguments": {"/x": "y)"}}, "'y)' is refused"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        check(rule(**fields))


@given(st.text(min_size=1, max_size=64), st.text(max_size=64))
def test_any_glob_is_a_glob(glob: str, name: str) -> None:
    rules = Rules([rule("deny", "d", methods=[glob])])
    assert denies(rules, method="x" + name) in (None, "d")
    if not set(glob) & set("*?["):
        assert denies(rules, method=glob) == "d"
