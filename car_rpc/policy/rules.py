"""Ordered rules, and what they decide. Pure; ``spec/PROTOCOL.md``, "Policy", has them in words.

A rule is about requests, about tool calls, or about the content of answers. Those of a kind are
asked in their order: the first ``allow`` or refusal that matches decides, and what other rules ask
for until then (a cap, an approval) adds up.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import UNSET, UnsetType

from car_rpc.policy.automaton import Automaton, found
from car_rpc.policy.syntax import Program, compiled
from car_rpc.wire.models import DelegatedSource, ModelSchema
from car_rpc.wire.policy import PolicyAction, PolicyRule
from car_rpc.wire.sources import is_local

#: Longest match that a pattern of content may have, in characters: so much of an answer may be
#: held back.
MAX_MATCH_CHARS = 512

_BOUNDS = ("max_tokens", "max_cost_usd", "max_time_ms")

#: Members of a rule that only some actions have.
_MEMBERS: dict[str, tuple[PolicyAction, ...]] = {
    **dict.fromkeys(_BOUNDS, ("cap",)),
    "patterns": ("redact", "deny"),
    "deadline_ms": ("require_approval",),
}


class Limit(NamedTuple):
    """A bound, and the rule that sets it."""

    value: float
    rule: PolicyRule


class Caps(NamedTuple):
    """The tightest bounds of a request; ``None`` where there is none."""

    tokens: Limit | None = None
    cost_usd: Limit | None = None
    time_ms: Limit | None = None

    def tightened(self, rule: PolicyRule) -> Caps:
        """With those of another rule."""
        bounds = rule.max_tokens, rule.max_cost_usd, rule.max_time_ms
        return Caps(*(_least(mine, its, rule) for mine, its in zip(self, bounds, strict=True)))


class Verdict(NamedTuple):
    """What rules decide.

    Attributes:
        rule: The rule that decided, if any did.
        is_denied: Whether it refuses.
        approvals: The rules that ask the app first.
        caps: The bounds that rules set.
    """

    rule: PolicyRule | None = None
    is_denied: bool = False
    approvals: tuple[PolicyRule, ...] = ()
    caps: Caps = Caps()


class ContentRule(NamedTuple):
    """A rule about the content of answers, with its patterns, ready to run."""

    rule: PolicyRule
    patterns: tuple[tuple[Program, Automaton], ...]


class _Compiled(NamedTuple):
    rule: PolicyRule
    methods: re.Pattern[str] | None
    models: re.Pattern[str] | None
    providers: re.Pattern[str] | None
    hints: re.Pattern[str] | None
    tools: re.Pattern[str] | None
    arguments: dict[str, Automaton]

    def is_about(self, method: str, model: ModelSchema | None) -> bool:
        if self.methods is not None and not self.methods.match(method):
            return False
        if model is None:
            return self.models is self.providers is self.hints is None
        source = model.source
        hint = source.hint if isinstance(source, DelegatedSource) else UNSET
        return (
            (_any(self.models, model.id) or _any(self.models, model.name))
            and _any(self.providers, model.provider)
            and (self.hints is None or (isinstance(hint, str) and _any(self.hints, hint)))
        )

    def is_found_in(self, arguments: Mapping[str, Any]) -> bool:
        return all(
            (text := _text_at(arguments, pointer)) is not None and found(automaton, text)
            for pointer, automaton in self.arguments.items()
        )


class Rules:
    """A list of rules, ready to decide.

    Args:
        rules: The rules, in their order.

    Raises:
        ValueError: One makes no sense; says which, and what is wrong.
    """

    def __init__(self, rules: Iterable[PolicyRule] = ()) -> None:
        self._requests: list[_Compiled] = []
        self._tools: list[_Compiled] = []
        self._content: list[tuple[_Compiled, ContentRule]] = []
        for rule in rules:
            try:
                self._add(rule)
            except ValueError as error:
                raise ValueError(f"rule {rule.id!r}: {error}") from None

    def request(self, method: str, model: ModelSchema | None, *, by_name: bool = False) -> Verdict:
        """Whether a method may be called, with a model where it has one.

        Args:
            method: The method.
            model: The model.
            by_name: Whether only rules that name methods are asked, as for what runs no model.
        """
        verdict = Verdict()
        for each in self._requests:
            rule = each.rule
            if (by_name and each.methods is None) or not each.is_about(method, model):
                continue
            match rule.action:
                case "allow":
                    return verdict._replace(rule=rule)
                case "require_local" if model is None or is_local(model.source):
                    pass
                case "cap":
                    verdict = verdict._replace(caps=verdict.caps.tightened(rule))
                case "require_approval":
                    verdict = verdict._replace(approvals=(*verdict.approvals, rule))
                case _:
                    return verdict._replace(rule=rule, is_denied=True)
        return verdict

    @property
    def refuse_models(self) -> bool:
        """Whether any rule might refuse a model."""
        return bool(self._requests or self._tools)

    @property
    def screen_answers(self) -> bool:
        """Whether any rule might change or refuse something of an answer."""
        return bool(self._content or self._tools)

    def offered(self, method: str, model: ModelSchema, tool: str) -> PolicyRule | None:
        """The rule that refuses a tool whatever it is called with, or ``None``."""
        for each in self._tools:
            if each.is_about(method, model) and _any(each.tools, tool):
                if each.rule.action == "deny" and not each.arguments:
                    return each.rule
                if each.rule.action != "deny":
                    return None  # some of its calls are let pass
        return None

    def call(
        self, method: str, model: ModelSchema | None, tool: str, arguments: Mapping[str, Any]
    ) -> Verdict:
        """Whether a tool may be called."""
        verdict = Verdict()
        for each in self._tools:
            matches = each.is_about(method, model) and _any(each.tools, tool)
            if not matches or not each.is_found_in(arguments):
                continue
            if each.rule.action == "require_approval":
                verdict = verdict._replace(approvals=(*verdict.approvals, each.rule))
            else:
                return verdict._replace(rule=each.rule, is_denied=each.rule.action == "deny")
        return verdict

    def judges_calls(self, method: str, model: ModelSchema | None, tool: str) -> bool:
        """Whether any rule has to see the calls of a tool."""
        return any(e.is_about(method, model) and _any(e.tools, tool) for e in self._tools)

    def content(self, method: str, model: ModelSchema | None) -> list[ContentRule]:
        """The rules about what a model answers."""
        return [rule for each, rule in self._content if each.is_about(method, model)]

    def _add(self, rule: PolicyRule) -> None:
        check(rule)
        match = rule.match
        pointers = match.tool_arguments or {}
        each = _Compiled(
            rule,
            _globs(match.methods),
            _globs(match.models),
            _globs(match.providers),
            _globs(match.hints),
            _globs(match.tools),
            {at: Automaton(compiled(text), anywhere=True) for at, text in pointers.items()},
        )
        if is_about_content(rule):
            programs = [compiled(pattern) for pattern in rule.patterns or ()]
            patterns = tuple((program, Automaton(program)) for program in programs)
            self._content.append((each, ContentRule(rule, patterns)))
        elif is_about_tools(rule):
            self._tools.append(each)
        else:
            self._requests.append(each)


#: No rules: everything may happen.
NO_RULES = Rules()


def is_about_tools(rule: PolicyRule) -> bool:
    """Whether a rule is about tool calls."""
    return rule.match.tools is not UNSET or rule.match.tool_arguments is not UNSET


def is_about_content(rule: PolicyRule) -> bool:
    """Whether a rule is about the content of answers."""
    return rule.patterns is not UNSET


def reason_of(rule: PolicyRule) -> str:
    """Why a rule decides as it does, for people."""
    return rule.reason if isinstance(rule.reason, str) else f"rule {rule.id!r} ({rule.action})"


def check(rule: PolicyRule) -> None:
    """Check what the type of a rule leaves open.

    Raises:
        ValueError: What is wrong with it.
    """
    _check_members(rule)
    for pattern in rule.patterns or ():
        _check_content(pattern)
    for pointer, pattern in (rule.match.tool_arguments or {}).items():
        if pointer and not pointer.startswith("/"):
            raise ValueError(f"{pointer!r} is no JSON Pointer: it begins with `/`")
        _program(pattern)


def _check_members(rule: PolicyRule) -> None:
    action = rule.action
    for name, actions in _MEMBERS.items():
        if getattr(rule, name) is not UNSET and action not in actions:
            raise ValueError(f"`{name}` is for {' and '.join(map(repr, actions))}")
    if action == "cap" and all(getattr(rule, name) is UNSET for name in _BOUNDS):
        raise ValueError(f"'cap' needs one of {', '.join(f'`{name}`' for name in _BOUNDS)}")
    if action == "redact" and not is_about_content(rule):
        raise ValueError("'redact' needs `patterns`")
    if is_about_tools(rule) and is_about_content(rule):
        raise ValueError("`patterns` are looked for in answers, and not in tool calls alone")
    if is_about_tools(rule) and action not in ("allow", "deny", "require_approval"):
        raise ValueError(f"{action!r} is not for tools; match without them")


def _check_content(pattern: str) -> None:
    program = _program(pattern)
    if not program.shortest:
        raise ValueError(f"the pattern {pattern!r} matches the empty text")
    if program.longest > MAX_MATCH_CHARS:
        raise ValueError(
            f"the pattern {pattern!r} may match more than {MAX_MATCH_CHARS} characters;"
            " bound its repeats, such as `{1,64}` for `+`"
        )


def _program(pattern: str) -> Program:
    try:
        return compiled(pattern)
    except ValueError as error:
        raise ValueError(f"the pattern {pattern!r} is refused: {error}") from None


def _globs(globs: Sequence[str] | UnsetType) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, globs))) if globs else None


def _any(globs: re.Pattern[str] | None, name: str) -> bool:
    return globs is None or globs.match(name) is not None


def _least(mine: Limit | None, its: float | UnsetType, rule: PolicyRule) -> Limit | None:
    if isinstance(its, UnsetType) or (mine is not None and mine.value <= its):
        return mine
    return Limit(its, rule)


def _text_at(value: Any, pointer: str) -> str | None:
    """What stands at a JSON Pointer (RFC 6901), as text; ``None`` where there is nothing."""
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = cast("dict[str, Any]", value)[name]
        elif isinstance(value, list) and re.fullmatch("0|[1-9][0-9]{0,8}", name):
            items = cast("list[Any]", value)  # type: ignore[redundant-cast]  # pyright needs it
            if int(name) >= len(items):
                return None
            value = items[int(name)]
        else:
            return None
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
