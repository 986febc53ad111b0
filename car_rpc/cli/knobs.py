"""Show the configuration to a person: every knob with its value, its default and its effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import UNSET

from car_rpc.host.configuration import Configuration, knobs
from car_rpc.spec.docstrings import describe


def described(path: Path, configuration: Configuration) -> Iterator[str]:
    """Lines for people, which read as TOML.

    Args:
        path: The configuration file.
        configuration: The values that count.
    """
    yield f"# {path}" + ("" if path.exists() else " (there is none: these are the defaults)")
    section = ""
    for knob in knobs():
        if knob.section != section:
            section = knob.section
            yield f"\n[{section}]"
        values = getattr(configuration, section)
        _, effects = describe(type(values))
        value, default = (getattr(each, knob.name) for each in (values, type(values)()))
        yield f"# {effects[knob.name]} {knob.variable}"
        if value is UNSET or value is None:
            yield f"# {knob.name} is not set"
        elif value == default:
            yield f"# {knob.name} = {toml(value)}"
        else:
            yield f"{knob.name} = {toml(value)}  # instead of {toml(default)}"
    for rule in configuration.policy:
        yield "\n[[policy]]"
        for name, value in msgspec.to_builtins(rule).items():
            yield f"{name} = {toml(value)}"


def toml(value: object) -> str:
    """A value as the file has it."""
    if value is UNSET or value is None:
        return "(not set)"
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return "{" + ", ".join(f"{toml(n)} = {toml(v)}" for n, v in members.items()) + "}"
    # JSON's numbers, texts, booleans and arrays are TOML's, too.
    return msgspec.json.encode(value).decode()
