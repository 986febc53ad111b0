"""The states of a connection and what may happen in each.

``new`` until ``initialize`` was accepted, ``ready`` while it serves, ``draining`` from
``shutdown`` on, ``closed`` when nothing is read any more.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

State: TypeAlias = Literal["new", "ready", "draining", "closed"]
Step: TypeAlias = Literal["initialize", "shutdown", "close"]

TRANSITIONS: dict[tuple[State, Step], State] = {
    ("new", "initialize"): "ready",
    ("ready", "shutdown"): "draining",
    ("draining", "shutdown"): "draining",
    ("new", "close"): "closed",
    ("ready", "close"): "closed",
    ("draining", "close"): "closed",
    ("closed", "close"): "closed",
}

#: Requests that a state lets in; ``None`` means all.
ALLOWED_REQUESTS: dict[State, frozenset[str] | None] = {
    "new": frozenset({"initialize", "ping"}),
    "ready": None,
    "draining": frozenset({"ping", "shutdown", "runner.event"}),
    "closed": frozenset(),
}

#: The error kind that a refused request gets.
REFUSAL: dict[State, str] = {
    "new": "not_initialized",
    "ready": "internal",
    "draining": "shutting_down",
    "closed": "shutting_down",
}
