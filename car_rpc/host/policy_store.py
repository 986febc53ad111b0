"""The rules of policies: those of the configuration, and a row of the state directory's database.

What one process stores holds in all of them. The rules of the configuration come first, and only a
change of the configuration changes them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from car_rpc.database import Database
from car_rpc.errors import CarError, invalid_params
from car_rpc.policy.rules import Rules
from car_rpc.wire.policy import MAX_RULES, ListedPolicyRule, PolicyOrigin, PolicyRule

_SCHEMA = """
CREATE TABLE IF NOT EXISTS policy (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0), rules TEXT NOT NULL
) STRICT;
"""


class PolicyStore:
    """The rules.

    Args:
        path: The database file.
        configured: The rules of the configuration.

    Raises:
        CarError: ``io_error`` when the database cannot be used, or holds rules that this version
            cannot read; so do all methods. Nothing runs without its rules.
    """

    def __init__(self, path: Path, configured: Sequence[PolicyRule]) -> None:
        self._database = Database(path, _SCHEMA)
        self._configured = configured
        #: The rules of the configuration alone, which also bind the methods that change rules.
        self.configured = Rules(configured)
        self._read = ("", self.configured)

    def current(self) -> Rules:
        """The rules as they hold now."""
        text = _text(self._database.read("SELECT rules FROM policy"))
        if text != self._read[0]:
            self._read = (text, Rules([*self._configured, *_decoded(text)]))
        return self._read[1]

    def all(self) -> list[ListedPolicyRule]:
        """Every rule, in the order in which they are asked."""
        stored = _decoded(_text(self._database.read("SELECT rules FROM policy")))
        return [
            *(_listed(rule, "configuration") for rule in self._configured),
            *(_listed(rule, "set") for rule in stored),
        ]

    def put(self, rules: Sequence[PolicyRule]) -> None:
        """Store rules. May wait for other processes: not for the event loop.

        Raises:
            CarError: ``invalid_params`` for a rule that makes no sense or an id that stands twice,
                ``conflict`` for one of the configuration.
        """
        for number, rule in enumerate(rules):
            self._check(rule, [other.id for other in rules[:number]], f"$.rules[{number}]")
        with self._database.transaction() as writer:
            known = {rule.id: rule for rule in _stored(writer)}
            known.update({rule.id: rule for rule in rules})
            if len(known) > MAX_RULES:
                detail = f"there would be {len(known)} rules, and at most {MAX_RULES} are kept"
                raise invalid_params(f"{detail}; `policy.remove` removes some", "$.rules")
            _store(writer, known.values())

    def remove(self, rule_id: str) -> None:
        """Remove a rule. May wait for other processes: not for the event loop.

        Raises:
            CarError: ``not_found``, or ``conflict`` for a rule of the configuration.
        """
        self._refuse_configured(rule_id)
        with self._database.transaction() as writer:
            rules = _stored(writer)
            kept = [rule for rule in rules if rule.id != rule_id]
            if len(kept) == len(rules):
                detail = f"the rule {rule_id!r}; `policy.list` shows all"
                raise CarError("not_found", detail, rule_id=rule_id)
            _store(writer, kept)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _check(self, rule: PolicyRule, earlier: Sequence[str], path: str) -> None:
        self._refuse_configured(rule.id)
        if rule.id in earlier:
            raise invalid_params(f"the id {rule.id!r} stands twice", f"{path}.id")
        try:
            Rules([rule])
        except ValueError as error:
            raise invalid_params(str(error), path) from None

    def _refuse_configured(self, rule_id: str) -> None:
        if any(rule.id == rule_id for rule in self._configured):
            raise CarError(
                "conflict",
                f"the rule {rule_id!r} is one of the configuration; change it there",
                rule_id=rule_id,
            )


def _listed(rule: PolicyRule, origin: PolicyOrigin) -> ListedPolicyRule:
    members = {name: getattr(rule, name) for name in rule.__struct_fields__}
    return ListedPolicyRule(**members, origin=origin)


def _stored(writer: sqlite3.Connection) -> list[PolicyRule]:
    return _decoded(_text(writer.execute("SELECT rules FROM policy").fetchall()))


def _store(writer: sqlite3.Connection, rules: Any) -> None:
    text = msgspec.json.encode(list(rules)).decode()
    writer.execute("INSERT OR REPLACE INTO policy VALUES (0, ?)", (text,))


def _text(rows: Sequence[tuple[Any, ...]]) -> str:
    return str(rows[0][0]) if rows else ""


def _decoded(text: str) -> list[PolicyRule]:
    try:
        return msgspec.json.decode(text, type=list[PolicyRule]) if text else []
    except msgspec.DecodeError as error:
        raise CarError(
            "io_error",
            f"the rules that were set cannot be read by this version ({error}); update car-rpc",
        ) from None
