"""Policies: what requests may do, as rules; and the question that some of them ask the app."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import NonNegativeFloat, Positive, WireStruct

PolicyAction: TypeAlias = Literal[
    "allow", "deny", "cap", "redact", "require_local", "require_approval"
]
ContentPart: TypeAlias = Literal["text", "reasoning", "tool_arguments"]
PolicyOrigin: TypeAlias = Literal["configuration", "set"]

#: Most rules that ``policy.set`` keeps.
MAX_RULES = 256

#: Longest regular expression, in characters.
MAX_PATTERN_CHARS = 256

RuleId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Globs: TypeAlias = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(min_length=1, max_length=256)
]
Pattern: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_CHARS)]
Pointer: TypeAlias = Annotated[str, Meta(max_length=256)]


class PolicyMatch(WireStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rule is about: everything that is given has to match, and of a list any member.

    In a glob ``*`` stands for any characters, ``?`` for one, ``[ab]`` for one of these.

    Attributes:
        models: Globs of models' ids or names.
        providers: Globs of their providers.
        hints: Globs of the hints that ``delegated`` models carry for the app's runner.
        tools: Globs of tools' names. With it, or with ``tool_arguments``, the rule is about the
            tools that a request offers and the calls that an answer makes, and not about the
            request itself.
        tool_arguments: Regular expressions that are found in a call's arguments, by JSON Pointer
            (RFC 6901). What is no string is searched as its JSON.
        methods: Globs of methods. Only with it a rule is about methods that neither run a model
            nor load or download one.
    """

    models: Globs | UnsetType = UNSET
    providers: Globs | UnsetType = UNSET
    hints: Globs | UnsetType = UNSET
    tools: Globs | UnsetType = UNSET
    tool_arguments: Annotated[dict[Pointer, Pattern], Meta(max_length=32)] | UnsetType = UNSET
    methods: Globs | UnsetType = UNSET


class PolicyRule(WireStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule.

    Attributes:
        id: Names it.
        action: ``allow`` lets what matches pass, whatever later rules say; ``deny`` refuses it;
            ``cap`` limits it; ``redact`` replaces what its patterns find in an answer;
            ``require_local`` refuses models that are not on this machine; ``require_approval``
            asks the app with ``policy.approve``.
        match: What it is about; when nothing is given, everything that runs, loads or
            downloads a model.
        reason: Why, for people: in errors, in the event log, and in what the app is asked.
        patterns: Regular expressions that are looked for in answers: for ``redact``, and for
            ``deny``, which then refuses the answer instead of the request. Each has a longest
            match, of at most 512 characters.
        replacement: What ``redact`` puts in the place of a match.
        max_tokens: With ``cap``: most tokens of an answer, all attempts together.
        max_cost_usd: With ``cap``: most that a request may cost, in USD, all attempts together.
        max_time_ms: With ``cap``: most time that a request may take, in milliseconds.
        deadline_ms: With ``require_approval``: how long the app may take to answer, in
            milliseconds; 60000 when absent.
    """

    id: RuleId
    action: PolicyAction
    match: PolicyMatch = PolicyMatch()
    reason: Annotated[str, Meta(min_length=1, max_length=1024)] | UnsetType = UNSET
    patterns: Annotated[list[Pattern], Meta(min_length=1, max_length=32)] | UnsetType = UNSET
    replacement: Annotated[str, Meta(max_length=256)] = "[redacted]"
    max_tokens: Positive | UnsetType = UNSET
    max_cost_usd: NonNegativeFloat | UnsetType = UNSET
    max_time_ms: Positive | UnsetType = UNSET
    deadline_ms: Annotated[int, Meta(ge=1, le=3_600_000)] | UnsetType = UNSET


class ListedPolicyRule(PolicyRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule that holds.

    Attributes:
        origin: Whether it comes from the configuration or from ``policy.set``.
    """

    origin: PolicyOrigin


class PolicySetParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``policy.set``.

    Attributes:
        rules: A rule whose id was set before replaces that one where it stands; the others come
            behind all that were set, in this order.
    """

    rules: Annotated[list[PolicyRule], Meta(min_length=1, max_length=MAX_RULES)]


class PolicyRemoveParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``policy.remove``.

    Attributes:
        id: The rule, which ``policy.set`` has set.
    """

    id: RuleId


class PolicyRulesResult(WireStruct, frozen=True, kw_only=True):
    """The rules as they hold now, in every process on the state directory.

    Attributes:
        rules: Those of the configuration, then those that were set; they are asked in this order.
    """

    rules: list[ListedPolicyRule]


class PolicySubject(WireStruct, frozen=True, kw_only=True):
    """What a rule decided about.

    Attributes:
        method: The request's method.
        model: Id of the model.
        tool: Name of the tool.
        arguments: What it is called with; only in the question to the app.
        content: In which part of an answer something was found.
    """

    method: str
    model: str | UnsetType = UNSET
    tool: str | UnsetType = UNSET
    arguments: dict[str, Any] | UnsetType = UNSET
    content: ContentPart | UnsetType = UNSET


class PolicyApproveParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``policy.approve``.

    Attributes:
        approval_id: Names this question.
        trace_id: The request's trace in the event log.
        rule_id: The rule that asks.
        reason: Why it does.
        subject: What is to be approved.
        deadline_ms: Milliseconds from receipt after which it counts as denied.
    """

    approval_id: str
    trace_id: str
    rule_id: str
    reason: str | UnsetType = UNSET
    subject: PolicySubject
    deadline_ms: Positive


class PolicyApproveResult(WireStruct, frozen=True, kw_only=True):
    """The app's answer to ``policy.approve``.

    Attributes:
        approved: Whether it may happen.
        reason: Why not, for people.
    """

    approved: bool
    reason: str | UnsetType = UNSET
